"""Reading a cohort the way training and evaluation both want it: the subjects that have the variant's contrasts, clipped as the settings
say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from distsynth.modalities import Variant, channels
from preprocess.cohort import BACKGROUND, Cohort
from preprocess.shared.errors import StoreError

External = tuple[Cohort, list[str]]


@dataclass(frozen=True)
class Opened:
    """What a run reads, opened and checked before its work starts."""

    cohort: Cohort
    externals: dict[str, External]
    left_out: str = ""


def open_cohort(store: str, variant: Variant, fold: int = 0, incomplete: bool = False) -> Cohort:
    """The subjects of a store that have every contrast of the variant, or where `incomplete` subjects will do at least two of them.

    Raises StoreError if there is none.
    """
    cohort = enough(Cohort.open(store, fold), variant, incomplete)
    if not cohort.subjects:
        raise StoreError(
            f"no subject of cohort {store} has {'two' if incomplete else 'all'} of {', '.join(variant.modalities)}: "
            "choose another variant or cohort"
        )
    return cohort


def enough(cohort: Cohort, variant: Variant, incomplete: bool) -> Cohort:
    """Without the subjects that a training does not take."""
    return cohort.having(variant.modalities, at_least=2 if incomplete else None)


def scored(cohort: Cohort, subjects: Sequence[str], variant: Variant) -> list[str]:
    """Those of the subjects whom a model is scored on: who have every contrast of the variant, the same for all methods; or where nobody has,
    as in cohorts that lack different contrasts, who have its inputs and some of its outputs, on those."""
    have = {subject: set(cohort.record(subject).modalities) for subject in subjects}
    complete = [subject for subject in subjects if have[subject] >= set(variant.modalities)]
    return complete or [s for s in subjects if have[s] >= set(variant.inputs) and have[s] & set(variant.outputs)]


def open_external(store: str, variant: Variant) -> tuple[Cohort, list[str]]:
    """A cohort that a model was not trained on, and whom of it the model is scored on. Raises StoreError if there is nobody."""
    cohort = Cohort.open(store)
    if subjects := scored(cohort, cohort.subjects, variant):
        return cohort, subjects
    raise StoreError(
        f"no subject of cohort {store} has {', '.join(variant.inputs)} and one of {', '.join(variant.outputs)}: "
        "choose another variant or cohort"
    )


def left_out(store: str, variant: Variant, fold: int = 0, incomplete: bool = False, tumours: bool = False) -> str:
    """One sentence on the subjects that `open_cohort` leaves out, on those who lack a contrast and are taken, and where the method learns from
    `tumours` on those who have no segmentation; nothing if there are none."""
    whole = Cohort.open(store, fold)
    taken, complete = enough(whole, variant, incomplete), enough(whole, variant, incomplete=False)
    lacking, partial = len(whole.subjects) - len(taken.subjects), len(taken.subjects) - len(complete.subjects)
    said = f"{len(whole.subjects)} subjects of {store}"
    told = []
    if lacking:
        what = "have fewer than two contrasts" if incomplete else "lack a contrast"
        told.append(f"{lacking} of {said} {what} of variant {variant.name} and are left out")
    if partial:
        among = f"{partial} more lack" if lacking else f"{partial} of {said} lack"
        told.append(
            f"{among} a contrast of variant {variant.name}: what they have is trained on, and they are scored only in a split that has no others"
        )
    training = [*taken.split("segmentor"), *taken.split("gan")] if tumours else []
    if unlabelled := sum(not taken.record(subject).has_labels for subject in training):
        told.append(
            f"{unlabelled} of {len(training)} training subjects have no segmentation, from which the method learns, and are left out"
        )
    return "; ".join(told)


def read_image(
    cohort: Cohort, subject: str, modalities: Sequence[str], clip: bool, incomplete: bool = False
) -> npt.NDArray[np.float32]:
    """(modality, z, y, x) z-scores of the subject, background -9, clipped at the record's bounds where `clip` is true; a contrast that it
    lacks is background throughout where `incomplete` is true.

    Raises StoreError if the subject lacks a modality or its image is damaged.
    """
    record, whole = cohort.record(subject), cohort.image(subject)
    if incomplete:
        image = np.full((len(modalities), *whole.shape[1:]), BACKGROUND, np.float32)
        there = [i for i, modality in enumerate(modalities) if modality in record.modalities]
        image[there] = whole[channels(record.modalities, [modalities[i] for i in there])]
    else:
        image = whole[channels(record.modalities, modalities)]
    for channel, modality in zip(image, modalities, strict=True):
        if clip and modality in record.intensity:
            inside, bounds = channel != BACKGROUND, record.intensity[modality]
            channel[inside] = np.clip(channel[inside], bounds["clip_low"], bounds["clip_high"])
    return image

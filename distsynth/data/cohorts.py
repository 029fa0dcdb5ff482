"""Cohorts as training and evaluation read them: the subjects that have the variant's contrasts, clipped as the settings say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from distsynth.modalities import Variant, channels
from preprocess.cohort import BACKGROUND, Cohort
from preprocess.shared.errors import StoreError


class External(NamedTuple):
    """A cohort that a model was not trained on, and its subjects that the model is scored on."""

    cohort: Cohort
    subjects: list[str]


@dataclass(frozen=True)
class Opened:
    """What a run reads, opened and checked before its work starts (see `distsynth.preflight`). It can be pickled."""

    cohort: Cohort  # the subjects that the training takes
    externals: dict[str, External]  # by their names in `data.external`
    left_out: str = ""  # one sentence on the subjects that the training does not take, or nothing


class Cohorts:
    """Cohorts that are opened once, however many runs, folds and variants ask for them."""

    def __init__(self) -> None:
        self.opened: dict[Path, Cohort] = {}

    def open(self, store: str, fold: int = 0) -> Cohort:
        """All subjects of a store. Raises StoreError (see `Cohort.open`)."""
        place = Path(store).resolve()
        if place not in self.opened:
            self.opened[place] = Cohort.open(store, fold)
        return self.opened[place].in_fold(fold)


def trained_on(cohort: Cohort, variant: Variant, incomplete: bool = False) -> Cohort:
    """The subjects that a training takes: those that have every contrast of the variant, or where `incomplete` ones will do at least two.

    Raises StoreError if there is none.
    """
    chosen = enough(cohort, variant, incomplete)
    if not chosen.subjects:
        raise StoreError(
            f"no subject of cohort {cohort.path} has {'two' if incomplete else 'all'} of {', '.join(variant.modalities)}: "
            "choose another variant or cohort"
        )
    return chosen


def enough(cohort: Cohort, variant: Variant, incomplete: bool) -> Cohort:
    """Without the subjects that a training does not take."""
    return cohort.having(variant.modalities, at_least=2 if incomplete else None)


def scored(cohort: Cohort, subjects: Sequence[str], variant: Variant) -> list[str]:
    """Those of the subjects that a model is scored on: the ones with every contrast of the variant, the same for all methods; where none has,
    as in cohorts that lack different contrasts, the ones with its inputs and some of its outputs, on those outputs."""
    have = {subject: set(cohort.record(subject).modalities) for subject in subjects}
    complete = [subject for subject in subjects if have[subject] >= set(variant.modalities)]
    return complete or [s for s in subjects if have[s] >= set(variant.inputs) and have[s] & set(variant.outputs)]


def external(cohort: Cohort, variant: Variant) -> External:
    """A cohort with its subjects that a model is scored on. Raises StoreError if there is none."""
    if subjects := scored(cohort, cohort.subjects, variant):
        return External(cohort, subjects)
    raise StoreError(
        f"no subject of cohort {cohort.path} has {', '.join(variant.inputs)} and one of {', '.join(variant.outputs)}: "
        "choose another variant or cohort"
    )


def left_out(cohort: Cohort, variant: Variant, incomplete: bool = False, tumours: bool = False) -> str:
    """One sentence on the subjects that `trained_on` leaves out, on those that lack a contrast and are taken, and where the method learns from
    `tumours` on those that have no segmentation; nothing if there are none."""
    used, complete = enough(cohort, variant, incomplete), enough(cohort, variant, incomplete=False)
    lacking, partial = len(cohort.subjects) - len(used.subjects), len(used.subjects) - len(complete.subjects)
    of_all = f"{len(cohort.subjects)} subjects of {cohort.path}"
    parts = []
    if lacking:
        what = "have fewer than two contrasts" if incomplete else "lack a contrast"
        parts.append(f"{lacking} of {of_all} {what} of variant {variant.name} and are left out")
    if partial:
        among = f"{partial} more lack" if lacking else f"{partial} of {of_all} lack"
        parts.append(
            f"{among} a contrast of variant {variant.name}: they are trained on what they have, and scored only where a split has no complete ones"
        )
    training = [*used.split("segmentor"), *used.split("gan")] if tumours else []
    if unlabelled := sum(not used.record(subject).has_labels for subject in training):
        parts.append(
            f"{unlabelled} of {len(training)} training subjects have no segmentation, from which the method learns, and are left out"
        )
    return "; ".join(parts)


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
            clip_inside(channel, record.intensity[modality])
    return image


def clip_inside(channel: npt.NDArray[np.float32], bounds: Mapping[str, float]) -> None:
    """Clip z-scores in place at a record's bounds; background stays."""
    inside = channel != BACKGROUND
    channel[inside] = np.clip(channel[inside], bounds["clip_low"], bounds["clip_high"])

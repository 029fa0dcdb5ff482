"""Reading a cohort the way training and evaluation both want it: the subjects that have the variant's contrasts, clipped as the settings
say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from distsynth.modalities import Variant, channels
from preprocess.cohort import BACKGROUND, Cohort
from preprocess.errors import StoreError


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


def left_out(store: str, variant: Variant, fold: int = 0, incomplete: bool = False) -> str:
    """One sentence on the subjects that `open_cohort` leaves out, and on those who are trained on alone; nothing if there are none."""
    whole = Cohort.open(store, fold)
    taken, scored = enough(whole, variant, incomplete), enough(whole, variant, incomplete=False)
    lacking, alone = len(whole.subjects) - len(taken.subjects), len(taken.subjects) - len(scored.subjects)
    said = f"{len(whole.subjects)} subjects of {store}"
    told = []
    if lacking:
        what = "have fewer than two contrasts" if incomplete else "lack a contrast"
        told.append(f"{lacking} of {said} {what} of variant {variant.name} and are left out")
    if alone:
        among = f"{alone} more lack" if lacking else f"{alone} of {said} lack"
        told.append(f"{among} a contrast of variant {variant.name}: what they have is trained on, and they are not scored")
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

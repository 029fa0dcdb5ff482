"""Reading a cohort the way training and evaluation both want it: the subjects that have the variant's contrasts, clipped as the settings
say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from distsynth.modalities import Variant, channels
from preprocess.cohort import BACKGROUND, Cohort
from preprocess.errors import StoreError


def open_cohort(store: str, variant: Variant, fold: int = 0) -> Cohort:
    """The subjects of a store that have every contrast of the variant. Raises StoreError if there is none."""
    whole = Cohort.open(store, fold)
    cohort = whole.having(variant.modalities)
    if not cohort.subjects:
        raise StoreError(
            f"no subject of cohort {store} has all of {', '.join(variant.modalities)}: choose another variant or cohort"
        )
    return cohort


def left_out(store: str, variant: Variant, fold: int = 0) -> str:
    """One sentence on the subjects that `open_cohort` leaves out, or nothing."""
    whole = Cohort.open(store, fold)
    lacking = len(whole.subjects) - len(whole.having(variant.modalities).subjects)
    if not lacking:
        return ""
    return f"{lacking} of {len(whole.subjects)} subjects of {store} lack a contrast of variant {variant.name} and are left out"


def read_image(cohort: Cohort, subject: str, modalities: Sequence[str], clip: bool) -> npt.NDArray[np.float32]:
    """(modality, z, y, x) z-scores of the subject, background -9, clipped at the record's bounds where `clip` is true.

    Raises StoreError if the subject lacks a modality or its image is damaged.
    """
    image = cohort.image(subject)[channels(cohort.record(subject).modalities, modalities)]
    if not clip:
        return image
    bounds = cohort.record(subject).intensity
    for channel, modality in zip(image, modalities, strict=True):
        inside = channel != BACKGROUND
        channel[inside] = np.clip(channel[inside], bounds[modality]["clip_low"], bounds[modality]["clip_high"])
    return image

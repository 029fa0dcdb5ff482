"""Reading a subject the way training and evaluation both want it: chosen modalities, clipped as the settings say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from distsynth.modalities import channels
from preprocess.cohort import BACKGROUND, Cohort


def read_image(cohort: Cohort, subject: str, modalities: Sequence[str], clip: bool) -> npt.NDArray[np.float32]:
    """(modality, z, y, x) z-scores of the subject, background -9, clipped at the record's bounds where `clip` is true."""
    image = cohort.image(subject)[channels(cohort.modalities, modalities)]
    if not clip:
        return image
    bounds = cohort.record(subject).intensity
    for channel, modality in zip(image, modalities, strict=True):
        inside = channel != BACKGROUND
        channel[inside] = np.clip(channel[inside], bounds[modality]["clip_low"], bounds[modality]["clip_high"])
    return image

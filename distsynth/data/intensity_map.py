"""One affine map per modality between z-scores and the [-1, 1] of networks that end in tanh.

It comes from the training cohort and is stored with the run; it never comes from the volume to synthesise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from preprocess.cohort import BACKGROUND, Cohort

Volume = npt.NDArray[np.float32]


@dataclass(frozen=True)
class IntensityMap:
    """Per modality the z-scores `low` and `high` that are mapped to -1 and 1."""

    low: dict[str, float]
    high: dict[str, float]

    @classmethod
    def of(cls, cohort: Cohort, subjects: Sequence[str], clip: bool = True) -> IntensityMap:
        """The widest bounds of all training subjects, so that no training intensity saturates: the bounds of the clip, or without a clip those
        of the images. Raises StoreError if an image that has to be read is damaged."""
        bounds = [bounds_of(cohort, subject, clip) for subject in subjects]
        by_modality = {m: [b[m] for b in bounds if m in b] for m in cohort.modalities}
        return cls(
            low={m: float(min(low for low, _ in pairs)) for m, pairs in by_modality.items() if pairs},
            high={m: float(max(high for _, high in pairs)) for m, pairs in by_modality.items() if pairs},
        )

    def to_network(self, z: Volume, modalities: Sequence[str], saturate: bool = True) -> Volume:
        """(len(modalities), ...) z-scores as [-1, 1]; background becomes exactly -1, and so does anything below the map.

        Without `saturate` intensities outside the map stay outside [-1, 1], as needed for a truth to compare with.
        """
        low, span = self._columns(modalities, z.ndim)
        value = (z - low) / span * 2 - 1
        return np.where(z == BACKGROUND, np.float32(-1), np.clip(value, -1, 1) if saturate else value).astype(np.float32)

    def to_z(self, value: Volume, modalities: Sequence[str]) -> Volume:
        """(len(modalities), ...) network values in [-1, 1] as z-scores."""
        low, span = self._columns(modalities, value.ndim)
        return ((value + 1) / 2 * span + low).astype(np.float32)

    def _columns(self, modalities: Sequence[str], ndim: int) -> tuple[Volume, Volume]:
        shape = (-1,) + (1,) * (ndim - 1)
        low = np.array([self.low[m] for m in modalities], np.float32).reshape(shape)
        high = np.array([self.high[m] for m in modalities], np.float32).reshape(shape)
        return low, high - low


def bounds_of(cohort: Cohort, subject: str, clip: bool) -> dict[str, tuple[float, float]]:
    """The lowest and highest z-score of each of a subject's contrasts, as training reads them."""
    record = cohort.record(subject)
    if clip:
        return {m: (bounds["clip_low"], bounds["clip_high"]) for m, bounds in record.intensity.items()}
    inside = [channel[channel != BACKGROUND] for channel in cohort.image(subject)]
    return {m: (float(values.min()), float(values.max())) for m, values in zip(record.modalities, inside, strict=True)}

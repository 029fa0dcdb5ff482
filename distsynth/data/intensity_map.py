"""The one affine map per modality between z-scores and the [-1, 1] of networks that end in tanh.

It is taken from the training cohort and stored with the run, never from the volume that is to be synthesised.
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
    """Per modality the z-scores `low` and `high` that become -1 and 1."""

    low: dict[str, float]
    high: dict[str, float]

    @classmethod
    def of(cls, cohort: Cohort, subjects: Sequence[str]) -> IntensityMap:
        """The widest clip bounds among the training subjects, so that no clipped training intensity saturates."""
        bounds = [cohort.record(subject).intensity for subject in subjects]
        held = {m: [b[m] for b in bounds if m in b] for m in cohort.modalities}
        return cls(
            low={m: float(min(b["clip_low"] for b in found)) for m, found in held.items() if found},
            high={m: float(max(b["clip_high"] for b in found)) for m, found in held.items() if found},
        )

    def to_network(self, z: Volume, modalities: Sequence[str], saturate: bool = True) -> Volume:
        """(len(modalities), ...) z-scores as [-1, 1]; background becomes exactly -1, and so does what lies below the map.

        Without `saturate` intensities beyond the map stay beyond it, as a truth to compare with must.
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

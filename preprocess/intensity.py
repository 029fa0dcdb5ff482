"""Intensities: clip bounds and z-scores, both inside the brain mask, and the value that marks background."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Volume = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

BACKGROUND = -9.0


@dataclass(frozen=True)
class Statistics:
    """One modality of one subject, in source units after bias correction."""

    raw_low: float
    raw_high: float
    mean: float
    std: float

    def record(self) -> dict[str, float]:
        """What the store keeps; `clip_low` and `clip_high` are the bounds as z-scores."""
        bounds = {"clip_low": (self.raw_low - self.mean) / self.std, "clip_high": (self.raw_high - self.mean) / self.std}
        return {**vars(self), **bounds}


def statistics(volume: Volume, mask: Mask, clip_percent: float) -> Statistics:
    """Percentiles of the intensities inside the mask, and mean and standard deviation of the clipped ones.

    Percentiles of the whole volume would clip most of a bright lesion. Raises ValueError if both are equal.
    """
    inside = volume[mask].astype(np.float64)
    low, high = np.percentile(inside, [clip_percent, 100 - clip_percent])
    if not high > low:
        raise ValueError(f"{100 - 2 * clip_percent:g} % of the brain has the same intensity, {low:g}")
    clipped = np.clip(inside, low, high)
    return Statistics(float(low), float(high), float(clipped.mean()), float(clipped.std()))


def normalise(volume: Volume, mask: Mask, stats: Statistics, dtype: Any) -> npt.NDArray[Any]:
    """Unclipped z-scores in `dtype`, background exactly -9; a brain voxel that would be -9 gets the next larger number.

    A z-score beyond the range of `dtype` (an erroneous 32767 can be thousands of deviations away) becomes its largest number.
    """
    limit = float(np.finfo(dtype).max)
    z = np.clip((volume - stats.mean) / stats.std, -limit, limit).astype(dtype)
    z[z == BACKGROUND] = np.nextafter(np.array(BACKGROUND, dtype), np.array(0, dtype))
    z[~mask] = BACKGROUND
    return np.asarray(z)


def clip_share(volume: Volume, labels: npt.NDArray[np.uint8], stats: Statistics) -> dict[str, float]:
    """By label, the share of its voxels that the clip changes: in real gliomas most of the clipped 1 % is lesion."""
    outside = (volume < stats.raw_low) | (volume > stats.raw_high)
    return {str(label): float(outside[labels == label].mean()) for label in present(labels)}


def present(labels: npt.NDArray[np.uint8]) -> list[int]:
    """The labels above 0 that occur, in order."""
    return [int(label) for label in np.flatnonzero(np.bincount(labels.ravel(), minlength=1)) if label]


def quality(volume: Volume, mask: Mask) -> dict[str, float]:
    """Signs of an odd contrast, from its intensities as scanned and the brain mask of all contrasts, both (z, y, x).

    `minimum` and `maximum` in the brain; `outside`, the share of the brain where this contrast is exactly 0, as if it had another mask;
    `constant_slices`, the number of axial slices where all brain voxels have the same intensity.
    """
    inside = [volume[z][mask[z]] for z in np.flatnonzero(mask.any(axis=(1, 2)))]
    constant = sum(len(values) > 1 and bool(np.ptp(values) == 0) for values in inside)
    brain = np.concatenate(inside)
    return {
        "minimum": float(brain.min()),
        "maximum": float(brain.max()),
        "outside": float((brain == 0).mean()),
        "constant_slices": float(constant),
    }

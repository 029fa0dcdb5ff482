"""What of a contrast is background: one rule for all. In what leaves here background is exactly 0.

Background is one constant, most often 0; a second one where a volume was padded; NaN; and what lies close around these and is connected to the
border of the volume, as interpolation and integer storage leave it around a brain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Volume = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

CLOSE = 1e-3  # share of the brain's level around the constant that is background too
ON_BORDER = 0.5  # share of the border that shows the constant
IN_VOLUME = 1 / 3  # share of all voxels, or of those that are not the first constant, that is a constant of its own
STEP = 3  # every third voxel along each axis is enough to know levels and shares
BRIGHT = 0.1  # share of the brightest intensities above which a voxel is surely not background


def zeroed(volume: Volume, step: float) -> tuple[Volume, list[float], int]:
    """(z, y, x) intensities with their background set to 0, the constants that it was, and the number of NaN and infinite voxels in the brain.

    `step` is the distance between two intensities that the file can hold; 0 for floating-point voxels. The volume is returned itself where
    its background is exactly 0 already.
    """
    constants = constants_of(volume)
    reach = [max(0.5 * step, CLOSE * level(volume, constant, constants)) for constant in constants]
    if constants == [0.0] and step > reach[0]:  # nothing but 0 itself can be close to it
        return volume, constants, 0
    other = np.logical_and.reduce([volume != np.float32(constant) for constant in constants])
    values = volume[other]
    close = ~np.isfinite(values)
    beyond = bool(close.any())
    for constant, near in zip(constants, reach, strict=True):
        close |= np.abs(values - np.float32(constant)) <= near
    if constants == [0.0] and not close.any():
        return volume, constants, 0
    brain = other.copy()
    if close.any():
        candidates = ~other
        candidates[other] = close
        brain &= ~on_the_border(candidates)
    made = np.where(brain, volume, np.float32(0))
    if 0.0 not in constants:  # an intensity of 0 in the brain would be taken for background
        intensities = volume[brain & np.isfinite(volume)].astype(np.float64)
        made[brain & (volume == 0)] = 1e-6 * (intensities.std() if len(intensities) else 0)
    return made, constants, int((~np.isfinite(made)).sum()) if beyond else 0


def constants_of(volume: Volume) -> list[float]:
    """The intensities that mark background; 0 if none stands out."""
    sample = volume[::STEP, ::STEP, ::STEP].ravel()
    sample = sample[np.isfinite(sample)]
    first = marked(border(volume), ON_BORDER)
    first = marked(sample, IN_VOLUME) if first is None else first
    if first is None:
        return [0.0]
    rest = sample[sample != first]
    second = marked(rest, IN_VOLUME)
    if second is None or second == rest.max():  # a third of a brain may be saturated, or all of it one intensity
        return [first]
    return [first, second]


def border(volume: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The finite voxels of the six faces."""
    faces = [face.ravel() for axis in range(3) for face in (volume.take(0, axis), volume.take(-1, axis))]
    values = np.concatenate(faces)
    return np.asarray(values[np.isfinite(values)])


def marked(values: Volume, share: float) -> float | None:
    """The most frequent value, if more than the share of all have it."""
    if not len(values):
        return None
    if (values == 0).mean() > share:
        return 0.0
    # the value that more than a third of all have stands at one of these places of the sorted values
    places = np.linspace(0, len(values) - 1, 9).astype(int)
    found = [(float((values == value).mean()), float(value)) for value in np.unique(np.partition(values, places)[places])]
    most, value = max(found)
    return value if most > share else None


def level(volume: Volume, constant: float, constants: Sequence[float]) -> float:
    """The typical distance of a brain's intensities from a constant of background: the median of all that are not close to it."""
    values = volume[::STEP, ::STEP, ::STEP].ravel()
    values = values[np.isfinite(values) & ~np.isin(values, np.array(constants, np.float32))]
    return typical(np.abs(values - np.float32(constant)))


def typical(distances: npt.NDArray[Any]) -> float:
    """The median of distances from the background that are not close to 0; 0 without any. One voxel in twenty may be an outlier."""
    return float(np.median(distances[distances >= BRIGHT * np.percentile(distances, 95)])) if len(distances) else 0.0


def on_the_border(mask: Mask) -> Mask:
    """The parts of the mask that are connected, face to face, to the border of the volume."""
    from scipy.ndimage import label

    parts, _ = label(mask)
    touching = np.zeros(parts.max() + 1, bool)
    touching[np.unique(border(parts))] = True
    touching[0] = False
    return np.asarray(touching[parts])

"""A brain in crops of the training's size: one where it fits, else overlapping ones that are blended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import numpy.typing as npt

from preprocess.geometry import Mask

Volume = npt.NDArray[np.float32]
Corner = tuple[int, ...]
OVERLAP = 0.25  # of a crop's side, at least


def blended(
    brain: Mask, offset: Sequence[int], shape: Sequence[int], make: Callable[[Corner, Corner], Volume]
) -> tuple[Corner, Volume]:
    """What `make` (first voxel, shape of a crop, -> (outputs, z, y, x)) makes of a brain (z, y, x), and the first voxel of it.

    A brain that fits in the crop of `shape` at `offset` gets that crop. In y and x a larger one gets overlapping crops of that size, whose
    weights fall linearly towards their edges; in z it gets one longer crop, since networks take any number of slices.
    """
    spans = [np.flatnonzero(brain.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    axes = [starts(int(span[0]), int(span[-1]) + 1, o, s) for span, o, s in zip(spans, offset, shape, strict=True)]
    sides = tuple(shape)
    if len(axes[0]) > 1:
        first, end = int(spans[0][0]), int(spans[0][-1]) + 1
        axes[0], sides = [first], (end - first, *shape[1:])
    corners = list(product(*axes))
    if len(corners) == 1:
        return corners[0], make(corners[0], sides)
    return corners[0], mean(corners, sides, make)


def starts(first: int, end: int, offset: int, size: int) -> list[int]:
    """Where crops of `size` voxels begin that cover an axis from `first` to before `end`: at `offset` if one is enough."""
    if offset <= first and end <= offset + size:
        return [offset]
    most = max(1, int(size * (1 - OVERLAP)))  # voxels from one crop to the next
    count = 1 + max(1, -(-(end - first - size) // most))
    return [int(start) for start in np.round(np.linspace(first, end - size, count))]


def mean(corners: Sequence[Corner], sides: Corner, make: Callable[[Corner, Corner], Volume]) -> Volume:
    """The weighted mean of crops that begin at `corners`, from the first corner to the end of the last."""
    extent = [last - first + side for first, last, side in zip(corners[0], corners[-1], sides, strict=True)]
    weight: Volume = np.minimum.outer(ramp(sides[1]), ramp(sides[2]))
    weights, total = np.zeros(extent[1:], np.float32), None
    for corner in corners:
        made = make(corner, sides)
        if total is None:
            total = np.zeros((len(made), *extent), np.float32)
        place = tuple(slice(c - f, c - f + s) for c, f, s in zip(corner, corners[0], sides, strict=True))
        total[(slice(None), *place)] += made * weight
        weights[place[1:]] += weight
    assert total is not None
    total /= np.maximum(weights, np.finfo(np.float32).tiny)
    return total


def ramp(size: int) -> Volume:
    """Weights of a crop's voxels along an axis: 1 at the middle, falling linearly towards both edges, never 0."""
    rising = np.arange(1, size + 1)
    return np.asarray(np.minimum(rising, rising[::-1]) / rising[(size - 1) // 2], np.float32)

"""The pieces of a brain mask: the brain itself, and what lies apart from it: burnt-in text, noise in the air, a rest of the head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from preprocess.source.doubts import Doubts

Mask = npt.NDArray[np.bool_]

CELL = 3.0  # mm: pieces are apart if cells of this size between them are empty
SMALL = 0.1  # of the brain, from which on small pieces are more than a blemish
LARGE = 5e-3  # litres, from which on a piece may be a part of the brain, such as a hemisphere or the brainstem
SHELL = 0.3  # of what a head's rest surrounds, by the size of the surrounded piece: an island in a cavity is smaller
HOLES = 0.01  # share of the brain


def brain_pieces(mask: Mask, spacing: Sequence[float], what: str, skull: str, doubts: Doubts) -> Mask:
    """The mask (z, y, x) without small pieces that lie apart from the brain, which is said; `what` names the mask, `spacing` is in mm.

    Raises CaseError if one large piece surrounds another, as a scalp does a brain, or small ones are many; `skull` says what to do.
    """
    from scipy.ndimage import binary_dilation, generate_binary_structure, label

    sides = [max(1, round(CELL / side)) for side in spacing]
    voxels = in_cells(mask, sides)
    if (holes := share_of_holes(mask, voxels, sides)) > HOLES:
        doubts.say("", f"{holes:.0%} of what lies within {what} is background: were dark intensities cut off?")
    parts, count = label(voxels)
    if count <= 1:
        return mask
    sizes = np.bincount(parts.ravel(), voxels.ravel())
    sizes[0] = 0
    large = np.flatnonzero(sizes >= min(LARGE * 1e6 / np.prod(spacing), sizes.max()))
    litres = sorted((sizes[large] * np.prod(spacing) / 1e6).tolist(), reverse=True)
    if len(large) > 1:
        shown = " and ".join(f"{each:.2f}" for each in litres[:3])
        sentence = f"{what} has pieces of {shown} litres that lie apart"
        if surrounds(parts, large, sizes):
            doubts.refuse("", f"{sentence}, one around the other: was a part of the head left?{skull}")
        else:
            doubts.say("", f"{sentence}: is each a part of the brain?")
    near = binary_dilation(np.isin(parts, large), generate_binary_structure(3, 3))  # voxels that touch only at an edge
    if not (voxels[~near] > 0).any():
        return mask
    for axis, side in enumerate(sides):
        near = near.repeat(side, axis)
    kept: Mask = mask & near[tuple(slice(size) for size in mask.shape)]
    lost = np.count_nonzero(mask) - np.count_nonzero(kept)
    sentence = f"{'1 voxel lies' if lost == 1 else f'{lost} voxels lie'} apart from {what}"
    if lost > SMALL * np.count_nonzero(kept):
        doubts.refuse("", f"{sentence}: was a part of the head left, or noise?{skull}")
    else:
        doubts.say("", f"{sentence}: taken as background")
    return kept


def in_cells(mask: Mask, sides: Sequence[int]) -> npt.NDArray[np.uint16]:
    """How many voxels of a mask are in each cell of `sides` voxels; cells at the far ends may be smaller."""
    cells: npt.NDArray[Any] = np.pad(mask, [(0, -size % side) for size, side in zip(mask.shape, sides, strict=True)]).view(
        np.uint8
    )
    for axis, side in enumerate(sides):  # one axis at a time is seven times as fast as all at once
        shape = (*cells.shape[:axis], cells.shape[axis] // side, side, *cells.shape[axis + 1 :])
        cells = np.add.reduce(cells.reshape(shape), axis=axis + 1, dtype=np.uint16)
    return cells


def share_of_holes(mask: Mask, voxels: npt.NDArray[np.uint16], sides: Sequence[int]) -> float:
    """The share of the voxels within a mask that it leaves out, in cells that it half fills and that such cells surround."""
    from scipy.ndimage import binary_erosion

    if min(sides) == 1:
        sides = [max(2, side) for side in sides]
        voxels = in_cells(mask, sides)
    whole = int(np.prod(sides))
    inner = voxels[binary_erosion(2 * voxels >= whole)]
    return float(1 - inner.mean() / whole) if inner.size else 0.0


def surrounds(parts: npt.NDArray[np.integer], large: npt.NDArray[np.integer], sizes: npt.NDArray[Any]) -> bool:
    """Whether the box of one of the `large` parts holds another's that is not much smaller."""
    from scipy.ndimage import find_objects

    found = find_objects(parts)
    boxes = {int(number): found[number - 1] for number in large}
    return any(
        one != other
        and sizes[other] >= SHELL * sizes[one]
        and all(a.start <= b.start and b.stop <= a.stop for a, b in zip(boxes[one], boxes[other], strict=True))
        for one in boxes
        for other in boxes
    )

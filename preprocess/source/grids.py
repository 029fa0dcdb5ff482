"""The grid that a file's header gives: whether two are the same, and whether the header can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from preprocess.geometry import spacing_of
from preprocess.source.doubts import Doubts
from preprocess.source.images import Image
from preprocess.source.layouts import MODALITIES

Affine = npt.NDArray[np.float64]

SAME = 0.05  # mm, by which corners of the same grid may differ, as rounded headers do
TWO_PLACES = 0.1  # of the smallest voxel side, by which qform and sform may differ
TWO_SIZES = 0.01  # share by which pixdim and sform may differ in the voxels' sides
SHEAR = 2e-3  # cosine between two axes of the grid
FAR = 20.0  # mm, from which on a grid without an origin is likely to have lost it
FINEST, COARSEST = 0.1, 20.0  # mm, sides of voxels


def corners(shape: Any, affine: Affine) -> npt.NDArray[np.float64]:
    """(8, 3) the centres in mm of a grid's outermost voxels; `shape` and `affine` are in the order x, y, z."""
    ends = np.array(list(product(*((0, size - 1) for size in shape))), np.float64)
    return np.asarray(ends @ affine[:3, :3].T + affine[:3, 3])


def apart(shape: Any, one: Affine, other: Affine) -> float:
    """How far in mm two affines place a corner of a grid of `shape` (x, y, z) apart, at most."""
    return float(np.linalg.norm(corners(shape, one) - corners(shape, other), axis=1).max())


def same_grid(shape: Any, one: Affine, other_shape: Any, other: Affine) -> bool:
    """Whether two grids have equal shapes and the same corners."""
    return tuple(shape) == tuple(other_shape) and apart(shape, one, other) <= SAME


def has_position(image: Image) -> bool:
    """Whether the file's header says where its voxels lie; MetaImage always does."""
    return image.header is None or bool(image.header["qform_code"] or image.header["sform_code"])


def is_bare(image: Image) -> bool:
    """Whether a file has the affine that libraries write where they were given none: the voxel sizes on the diagonal and no offset."""
    sides = np.abs(np.diag(image.affine))
    return np.allclose(np.abs(image.affine), np.diag(sides), atol=1e-6)


def oriented(image: Image, orientation: str) -> Image:
    """The image with an affine of its voxel sizes and the axes of `orientation`, e.g. LPS, about the centre, if its header gives no position."""
    import nibabel as nib

    if not orientation or (has_position(image) and not is_bare(image)):
        return image
    axes = nib.orientations.axcodes2ornt(orientation)
    affine = np.zeros((4, 4))
    for axis, ((row, sign), size) in enumerate(zip(axes, image.header.get_zooms()[:3], strict=True)):
        affine[int(row), axis] = sign * float(size)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(image.array.shape) - 1) / 2)
    affine[3, 3] = 1
    return Image(image.array, affine, image.dtype, image.scaling, image.file, image.header)


def check_header(kind: str, image: Image, doubts: Doubts) -> None:
    """Say where a header contradicts itself. Raises CaseError for voxel sizes that no scanner has."""
    sides = list(reversed(spacing_of(image.affine)))
    if not FINEST <= min(sides) <= max(sides) <= COARSEST:
        doubts.refuse(kind, f"{image.file}'s header gives voxels of {' x '.join(f'{side:.4g}' for side in sides)} mm: correct it")
    if image.header is None or not image.header["sform_code"]:
        return
    pixdim = [float(side) for side in image.header.get_zooms()[:3]]
    if not np.allclose(pixdim, sides, rtol=TWO_SIZES):
        shown = " and ".join(" x ".join(f"{side:.4g}" for side in each) for each in (pixdim, sides))
        doubts.say(kind, f"the header of {kind} gives two voxel sizes, {shown} mm (pixdim and sform): the sform is used")
        return
    if not image.header["qform_code"]:
        return
    qform, sform = image.header.get_qform(), image.header.get_sform()
    if (far := apart(image.array.shape, qform, sform)) > TWO_PLACES * min(sides):
        doubts.say(kind, f"the header of {kind} gives two positions, {far:.1f} mm apart (qform and sform): the sform is used")


def check_headers(images: Mapping[str, Image], grid: str, registered: bool, orientation: str, doubts: Doubts) -> None:
    """Say if no header gives an orientation and the user names none. Raises CaseError for files without a position beside others that have one,
    but for contrasts that are to be registered; and as `check_header` does."""
    from nibabel.orientations import aff2axcodes

    for kind, image in images.items():
        check_header(kind, image, doubts)
    if sheared := {kind: by for kind, image in images.items() if (by := shear(image.affine)) > SHEAR}:
        doubts.say("", f"the axes of {', '.join(sheared)} are sheared, by {max(sheared.values()):.1%}: distances are approximate")
    nowhere = [kind for kind, image in images.items() if not has_position(image)]
    identical = all(is_bare(image) and (np.diag(image.affine) > 0).all() for image in images.values())
    if (len(nowhere) == len(images) or identical) and not orientation:
        axes = "".join(aff2axcodes(images[grid].affine))
        why = "qform and sform codes are 0" if nowhere else "all are the identity times the voxel size, as libraries write them"
        what = f"no header gives an orientation ({why}): read as {axes}"
        doubts.say("", f"{what}; if that is wrong, give orientation=LPS, for example")
    bare = [kind for kind, image in images.items() if is_bare(image)]
    minority = 2 * len(bare) < len(images)
    good = images.get(next((kind for kind in images if kind not in (*nowhere, *bare)), ""))
    for kind, image in images.items():
        if good and kind in (*nowhere, *bare) and (registered or kind not in MODALITIES):
            same = image.array.shape == good.array.shape
            if kind not in nowhere and not (minority or (same and elsewhere(image, good))):
                continue
            cure = f"if it has the voxel grid of {good.file}, copy that header: fslcpgeom {good.file} {image.file}"
            what = f"{image.file}'s header gives no position and seems to have been lost"
            doubts.refuse(kind, f"{what}: {cure if same else 'export it again with its header'}")


def elsewhere(one: Image, other: Image) -> bool:
    """Whether two grids fill boxes in space that lie far apart, be their axes in another order or direction."""
    boxes = [np.sort(corners(each.array.shape, each.affine), axis=0) for each in (one, other)]
    return bool(np.abs(boxes[0] - boxes[1]).max() > FAR)


def outside(mask: npt.NDArray[np.bool_], affine: Affine, shape: Sequence[int], target: Affine) -> float:
    """The share of a mask's voxels, (z, y, x) on the grid of `affine`, that lies outside the grid of `shape` (z, y, x) and the affine `target`."""
    voxels = np.argwhere(mask)[:, ::-1]
    voxels = voxels[:: max(1, len(voxels) // 100_000)]
    step = np.linalg.inv(target) @ affine
    there = voxels @ step[:3, :3].T + step[:3, 3]
    within = ((there >= -0.5) & (there <= np.array(shape[::-1]) - 0.5)).all(axis=1)
    return 1 - float(within.mean()) if len(voxels) else 0.0


def shear(affine: Affine) -> float:
    """The largest cosine between two axes of a grid, which should be perpendicular."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return float(np.abs(axes.T @ axes - np.eye(3)).max())


def difference(name: str, image: Image, fixed: Image, grid: str) -> str:
    """One sentence for two images on different grids, and what to do."""
    shape, other = list(image.array.shape), list(fixed.array.shape)
    what = f"{image.file} has shape {shape} and {fixed.file} {other}"
    if shape == other:
        far = apart(shape, image.affine, fixed.affine)
        what = f"{image.file} and {fixed.file} have different affines, {far:.3g} mm apart at a corner"
    return f"{name}: {what}: register them (coregister=true does), or if they show the same place set resample={grid}"

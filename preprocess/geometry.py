"""Grids: canonical orientation, resampling, cropping around the brain in millimetres, and the inverse of each.

Volumes are (z, y, x) with z from inferior to superior, y from posterior to anterior, x from left to right (RAS, transposed), so
that an axial slice is `volume[z]`. Affines map voxel indices in the order x, y, z to millimetres, as in NIfTI.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Volume = npt.NDArray[np.float32]
Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
Index = tuple[Any, ...]


def to_canonical(array: Array, affine: Array) -> tuple[Array, Array, str]:
    """(x, y, z) array in any orientation -> (z, y, x) in RAS, the new grid's affine, and the old orientation, e.g. `LPS`."""
    import nibabel as nib

    orientation = nib.io_orientation(affine)
    turned = nib.apply_orientation(array, orientation)
    new_affine = affine @ nib.orientations.inv_ornt_aff(orientation, array.shape)
    return np.ascontiguousarray(turned.T), new_affine, "".join(nib.aff2axcodes(affine))


def canonical_grid(affine: Array, shape: Sequence[int]) -> tuple[Array, list[int]]:
    """The affine and the (z, y, x) shape of a scan of `shape` (x, y, z) in canonical orientation."""
    import nibabel as nib

    orientation = nib.io_orientation(affine)
    turned = [0, 0, 0]
    for axis, size in zip(orientation[:, 0].astype(int), shape, strict=True):
        turned[axis] = size
    return affine @ nib.orientations.inv_ornt_aff(orientation, shape), turned[::-1]


def from_canonical(array: Array, affine: Array) -> Array:
    """The inverse of `to_canonical`: (z, y, x) in RAS -> (x, y, z) in the orientation of the scan's `affine`."""
    import nibabel as nib

    back = nib.orientations.ornt_transform(np.array([[0, 1], [1, 1], [2, 1]]), nib.io_orientation(affine))
    return np.ascontiguousarray(nib.apply_orientation(array.T, back))


@dataclass(frozen=True)
class Place:
    """Where a processed grid lies in a patient's scan."""

    scan_affine: Array
    scan_shape: Sequence[int]  # (x, y, z)
    affine: Array  # of the processed grid, canonical, before the crop
    shape: Sequence[int]  # (z, y, x), likewise

    def to_patient(self, volume: Array, is_map: bool, brain: Mask | None = None) -> Array:
        """(z, y, x) intensities, or a map of labels, on the processed grid -> (x, y, z) on the scan's own grid.

        Where the grids differ, intensities are interpolated linearly, in and only in the `brain` (z, y, x) of the scan's canonical grid if it is
        given: its edge keeps its voxels, which take the nearest intensity where the coarser grid has none.
        """
        wanted, shape = canonical_grid(self.scan_affine, self.scan_shape)
        if shape != list(self.shape) or not np.allclose(self.affine, wanted, atol=1e-4):
            volume, _ = onto(volume, self.affine, wanted, shape, is_map, 0.5 if brain is None else 1e-3)
            if brain is not None:
                volume = filled(volume, brain)
        return from_canonical(volume, self.scan_affine)


def filled(volume: Array, brain: Mask) -> Array:
    """The volume in the brain and 0 outside it; voxels of the brain that are 0 take the nearest intensity of the brain."""
    from scipy.ndimage import distance_transform_edt

    known = brain & (volume != 0)
    if not (brain & ~known).any() or not known.any():
        return np.where(brain, volume, 0)
    nearest = distance_transform_edt(~known, return_distances=False, return_indices=True)
    return np.where(brain, volume[tuple(nearest)], 0)


def spacing_of(affine: Array) -> tuple[float, float, float]:
    """Voxel size (z, y, x) in mm."""
    x, y, z = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    return float(z), float(y), float(x)


def resample(
    volumes: Array, mask: Mask, labels: Array, affine: Array, target: float | Sequence[float]
) -> tuple[Array, Mask, Array, Array]:
    """(modality, z, y, x) volumes, brain mask and labels resampled to voxels of `target` mm, one number or (z, y, x), and the
    new grid's affine.

    Intensities and mask are smoothed to the coarser voxel and interpolated linearly; their quotient (a normalised convolution) keeps
    background out of the brain's edge. Labels take the nearest voxel.
    """
    from scipy.ndimage import affine_transform, gaussian_filter

    factor = np.array(target) / spacing_of(affine)
    shape = tuple(int(n) for n in np.maximum(1, np.round(np.array(mask.shape) / factor)))
    offset = (factor - 1) / 2 + (np.array(mask.shape) - factor * shape) / 2  # both grids have the same centre
    sigma = np.where(factor > 1, 0.425 * factor, 0)  # a Gaussian whose width at half maximum is the new voxel

    def read(volume: Array, order: int) -> Array:
        return np.asarray(affine_transform(volume, factor, offset, shape, order=order, mode="nearest"))

    share = read(gaussian_filter(mask.astype(np.float32), sigma), 1)
    inside = share >= 0.5
    smooth = (gaussian_filter(np.where(mask, v, 0).astype(np.float32), sigma) for v in volumes)
    out = np.stack([np.where(inside, read(v, 1) / np.maximum(share, 0.5), 0) for v in smooth])
    step = np.eye(4)
    step[:3, :3], step[:3, 3] = np.diag(factor[::-1]), offset[::-1]
    return out, inside, np.where(inside, read(labels, 0), 0).astype(labels.dtype), affine @ step


def extent(mask: Mask) -> list[int]:
    """(z, y, x) number of voxels from the mask's first to its last along each axis."""
    spans = (np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1)))
    return [int(span[-1] - span[0]) + 1 for span in spans]


def bounding_box(mask: Mask) -> tuple[slice, slice, slice]:
    """The mask's box and one voxel around it where the grid has it, so that each axis of the box has at least two voxels."""
    z, y, x = (np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1)))
    low = [max(0, int(inside[0]) - 1) for inside in (z, y, x)]
    return slice(low[0], int(z[-1]) + 2), slice(low[1], int(y[-1]) + 2), slice(low[2], int(x[-1]) + 2)


def onto(
    volume: Array, affine: Array, target: Array, shape: Sequence[int], is_map: bool, least: float = 0.5
) -> tuple[Array, Mask]:
    """A canonical (z, y, x) volume resampled to the canonical grid of affine `target` and `shape`, and the voxels inside its field of view.

    A map (labels, a mask) takes the nearest voxel. Intensities are smoothed where the target's voxels are coarser, and interpolated
    linearly. Voxels that are exactly 0 are background and take no part: background stays 0 and does not dim the brain's edge. A voxel of
    which less than the share `least` is not background becomes background.
    """
    from scipy.ndimage import affine_transform, gaussian_filter

    step = np.linalg.inv(affine) @ target
    matrix, offset = step[:3, :3][::-1, ::-1], step[:3, 3][::-1]
    width = np.sqrt((matrix**2).sum(axis=1))  # along each axis, voxels of the volume in one voxel of the target
    sigma = np.where(width > 1.001, 0.425 * width, 0)

    def read(part: Array, order: int = 1) -> Array:
        return np.asarray(affine_transform(part, matrix, offset, tuple(shape), order=order, mode="grid-constant"))

    seen = read(np.ones(volume.shape, np.float32)) >= 0.5
    if is_map:
        return read(volume, 0), seen
    share = read(gaussian_filter((volume != 0).astype(np.float32), sigma))
    smooth = read(gaussian_filter(volume, sigma))
    return np.where(share >= least, smooth / np.maximum(share, least), 0).astype(volume.dtype), seen


def crop_shape(size_mm: Sequence[float], spacing: Sequence[float]) -> tuple[int, int, int]:
    """`recipe.crop` (x, y, z in mm) as voxels (z, y, x), rounded up: 160 x 160 x 155 mm at 3 mm is 52 x 54 x 54."""
    z, y, x = (int(np.ceil(mm / s - 1e-3)) for mm, s in zip(reversed(size_mm), spacing, strict=True))
    return z, y, x


def crop_offset(mask: Mask, shape: Sequence[int]) -> tuple[int, ...]:
    """The first voxel of a crop of `shape` centred on the brain's bounding box; negative where the grid is smaller.

    The crop is moved inside the grid where it fits.
    """
    offsets = []
    for axis, size in enumerate(shape):
        grid = mask.shape[axis]
        inside = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        wanted = (int(inside[0]) + int(inside[-1]) + 1 - size) // 2
        offsets.append(min(max(wanted, 0), grid - size) if grid >= size else (grid - size) // 2)
    return tuple(offsets)


def crop(volume: Array, offset: Sequence[int], shape: Sequence[int], background: float) -> Array:
    """(..., z, y, x) -> (..., *shape) from `offset` on, with `background` outside the grid."""
    out = np.full((*volume.shape[:-3], *shape), background, volume.dtype)
    there, here = overlap(volume.shape[-3:], offset, shape)
    out[here] = volume[there]
    return out


def uncrop(cropped: Array, offset: Sequence[int], shape: Sequence[int], background: float) -> Array:
    """The inverse of `crop`: (..., *cropped) placed on a grid of `shape`, with `background` elsewhere."""
    out = np.full((*cropped.shape[:-3], *shape), background, cropped.dtype)
    there, here = overlap(shape, offset, cropped.shape[-3:])
    out[there] = cropped[here]
    return out


def overlap(grid: Sequence[int], offset: Sequence[int], shape: Sequence[int]) -> tuple[Index, Index]:
    """The voxels that are in both grid and crop, as an index (..., z, y, x) of the grid and one of the crop."""
    spans = [(max(o, 0), min(o + s, g)) for g, o, s in zip(grid, offset, shape, strict=True)]
    there = (slice(a, b) for a, b in spans)
    here = (slice(a - o, b - o) for (a, b), o in zip(spans, offset, strict=True))
    return (..., *there), (..., *here)

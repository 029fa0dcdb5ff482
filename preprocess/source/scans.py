"""Reading a case: its files become arrays on one canonical grid, with a brain mask, or one sentence says which file is why not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from preprocess.geometry import onto, spacing_of, to_canonical
from preprocess.shared.errors import CaseError
from preprocess.source.brats import MODALITIES, Case
from preprocess.source.images import load
from preprocess.source.layouts import KINDS

LARGEST_BRAIN = 3.5  # litres; an adult's brain has 1 to 2, a head 4 and more
SAME = 1e-3  # mm by which the affines of one grid may differ


@dataclass
class Scans:
    """A case's files as read: canonical (z, y, x) grids."""

    modalities: list[str]  # those that exist, in the order of MODALITIES
    volumes: npt.NDArray[Any]  # (modality, z, y, x) float32
    mask: npt.NDArray[np.bool_]  # the brain
    labels: npt.NDArray[np.uint8]  # all 0 where there is no segmentation
    affine: npt.NDArray[Any]  # of the canonical grid
    original: dict[str, Any]  # shape, affine and orientation of the file whose grid it is
    dtypes: dict[str, str]  # by kind: numpy's name of the type that the file stores voxels in
    scaling: dict[str, list[float]]  # by kind: slope and intercept that turn stored voxels into intensities
    resampled: list[str]  # kinds that were on another grid


@dataclass
class Canonical:
    """One file in canonical orientation, and what it was before."""

    file: str
    volume: npt.NDArray[Any]  # (z, y, x)
    affine: npt.NDArray[Any]
    original: dict[str, Any]
    dtype: str
    scaling: list[float]


def read(case: Case, resample: str = "") -> Scans:
    """All files of a case on the grid of its first contrast, or of the contrast `resample`, onto which the others are then brought.

    Raises CaseError naming the file that is unreadable, not finite, or on another grid.
    """
    files = {kind: canonical(case.name, case.files[kind]) for kind in KINDS if kind in case.files}
    if "seg" in files:
        files["seg"].volume = label_map(case, files["seg"].volume)
    modalities = [kind for kind in MODALITIES if kind in files]
    grid = resample or modalities[0]
    if grid not in files:
        raise CaseError(f"{case.name}: no {grid} file, onto whose grid recipe.resample={grid} brings the others")
    moved, seen = one_grid(case, files, grid, bool(resample))
    volumes = np.stack([files[kind].volume for kind in modalities])
    mask = seen & (files["mask"].volume != 0 if "mask" in files else brain_mask(case, volumes, files[grid].affine))
    check_brain(case, modalities, volumes, mask)
    labels = files["seg"].volume if "seg" in files else np.zeros(mask.shape, np.uint8)
    dtypes, scaling = {k: f.dtype for k, f in files.items()}, {k: f.scaling for k, f in files.items()}
    return Scans(modalities, volumes, mask, labels, files[grid].affine, files[grid].original, dtypes, scaling, moved)


def canonical(case: str, path: Path) -> Canonical:
    image = load(case, path)
    volume, affine, orientation = to_canonical(image.array, image.affine)
    original = {
        "original_shape": list(image.array.shape), "original_affine": image.affine.tolist(), "original_orientation": orientation,
    }  # fmt: skip
    return Canonical(path.name, volume, affine, original, image.dtype, image.scaling)


def one_grid(case: Case, files: Mapping[str, Canonical], grid: str, resample: bool) -> tuple[list[str], npt.NDArray[np.bool_]]:
    """Bring the files onto the grid of one of them: which were moved, and the voxels that every contrast's field of view reaches.

    Raises CaseError for the first file on another grid unless `resample`.
    """
    target, moved = files[grid], []
    seen = np.ones(target.volume.shape, bool)
    for kind, file in files.items():
        if file.volume.shape == target.volume.shape and np.allclose(file.affine, target.affine, atol=SAME):
            continue
        if not resample:
            raise CaseError(f"{case.name}: {difference(file, target)}: register them, or set recipe.resample={grid}")
        is_map = kind not in MODALITIES
        file.volume, reached = onto(file.volume, file.affine, target.affine, target.volume.shape, is_map)
        seen &= reached | is_map
        moved.append(kind)
    return moved, seen


def difference(one: Canonical, other: Canonical) -> str:
    if one.volume.shape == other.volume.shape:
        return f"{one.file} and {other.file} have different affines"
    return f"{one.file} has shape {one.original['original_shape']} and {other.file} {other.original['original_shape']}"


def label_map(case: Case, array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Raises CaseError if a label is not a whole number from 0 to 255."""
    with np.errstate(invalid="ignore"):
        labels = array.astype(np.uint8)
    if not np.array_equal(labels, array):
        raise CaseError(
            f"{case.name}: {case.files['seg'].name} holds values that are no labels: expected whole numbers from 0 to 255"
        )
    return labels


def brain_mask(case: Case, volumes: npt.NDArray[Any], affine: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Where any contrast is not exactly 0; real brains hold a few negative intensities.

    Raises CaseError where no voxel is background or the brain would be larger than any: the skull is still there. Voxels on the
    border prove nothing (a crop of a brain has them), and a few zeros do not either (air has them by chance).
    """
    mask: npt.NDArray[np.bool_] = (volumes != 0).any(axis=0)
    litres = float(mask.sum() * np.prod(spacing_of(affine))) / 1e6
    if mask.all() or litres > LARGEST_BRAIN:
        what = "no voxel is 0" if mask.all() else f"{litres:.1f} litres are not 0"
        raise CaseError(f"{case.name}: {what}, so this is more than a brain: extract the brain first, or give a mask of it")
    return mask


def check_brain(case: Case, modalities: list[str], volumes: npt.NDArray[Any], mask: npt.NDArray[np.bool_]) -> None:
    """Raise CaseError if the brain is nowhere or a contrast is constant in it."""
    if not mask.any():
        what = f"{case.files['mask'].name}" if "mask" in case.files else "every contrast"
        raise CaseError(f"{case.name}: {what} is 0 wherever all contrasts were scanned: the brain mask is empty")
    for modality, volume in zip(modalities, volumes, strict=True):
        if np.ptp(volume[mask]) == 0:
            raise CaseError(f"{case.name}: {case.files[modality].name} has one intensity everywhere in the brain")

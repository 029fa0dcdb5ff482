"""Reads a case: its files as arrays on one canonical grid, with a brain mask, or one sentence naming the file that prevents it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from preprocess.geometry import onto, spacing_of, to_canonical
from preprocess.shared.errors import CaseError
from preprocess.source.brats import Case
from preprocess.source.images import load
from preprocess.source.layouts import KINDS, MODALITIES

LARGEST_BRAIN = 3.5  # litres; an adult's brain has 1 to 2, a head 4 and more
SAME = 1e-3  # mm by which affines of the same grid may differ


@dataclass
class Scans:
    """A case's files on one canonical (z, y, x) grid."""

    modalities: list[str]  # those that exist, in the order of MODALITIES
    volumes: npt.NDArray[Any]  # (modality, z, y, x) float32
    mask: npt.NDArray[np.bool_]  # the brain
    labels: npt.NDArray[np.uint8]  # all 0 if there is no segmentation
    affine: npt.NDArray[Any]  # of the canonical grid
    original: dict[str, Any]  # shape, affine and orientation of the file that gives the grid
    dtypes: dict[str, str]  # by kind: numpy's name of the type that the file stores voxels in
    scaling: dict[str, list[float]]  # by kind: slope and intercept that turn stored voxels into intensities


@dataclass
class Canonical:
    """One file in canonical orientation, and its original grid."""

    file: str
    volume: npt.NDArray[Any]  # (z, y, x)
    affine: npt.NDArray[Any]
    original: dict[str, Any]
    dtype: str
    scaling: list[float]


def read(case: Case, resample: str = "") -> Scans:
    """All files of a case on the grid of its first contrast, or of the contrast `resample`, to which the others are resampled.

    Raises CaseError naming the file that is unreadable, has values that are not finite, or is on another grid.
    """
    files = {kind: canonical(case.name, case.files[kind]) for kind in KINDS if kind in case.files}
    if "seg" in files:
        files["seg"].volume = label_map(case, files["seg"].volume)
    modalities = [kind for kind in MODALITIES if kind in files]
    grid = resample or modalities[0]
    if grid not in files:
        raise CaseError(f"{case.name}: no {grid} file, to whose grid recipe.resample={grid} resamples the others")
    seen = onto_one_grid(case, files, grid, bool(resample))
    volumes = np.stack([files[kind].volume for kind in modalities])
    mask = seen & (files["mask"].volume != 0 if "mask" in files else brain_mask(case, volumes, files[grid].affine))
    check_brain(case, modalities, volumes, mask)
    labels = files["seg"].volume if "seg" in files else np.zeros(mask.shape, np.uint8)
    dtypes, scaling = {k: f.dtype for k, f in files.items()}, {k: f.scaling for k, f in files.items()}
    return Scans(modalities, volumes, mask, labels, files[grid].affine, files[grid].original, dtypes, scaling)


def canonical(case: str, path: Path) -> Canonical:
    image = load(case, path)
    volume, affine, orientation = to_canonical(image.array, image.affine)
    original = {
        "original_shape": list(image.array.shape), "original_affine": image.affine.tolist(), "original_orientation": orientation,
    }  # fmt: skip
    return Canonical(path.name, volume, affine, original, image.dtype, image.scaling)


def onto_one_grid(case: Case, files: Mapping[str, Canonical], grid: str, resample: bool) -> npt.NDArray[np.bool_]:
    """Resample the files to the grid of one of them. Returns the voxels inside every contrast's field of view.

    Raises CaseError for the first file on another grid unless `resample`.
    """
    target = files[grid]
    seen = np.ones(target.volume.shape, bool)
    for kind, file in files.items():
        if file.volume.shape == target.volume.shape and np.allclose(file.affine, target.affine, atol=SAME):
            continue
        if not resample:
            raise CaseError(f"{case.name}: {difference(file, target)}: register them, or set recipe.resample={grid}")
        is_map = kind not in MODALITIES
        file.volume, reached = onto(file.volume, file.affine, target.affine, target.volume.shape, is_map)
        seen &= reached | is_map
    return seen


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
            f"{case.name}: {case.files['seg'].name} holds values that are not labels: expected whole numbers from 0 to 255"
        )
    return labels


def brain_mask(case: Case, volumes: npt.NDArray[Any], affine: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Where any contrast is not exactly 0; real brains have a few negative intensities.

    Raises CaseError if no voxel is background or the brain would be larger than any brain: then the skull is still there. Voxels on the
    border are no sign of it (a crop of a brain has them), nor are a few zeros a sign of a brain (air has them by chance).
    """
    mask: npt.NDArray[np.bool_] = (volumes != 0).any(axis=0)
    litres = float(mask.sum() * np.prod(spacing_of(affine))) / 1e6
    if mask.all() or litres > LARGEST_BRAIN:
        what = "no voxel is 0" if mask.all() else f"{litres:.1f} litres are not 0"
        raise CaseError(f"{case.name}: {what}, so this is more than a brain: strip the skull first, or add a brain mask")
    return mask


def check_brain(case: Case, modalities: list[str], volumes: npt.NDArray[Any], mask: npt.NDArray[np.bool_]) -> None:
    """Raise CaseError if the mask is empty or a contrast is constant in it."""
    if not mask.any():
        what = f"{case.files['mask'].name}" if "mask" in case.files else "every contrast"
        raise CaseError(f"{case.name}: {what} is 0 wherever all contrasts were scanned: the brain mask is empty")
    for modality, volume in zip(modalities, volumes, strict=True):
        if np.ptp(volume[mask]) == 0:
            raise CaseError(f"{case.name}: {case.files[modality].name} has the same intensity everywhere in the brain")

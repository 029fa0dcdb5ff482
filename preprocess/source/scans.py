"""Reads a case: its files as arrays on one canonical grid, with a brain mask, or one sentence naming the file that prevents it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from preprocess.coregister import coregister
from preprocess.geometry import onto, spacing_of, to_canonical
from preprocess.shared.errors import CaseError
from preprocess.source.brats import Case
from preprocess.source.images import Image, is_synthetic, load_all
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
    moved: dict[str, str]  # contrasts that were brought onto the grid's contrast: how far, for people
    covered: float  # share of the brain that lies in every contrast's field of view


@dataclass(eq=False)
class Canonical:
    """One image in canonical orientation, and its original grid."""

    file: str
    volume: npt.NDArray[Any]  # (z, y, x)
    affine: npt.NDArray[Any]
    original: dict[str, Any]
    dtype: str
    scaling: list[float]


def read(case: Case, resample: str = "", registered: bool = True) -> Scans:
    """All files of a case on one grid (see `assemble`). Raises CaseError naming the file that is unreadable or does not fit."""
    if made := [path.name for path in case.files.values() if is_synthetic(path)]:
        raise CaseError(f"{case.name}: {made[0]} is a synthesised image, as its header says: remove it from the scans")
    return assemble(case.name, load_all(case.name, case.files, case.channels), resample, registered)


def assemble(name: str, images: Mapping[str, Image], resample: str = "", registered: bool = True) -> Scans:
    """The images of a case by kind on the grid of its first contrast, or of the contrast `resample`, to which the others are resampled. Unless
    they are `registered`, each contrast is first brought onto the one that gives the grid (see `preprocess.coregister`).

    Raises CaseError naming the image that has values that are not finite, is on another grid, or cannot be brought onto the others.
    """
    files = {kind: canonical(images[kind]) for kind in KINDS if kind in images}
    if "seg" in files:
        files["seg"].volume = label_map(name, files["seg"])
    modalities = [kind for kind in MODALITIES if kind in files]
    grid = resample or modalities[0]
    if grid not in files:
        raise CaseError(f"{name}: no {grid} file, to whose grid resample={grid} brings the others")
    moved = {} if registered else bring_together(name, files, grid)
    seen = onto_one_grid(name, files, grid, bool(resample) or not registered)
    volumes = np.stack([files[kind].volume for kind in modalities])
    brain = given_mask(name, files["mask"]) if "mask" in files else brain_mask(name, files, volumes, files[grid].affine)
    mask = seen & brain
    check_brain(name, files, volumes, mask)
    covered = float(mask.sum() / brain.sum())
    labels = files["seg"].volume if "seg" in files else np.zeros(mask.shape, np.uint8)
    dtypes, scaling = {k: f.dtype for k, f in files.items()}, {k: f.scaling for k, f in files.items()}
    return Scans(modalities, volumes, mask, labels, files[grid].affine, files[grid].original, dtypes, scaling, moved, covered)


def canonical(image: Image) -> Canonical:
    volume, affine, orientation = to_canonical(image.array, image.affine)
    original = {
        "original_shape": list(image.array.shape), "original_affine": image.affine.tolist(), "original_orientation": orientation,
    }  # fmt: skip
    return Canonical(image.file, volume, affine, original, image.dtype, image.scaling)


def bring_together(name: str, files: Mapping[str, Canonical], grid: str) -> dict[str, str]:
    """Correct the affine of each contrast that lies off the one that gives the grid, and of labels and mask that were drawn on its grid. Returns
    the contrasts, and how far they were moved.

    Raises CaseError for one that cannot be brought onto it.
    """
    fixed, moved = files[grid], {}
    drawn = [files[kind] for kind in KINDS if kind in files and kind not in MODALITIES and not same_grid(files[kind], fixed)]
    for kind in MODALITIES:
        if kind in files and kind != grid:
            moving = files[kind]
            try:
                movement = coregister(fixed.volume, fixed.affine, moving.volume, moving.affine)
            except ValueError as error:
                what = f"{moving.file} cannot be brought onto {fixed.file} ({error})"
                raise CaseError(f"{name}: {what}: look at both, or register them yourself and leave coregister out") from error
            if movement:
                with_it = [other for other in drawn if same_grid(other, moving)]
                for other in [moving, *with_it]:
                    other.affine = movement.affine
                drawn = [other for other in drawn if other not in with_it]
                moved[kind] = f"{movement.millimetres:.1f} mm, {movement.degrees:.1f} degrees"
    return moved


def same_grid(one: Canonical, other: Canonical) -> bool:
    return one.volume.shape == other.volume.shape and bool(np.allclose(one.affine, other.affine, atol=SAME))


def onto_one_grid(name: str, files: Mapping[str, Canonical], grid: str, resample: bool) -> npt.NDArray[np.bool_]:
    """Resample the files to the grid of one of them. Returns the voxels inside every contrast's field of view.

    Raises CaseError for the first file on another grid unless `resample`.
    """
    target = files[grid]
    seen = np.ones(target.volume.shape, bool)
    for kind, file in files.items():
        if same_grid(file, target):
            continue
        if not resample:
            what = f"register them (coregister=true does), or if they show the same place set resample={grid}"
            raise CaseError(f"{name}: {difference(file, target)}: {what}")
        is_map = kind not in MODALITIES
        file.volume, reached = onto(file.volume, file.affine, target.affine, target.volume.shape, is_map)
        seen &= reached | is_map
    return seen


def difference(one: Canonical, other: Canonical) -> str:
    if one.volume.shape == other.volume.shape:
        return f"{one.file} and {other.file} have different affines"
    return f"{one.file} has shape {one.original['original_shape']} and {other.file} {other.original['original_shape']}"


def label_map(name: str, file: Canonical) -> npt.NDArray[np.uint8]:
    """Raises CaseError if a label is not a whole number from 0 to 255."""
    with np.errstate(invalid="ignore"):
        labels = file.volume.astype(np.uint8)
    if not np.array_equal(labels, file.volume):
        raise CaseError(f"{name}: {file.file} holds values that are not labels: expected whole numbers from 0 to 255")
    return labels


def given_mask(name: str, file: Canonical) -> npt.NDArray[np.bool_]:
    """A mask file as a mask: values above half of its largest, be it 1, 255 or a probability. Raises CaseError for one that is none."""
    mask: npt.NDArray[np.bool_] = file.volume > 0.5 * max(file.volume.max(), 1e-6)
    litres = float(mask.sum() * np.prod(spacing_of(file.affine))) / 1e6
    if file.volume.min() < 0 or litres > LARGEST_BRAIN:
        what = f"marks {litres:.1f} litres" if litres > LARGEST_BRAIN else "holds negative values"
        raise CaseError(f"{name}: {file.file} {what}, so it is no brain mask: expected 0 outside the brain and 1 inside")
    return mask


def brain_mask(
    name: str, files: Mapping[str, Canonical], volumes: npt.NDArray[Any], affine: npt.NDArray[Any]
) -> npt.NDArray[np.bool_]:
    """Where any contrast is not exactly 0; real brains have a few negative intensities.

    Raises CaseError if no voxel is background or the brain would be larger than any brain: then the skull is still there. Voxels on the
    border are no sign of it (a crop of a brain has them), nor are a few zeros a sign of a brain (air has them by chance).
    """
    mask: npt.NDArray[np.bool_] = (volumes != 0).any(axis=0)
    litres = float(mask.sum() * np.prod(spacing_of(affine))) / 1e6
    if mask.all() or litres > LARGEST_BRAIN:
        what = "no voxel is 0" if mask.all() else f"{litres:.1f} litres are not 0"
        raise CaseError(f"{name}: {what}, so this is more than a brain: {strip(name, files)}")
    return mask


def strip(name: str, files: Mapping[str, Canonical]) -> str:
    """The commands that make a brain mask, and the name under which it is read."""
    scan = next(files[kind].file for kind in MODALITIES if kind in files)
    word = "_desc-brain_mask" if name.startswith("sub-") else "-mask" if scan.startswith(f"{name}-") else "_mask"
    mask, brain = f"{name}{word}.nii.gz", f"{name}_brain"
    return (
        f"make a brain mask with `mri_synthstrip -i {scan} -m {mask}`, or with `hd-bet -i {scan} -o {brain}.nii.gz --save_bet_mask` and rename its "
        f"{brain}_bet.nii.gz to {mask}, and put it beside the scans"
    )


def check_brain(name: str, files: Mapping[str, Canonical], volumes: npt.NDArray[Any], mask: npt.NDArray[np.bool_]) -> None:
    """Raise CaseError if the mask is empty or a contrast is constant in it."""
    if not mask.any():
        what = files["mask"].file if "mask" in files else "every contrast"
        raise CaseError(f"{name}: {what} is 0 wherever all contrasts were scanned: the brain mask is empty")
    for modality, volume in zip((kind for kind in MODALITIES if kind in files), volumes, strict=True):
        if np.ptp(volume[mask]) == 0:
            raise CaseError(f"{name}: {files[modality].file} has the same intensity everywhere in the brain")

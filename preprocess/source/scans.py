"""Reads a case: its files as arrays on one canonical grid, with a brain mask, or one sentence naming the file that prevents it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from preprocess.coregister import coregister
from preprocess.geometry import onto, spacing_of, to_canonical
from preprocess.shared.errors import CaseError
from preprocess.source import grids
from preprocess.source.background import zeroed
from preprocess.source.brain import LARGEST, check_contrasts, check_intensities, check_size, dim_share, given_mask
from preprocess.source.brats import Case
from preprocess.source.doubts import Checks, Doubts
from preprocess.source.images import Image, is_synthetic, load_all
from preprocess.source.labels import check_defined, check_tumour, counted, label_map, renumber
from preprocess.source.layouts import KINDS, MODALITIES
from preprocess.source.pieces import brain_pieces

COVERED, HARDLY_COVERED = 0.99, 0.5  # share of the brain that all contrasts show
LOST = 0.05  # share of a brain or of labels that lies outside the grid that they are resampled to


@dataclass(frozen=True)
class Reading:
    """How the files of a case are read."""

    resample: str = ""  # the contrast onto whose grid others are resampled
    registered: bool = True  # whether the contrasts lie on each other
    orientation: str = ""  # of files whose headers give none, e.g. LPS
    labels: Sequence[int] = ()  # those that count as tumour; none: all above 0
    checks: Checks = "refuse"


AS_SCANNED = Reading()


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
    noted: list[tuple[str, str]]  # what is odd: kind of file, or empty for all, and a sentence


@dataclass(eq=False)
class Canonical:
    """One image in canonical orientation, and its original grid."""

    file: str
    volume: npt.NDArray[Any]  # (z, y, x)
    affine: npt.NDArray[Any]
    original: dict[str, Any]
    dtype: str
    scaling: list[float]

    @property
    def step(self) -> float:
        """The distance between two values that the file can hold; 0 for floating-point voxels."""
        return abs(self.scaling[0]) if np.dtype(self.dtype).kind in "iu" else 0.0


def read(case: Case, reading: Reading = AS_SCANNED) -> Scans:
    """All files of a case on one grid (see `assemble`). Raises CaseError naming the file that is unreadable or does not fit."""
    if made := [path.name for path in case.files.values() if is_synthetic(path)]:
        raise CaseError(f"{case.name}: {made[0]} is a synthesised image, as its header says: remove it from the scans")
    images = load_all(case.name, case.files, case.channels)
    if case.renumber and "seg" in images:
        renumber(case.name, images["seg"].file, images["seg"].array, case.renumber)
    return assemble(case.name, images, reading)


def assemble(name: str, images: Mapping[str, Image], reading: Reading = AS_SCANNED) -> Scans:
    """The images of a case by kind on the grid of its first contrast, or of the contrast `reading.resample`, to which the others are resampled.
    Unless they are registered, each contrast is first brought onto the one that gives the grid (see `preprocess.coregister`). In the volumes
    background is 0.

    Raises CaseError naming the image that is on another grid, cannot be brought onto the others, or cannot be what it is taken for.
    """
    doubts = Doubts(name, reading.checks)
    images = {kind: grids.oriented(images[kind], reading.orientation) for kind in KINDS if kind in images}
    grid = reading.resample or next(kind for kind in MODALITIES if kind in images)
    if grid not in images:
        raise CaseError(f"{name}: no {grid} file, to whose grid resample={grid} brings the others")
    grids.check_headers(images, grid, reading.registered, reading.orientation, doubts)
    files = {kind: canonical(image) for kind, image in images.items()}
    clean(files, doubts)
    if seg := files.get("seg"):
        undefined = ~np.isfinite(seg.volume)
        seg.volume = counted(label_map(name, seg.file, seg.volume, seg.step), seg.file, reading.labels, doubts)
    moved = {} if reading.registered else bring_together(name, files, grid)
    seen = onto_one_grid(files, images, grid, reading, doubts)
    modalities = [kind for kind in MODALITIES if kind in files]
    volumes = np.stack([files[kind].volume for kind in modalities])
    mask = brain_of(files, volumes, seen, files[grid].affine, reading.registered, doubts)
    labels = seg.volume if seg else np.zeros(mask.shape, np.uint8)
    if seg:
        check_defined(name, seg.file, undefined, mask)
        check_tumour(labels > 0, mask, seg.file, doubts)
    dtypes, scaling = {k: f.dtype for k, f in files.items()}, {k: f.scaling for k, f in files.items()}
    return Scans(
        modalities, volumes, mask, labels, files[grid].affine, files[grid].original, dtypes, scaling, moved, doubts.noted
    )


def canonical(image: Image) -> Canonical:
    volume, affine, orientation = to_canonical(image.array, image.affine)
    original = {
        "original_shape": list(image.array.shape), "original_affine": image.affine.tolist(), "original_orientation": orientation,
    }  # fmt: skip
    return Canonical(image.file, volume, affine, original, image.dtype, image.scaling)


def clean(files: Mapping[str, Canonical], doubts: Doubts) -> None:
    """Set the background of each contrast to 0. Raises CaseError for one that has values in the brain that are not finite."""
    others: dict[str, list[str]] = {}
    for kind, file in files.items():
        if kind not in MODALITIES:
            continue
        file.volume, constants, beyond = zeroed(file.volume, file.step)
        if beyond:
            finite = np.isfinite(file.volume)
            mask = files["mask"].volume if "mask" in files and files["mask"].volume.shape == finite.shape else None
            inside = int((~finite & (mask > 0)).sum()) if mask is not None else beyond
            if inside:
                raise CaseError(
                    f"{doubts.case}: {file.file} holds {inside} NaN or infinite intensities in the brain: export it again"
                )
            file.volume = np.where(finite, file.volume, np.float32(0))
        if max(map(abs, constants)) > 0.5 * file.step:  # 0 itself may not be among the values that the file can hold
            others.setdefault(" and ".join(f"{constant:g}" for constant in sorted(constants)), []).append(kind)
    for constant, kinds in others.items():
        doubts.say("", f"the background of {', '.join(kinds)} is {constant}, not 0: it is taken as 0")


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
    return grids.same_grid(one.volume.shape[::-1], one.affine, other.volume.shape[::-1], other.affine)


def onto_one_grid(
    files: Mapping[str, Canonical], images: Mapping[str, Image], grid: str, reading: Reading, doubts: Doubts
) -> npt.NDArray[np.bool_]:
    """Resample the files to the grid of one of them. Returns the voxels inside every contrast's field of view.

    Raises CaseError for the first file on another grid unless it is to be resampled or was registered, and for one that does not lie there.
    """
    target = files[grid]
    seen = np.ones(target.volume.shape, bool)
    for kind, file in files.items():
        axes, others = (each.original["original_orientation"] for each in (file, target))
        if same_grid(file, target):
            if axes != others:
                doubts.say(kind, f"the voxel axes of {kind} are {axes} and those of {grid} {others}: is its header right?")
            continue
        if reading.registered and not reading.resample:
            raise CaseError(grids.difference(doubts.case, images[kind], images[grid], grid))
        is_map, before = kind not in MODALITIES, file.volume
        if is_map and reading.registered and before.shape == target.volume.shape:
            far = grids.apart(before.shape[::-1], file.affine, target.affine)
            doubts.say(kind, f"{file.file} has the shape of {target.file} and lies {far:.3g} mm off: is its header right?")
        file.volume, reached = onto(before, file.affine, target.affine, target.volume.shape, is_map)
        seen &= reached | is_map
        if not is_map and "mask" in files:  # what is not 0 may be the air around a head
            continue
        outside = grids.outside(before != 0, file.affine, target.volume.shape, target.affine)
        what = "labels" if kind == "seg" else "mask" if is_map else "brain"
        if outside > LOST or (before.any() and not file.volume.any()):
            sentence = f"{outside:.0%} of {file.file}'s {what} lie outside the grid of {target.file}: is its header right?"
            (doubts.say if is_partial(kind, outside) else doubts.refuse)(kind, sentence)
        elif kind == "seg" and (kept := volume_ratio(before, file.affine, file.volume, target.affine)) < 1 - LOST:
            doubts.say(
                kind, f"resampling keeps {kept:.0%} of {file.file}'s labels: they are small for the voxels of {target.file}"
            )
    return seen


def is_partial(kind: str, outside: float) -> bool:
    """Whether a file that lies partly outside the grid may still be used: a contrast of which the grid shows a part."""
    return kind in MODALITIES and outside < HARDLY_COVERED


def volume_ratio(before: npt.NDArray[Any], affine: npt.NDArray[Any], after: npt.NDArray[Any], target: npt.NDArray[Any]) -> float:
    """The volume of what is not 0 after resampling, as a share of the volume before."""
    return float((after != 0).sum() * np.prod(spacing_of(target)) / max(1e-9, (before != 0).sum() * np.prod(spacing_of(affine))))


def brain_of(
    files: Mapping[str, Canonical],
    volumes: npt.NDArray[Any],
    seen: npt.NDArray[np.bool_],
    affine: npt.NDArray[Any],
    registered: bool,
    doubts: Doubts,
) -> npt.NDArray[np.bool_]:
    """The brain that all contrasts show: the mask's or, without one, where any contrast is not background.

    Raises CaseError if it is empty, cannot be a brain, or is not the same in all contrasts.
    """
    mask_file = files["mask"].file if "mask" in files else ""
    brains = {kind: volume != 0 for kind, volume in zip((kind for kind in MODALITIES if kind in files), volumes, strict=True)}
    brain = given_mask(mask_file, files["mask"].volume, doubts) if mask_file else reduce(np.logical_or, brains.values())
    spacing, skull = spacing_of(affine), "" if mask_file else strip(doubts.case, files)
    brain = brain_pieces(brain, spacing, mask_file or "the brain", skull and f" {skull}", doubts)
    mask: npt.NDArray[np.bool_] = seen & brain
    if not mask.any():
        what = mask_file or "every contrast"
        raise CaseError(f"{doubts.case}: {what} is 0 wherever all contrasts were scanned: the brain mask is empty")
    if (covered := np.count_nonzero(mask) / np.count_nonzero(brain)) < COVERED:
        what = f"the contrasts share only {covered:.0%} of the brain"
        if covered < HARDLY_COVERED:
            doubts.refuse("", f"{what}: leave out the one that covers a part")
        else:
            doubts.say("", f"{what}: the rest is left out")
    names = {kind: file.file for kind, file in files.items()}
    values = {kind: volume[mask] for kind, volume in zip(brains, volumes, strict=True)}
    smallest = min(map(np.count_nonzero, values.values())) * (1 - dim_share(values)) * np.prod(spacing) / 1e6
    if mask_file or smallest > LARGEST:  # the skull is in all contrasts
        check_size(brain, spacing, mask_file, skull, doubts)
    check_intensities(values, names, doubts)
    check_contrasts(values, names, bool(mask_file), registered, doubts)
    if not mask_file and smallest <= LARGEST:
        check_size(brain, spacing, "", skull, doubts)
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

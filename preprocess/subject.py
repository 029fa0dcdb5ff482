"""One subject through the recipe: four NIfTI files and a segmentation become a record and two arrays."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from preprocess.bias import N4Settings, correct
from preprocess.brats import MODALITIES, Case
from preprocess.cohort import Record
from preprocess.errors import CaseError, SettingError
from preprocess.geometry import crop, crop_offset, crop_shape, resample, spacing_of, to_canonical
from preprocess.intensity import BACKGROUND, clip_share, normalise, statistics
from preprocess.settings import setting

LARGEST = 1024  # voxels along an axis: more is a lying header


@dataclass
class Recipe:
    """The preprocessing settings; they are stored in the cohort."""

    spacing: float = setting(0.0, "resample to isotropic voxels of so many mm first (0: as scanned)")
    n4: N4Settings = setting(N4Settings, "bias field correction")
    clip_percent: float = setting(
        1.0, "per cent of the brain's intensities beyond the clip bounds at each end (applied on reading)"
    )
    crop: list[float] = setting([160.0, 160.0, 155.0], "size x, y, z in mm of the box around the brain that is kept")
    dtype: Literal["float16", "float32"] = setting("float16", "how z-scores are stored")

    def __post_init__(self) -> None:
        if self.spacing < 0:
            raise SettingError(f"recipe.spacing={self.spacing} must be 0 (as scanned) or a voxel size in mm")
        if not 0 <= self.clip_percent < 50:
            raise SettingError(f"recipe.clip_percent={self.clip_percent} must be at least 0 and below 50")
        if len(self.crop) != 3 or min(self.crop) <= 0:
            raise SettingError(f"recipe.crop={list(self.crop)} must be three sizes in mm, for example [160,160,155]")


@dataclass
class Scans:
    """A case's files as read: canonical (z, y, x) grids."""

    volumes: npt.NDArray[Any]  # (modality, z, y, x) float32
    labels: npt.NDArray[np.uint8]
    affine: npt.NDArray[Any]  # of the canonical grid
    original: dict[str, Any]  # shape, affine and orientation of the files


class Stopwatch(dict[str, float]):
    """Seconds by stage, for the summary; never stored."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self[name] = self.get(name, 0.0) + time.perf_counter() - start


def process(case: Case, recipe: Recipe, watch: Stopwatch) -> tuple[Record, npt.NDArray[Any], npt.NDArray[np.uint8]]:
    """The record, image (modality, z, y, x) and labels (z, y, x) of a case. Raises CaseError if its files cannot be used."""
    case.check()
    with watch.stage("read"):
        scans = read(case)
        source = {kind: {"file": path.name, "sha256": sha256(path)} for kind, path in case.files.items()}
    mask = brain_mask(case, scans.volumes)
    volumes, labels, affine = scans.volumes, scans.labels, scans.affine
    if recipe.spacing:
        with watch.stage("resample"):
            volumes, mask, labels, affine = resample(volumes, mask, labels, affine, recipe.spacing)
            if not mask.any():
                raise CaseError(f"{case.name}: no brain is left at recipe.spacing={recipe.spacing}: take a smaller one")
    spacing = spacing_of(affine)
    shape = crop_shape(recipe.crop, spacing)
    offset = crop_offset(mask, shape)
    stored, intensity, shares = [], {}, {}
    for modality, volume in zip(MODALITIES, volumes, strict=True):
        with watch.stage("n4"):
            corrected = correct(volume, mask, spacing, recipe.n4)
        with watch.stage("normalise"):
            try:
                stats = statistics(corrected, mask, recipe.clip_percent)
            except ValueError as error:
                raise CaseError(f"{case.name}: {case.files[modality].name}: {error}") from error
            intensity[modality], shares[modality] = stats.record(), clip_share(corrected, labels, stats)
            stored.append(crop(normalise(corrected, mask, stats, recipe.dtype), offset, shape, BACKGROUND))
    kept = int((stored[0] != BACKGROUND).sum())
    step = np.eye(4)
    step[:3, 3] = offset[::-1]
    record = Record(
        subject=case.name, patient=case.patient, grade=case.grade, modalities=list(MODALITIES), shape=list(shape), spacing=list(spacing),
        affine=(affine @ step).tolist(), source=source, canonical_shape=list(mask.shape), crop_offset=list(offset), brain_voxels=kept,
        brain_voxels_lost=int(mask.sum()) - kept, intensity=intensity, clip_share=shares, has_labels="seg" in case.files, **scans.original,
    )  # fmt: skip
    return record, np.stack(stored), crop(labels, offset, shape, 0)


def read(case: Case) -> Scans:
    """All files of a case. Raises CaseError naming the file that is unreadable, not finite, or on another grid than the first."""
    volumes, first, first_file, affine, shape = [], None, "", None, None
    labels = None
    for kind in (*MODALITIES, "seg"):
        if kind not in case.files:
            continue
        array, this = load(case.name, case.files[kind])
        if first is None or affine is None:
            first, first_file, affine, shape = array, case.files[kind].name, this, array.shape
        if array.shape != shape:
            raise CaseError(
                f"{case.name}: {case.files[kind].name} has shape {array.shape} and {first_file} {shape}: register them first"
            )
        if not np.allclose(this, affine, atol=1e-3):
            raise CaseError(f"{case.name}: {case.files[kind].name} and {first_file} have different affines: register them first")
        if kind == "seg":
            labels = label_map(case, array)
        else:
            volumes.append(array)
    assert affine is not None
    assert first is not None
    labels = np.zeros(first.shape, np.uint8) if labels is None else labels
    turned = [to_canonical(v, affine) for v in volumes]
    original = {"original_shape": list(first.shape), "original_affine": affine.tolist(), "original_orientation": turned[0][2]}
    return Scans(np.stack([t[0] for t in turned]), to_canonical(labels, affine)[0], turned[0][1], original)


def load(case: str, path: Path) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any]]:
    """(x, y, z) intensities and affine of a NIfTI file. Raises CaseError."""
    import nibabel as nib

    try:
        file = nib.load(path)
        shape = file.shape
        if len(shape) > 3 and set(shape[3:]) == {1}:
            shape = shape[:3]
        if len(shape) != 3 or max(shape) > LARGEST or min(shape) < 1:
            raise CaseError(f"{case}: {path.name} has shape {file.shape}: expected three axes of at most {LARGEST} voxels")
        array = np.asanyarray(file.dataobj).reshape(shape).astype(np.float32)
    except CaseError:
        raise
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CaseError(f"{case}: {path.name} cannot be read as NIfTI ({reason}): copy it again") from error
    if not np.isfinite(array).all():
        raise CaseError(f"{case}: {path.name} holds NaN or infinite intensities: export it again")
    if file.affine is None or not np.isfinite(file.affine).all() or abs(np.linalg.det(file.affine[:3, :3])) < 1e-6:
        raise CaseError(f"{case}: {path.name} has no usable affine in its header")
    return array, file.affine.astype(np.float64)


def label_map(case: Case, array: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Raises CaseError if a label is not a whole number from 0 to 255."""
    labels = array.astype(np.uint8)
    if not np.array_equal(labels, array):
        raise CaseError(
            f"{case.name}: {case.files['seg'].name} holds values that are no labels: expected whole numbers from 0 to 255"
        )
    return labels


def brain_mask(case: Case, volumes: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Where any contrast is not exactly 0; real brains hold a few negative intensities. Raises CaseError if that is nowhere, or
    everywhere, or if a contrast is constant inside it."""
    mask: npt.NDArray[np.bool_] = (volumes != 0).any(axis=0)
    if not mask.any():
        raise CaseError(f"{case.name}: every contrast is 0 everywhere: the brain mask is empty")
    for modality, volume in zip(MODALITIES, volumes, strict=True):
        if np.ptp(volume[mask]) == 0:
            raise CaseError(f"{case.name}: {case.files[modality].name} has one intensity everywhere in the brain")
    return mask


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

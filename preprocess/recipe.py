"""The recipe: its settings, and what it makes of one case: a record and two arrays."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from preprocess.bias import N4Settings, correct
from preprocess.cohort import Record
from preprocess.cohort.arrays import array_digest
from preprocess.cohort.files import file_digest
from preprocess.geometry import bounding_box, crop, crop_offset, crop_shape, extent, resample, spacing_of
from preprocess.intensity import BACKGROUND, Mask, Statistics, Volume, clip_share, normalise, present, quality, statistics
from preprocess.shared.errors import CaseError, SettingError
from preprocess.shared.settings import setting
from preprocess.source.brats import Case
from preprocess.source.layouts import MODALITIES
from preprocess.source.scans import read


@dataclass
class Recipe:
    """The preprocessing settings, which are stored in the cohort."""

    resample: str = setting(
        "", "the contrast onto whose grid others are resampled if theirs differs, e.g. t1 (empty: such cases are set aside)"
    )
    spacing: float = setting(0.0, "resample to isotropic voxels of this size in mm first (0: as scanned)")
    n4: N4Settings = setting(N4Settings, "bias field correction")
    clip_percent: float = setting(
        1.0, "per cent of the brain's intensities beyond each clip bound (the clip is applied on reading)"
    )
    crop: list[float] = setting([160.0, 160.0, 155.0], "size x, y, z in mm of the stored box around the brain")
    dtype: Literal["float16", "float32"] = setting("float16", "how z-scores are stored")
    chunks: Literal["slice", "patch"] = setting(
        "slice", "what is read at once: axial slices, or cubes of 32 voxels for 3-D methods"
    )

    def __post_init__(self) -> None:
        if self.resample not in ("", *MODALITIES):
            raise SettingError(f"recipe.resample={self.resample} must be empty or one of {', '.join(MODALITIES)}")
        if self.spacing < 0:
            raise SettingError(f"recipe.spacing={self.spacing} must be 0 (as scanned) or a voxel size in mm")
        if not 0 <= self.clip_percent < 50:
            raise SettingError(f"recipe.clip_percent={self.clip_percent} must be at least 0 and below 50")
        if len(self.crop) != 3 or min(self.crop) <= 0:
            raise SettingError(f"recipe.crop={list(self.crop)} must be three sizes in mm, for example [160,160,155]")


class Stopwatch(dict[str, float]):
    """Seconds by stage, for the summary; not stored."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self[name] = self.get(name, 0.0) + time.perf_counter() - start


def process(case: Case, recipe: Recipe, watch: Stopwatch) -> tuple[Record, npt.NDArray[Any], npt.NDArray[np.uint8]]:
    """The record, image (modality, z, y, x) and labels (z, y, x) of a case. Raises CaseError if its files cannot be used."""
    with watch.stage("read"):
        scans = read(case, recipe.resample)
        source = {kind: {"file": path.name, "sha256": file_digest(path)} for kind, path in case.files.items()}
        checks = {m: quality(volume, scans.mask) for m, volume in zip(scans.modalities, scans.volumes, strict=True)}
        counts = {str(label): int((scans.labels == label).sum()) for label in present(scans.labels)}
    volumes, mask, labels, affine = scans.volumes, scans.mask, scans.labels, scans.affine
    if recipe.spacing:
        with watch.stage("resample"):
            volumes, mask, labels, affine = resample(volumes, mask, labels, affine, recipe.spacing)
            if not mask.any():
                raise CaseError(f"{case.name}: no brain is left at recipe.spacing={recipe.spacing}: give a smaller one")
    spacing = spacing_of(affine)
    shape = crop_shape(recipe.crop, spacing)
    offset = crop_offset(mask, shape)
    box = bounding_box(mask)  # three quarters of a scan are background
    inside, lesions = mask[box], labels[box]
    within = [o - side.start for o, side in zip(offset, box, strict=True)]
    stored, intensity, shares = [], {}, {}
    for modality, volume in zip(scans.modalities, volumes, strict=True):
        file = f"{case.name}: {case.files[modality].name}"
        corrected, stats = standardise(file, volume[box], inside, spacing, recipe, watch)
        with watch.stage("normalise"):
            intensity[modality], shares[modality] = stats.record(), clip_share(corrected, lesions, stats)
            stored.append(crop(normalise(corrected, inside, stats, recipe.dtype), within, shape, BACKGROUND))
    kept = int((stored[0] != BACKGROUND).sum())
    step = np.eye(4)
    step[:3, 3] = offset[::-1]
    content = {modality: array_digest(channel) for modality, channel in zip(scans.modalities, stored, strict=True)}
    record = Record(
        subject=case.name, patient=case.patient, grade=case.grade, modalities=scans.modalities, shape=list(shape), spacing=list(spacing),
        affine=(affine @ step).tolist(), source=source, dtypes=scans.dtypes, scaling=scans.scaling, content=content,
        canonical_shape=list(mask.shape), crop_offset=list(offset), brain_size=extent(mask), brain_voxels=kept,
        brain_voxels_lost=int(mask.sum()) - kept, intensity=intensity, quality=checks, clip_share=shares, label_voxels=counts,
        has_labels="seg" in case.files, **scans.original,
    )  # fmt: skip
    return record, np.stack(stored), crop(labels, offset, shape, 0)


def standardise(
    file: str, volume: Volume, brain: Mask, spacing: Sequence[float], recipe: Recipe, watch: Stopwatch
) -> tuple[Volume, Statistics]:
    """A contrast (z, y, x) without its bias field, and its statistics in the brain. Raises CaseError naming the file."""
    with watch.stage("n4"):
        try:
            corrected = correct(volume, brain, spacing, recipe.n4)
        except RuntimeError as error:  # ITK's
            why = str(error).strip().splitlines()[-1]
            raise CaseError(f"{file}: bias correction failed ({why}): recipe.n4.enabled=false leaves it out") from error
    with watch.stage("normalise"):
        try:
            return corrected, statistics(corrected, brain, recipe.clip_percent)
        except ValueError as error:
            raise CaseError(f"{file}: {error}") from error

"""The recipe: its settings, and what it makes of one case: a record and two arrays. Synthesis repeats its parts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from preprocess.bias import N4Settings, correct
from preprocess.cohort import Record
from preprocess.cohort.arrays import array_digest
from preprocess.cohort.oddities import LOST
from preprocess.cohort.origin import origin
from preprocess.geometry import bounding_box, crop, crop_offset, crop_shape, extent, resample, spacing_of
from preprocess.intensity import BACKGROUND, Statistics, Volume, clip_share, normalise, present, quality, statistics
from preprocess.shared.errors import CaseError, SettingError
from preprocess.shared.settings import setting
from preprocess.source.brats import Case
from preprocess.source.doubts import Checks
from preprocess.source.layouts import MODALITIES
from preprocess.source.scans import Reading, Scans, read

LATER = ("coregister", "orientation", "labels", "box")  # settings that version 0.1 lacked
AXES = (frozenset("RL"), frozenset("AP"), frozenset("SI"))
MULTIPLE = 16  # voxels, of recipe.crop=brain
LEAST = 0.1  # share of the brain that a crop must keep
LARGEST_CROP = 1000  # times the voxels of the grid; a single slice needs 80


@dataclass
class Recipe:
    """The preprocessing settings, which are stored in the cohort."""

    resample: str = setting(
        "", "the contrast onto whose grid others are resampled if theirs differs, e.g. t1 (empty: such cases are set aside)"
    )
    coregister: bool = setting(False, "bring each contrast onto that one, or onto the first, by a rigid registration")
    orientation: str = setting("", "the voxel axes of files whose headers give none, e.g. LPS (empty: as nibabel reads them)")
    labels: list[int] = setting(list, "the labels that count as tumour, e.g. [1,2,4]; the others become 0 (empty: all above 0)")
    spacing: float = setting(0.0, "resample to isotropic voxels of this size in mm first (0: as scanned)")
    n4: N4Settings = setting(N4Settings, "bias field correction")
    clip_percent: float = setting(
        1.0, "per cent of the brain's intensities beyond each clip bound (the clip is applied on reading)"
    )
    crop: Any = setting(
        [160.0, 160.0, 155.0],
        "size x, y, z in mm of the stored box around the brain, or `brain`: multiples of 16 voxels that hold every brain of the cohort",
    )
    box: list[int] = setting(list, "size x, y, z in voxels of that box (empty: from recipe.crop; recipe.crop=brain finds it)")
    dtype: Literal["float16", "float32"] = setting("float16", "how z-scores are stored")
    chunks: Literal["slice", "patch"] = setting(
        "slice", "what is read at once: axial slices, or cubes of 32 voxels for 3-D methods"
    )

    def __post_init__(self) -> None:
        self.orientation = self.orientation.upper()
        if self.resample not in ("", *MODALITIES):
            raise SettingError(f"recipe.resample={self.resample} must be empty or one of {', '.join(MODALITIES)}")
        if self.spacing < 0:
            raise SettingError(f"recipe.spacing={self.spacing} must be 0 (as scanned) or a voxel size in mm")
        if not 0 <= self.clip_percent < 50:
            raise SettingError(f"recipe.clip_percent={self.clip_percent} must be at least 0 and below 50")
        if self.crop != "brain" and not is_size(self.crop):
            raise SettingError(f"recipe.crop={self.crop} must be brain, or three sizes in mm, for example '[160,160,155]'")
        if self.box and not is_size(self.box):
            raise SettingError(f"recipe.box={self.box} must be three numbers of voxels, for example '[160,192,160]'")
        if self.orientation and not (len(self.orientation) == 3 and all(len(pair & {*self.orientation}) == 1 for pair in AXES)):
            raise SettingError(
                f"recipe.orientation={self.orientation} must be one letter each of R L, A P and S I, for example LPS"
            )
        if any(not 0 < label <= 255 for label in self.labels):
            raise SettingError(f"recipe.labels={self.labels} must be whole numbers from 1 to 255, for example '[1,2,4]'")

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Recipe:
        """The recipe that a cohort or a checkpoint stores."""
        return cls(**{**stored, "n4": N4Settings(**stored["n4"])})

    def stored(self) -> dict[str, Any]:
        """What a cohort stores. What version 0.1 lacked only if it is set: so the cohorts of that version can be continued."""
        return {name: value for name, value in asdict(self).items() if name not in LATER or value}

    def reading(self, checks: Checks = "refuse") -> Reading:
        """How the files of a case are read. `checks` is not the recipe's: it changes no image."""
        return Reading(self.resample, not self.coregister, self.orientation, self.labels, checks)


def is_size(value: Any) -> bool:
    """Whether a setting is three numbers above 0."""
    return isinstance(value, list) and len(value) == 3 and all(isinstance(n, int | float) and n > 0 for n in value)


class Stopwatch(dict[str, float]):
    """Seconds by stage, for the summary; not stored."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self[name] = self.get(name, 0.0) + time.perf_counter() - start


class Placed:
    """A case's scans on the grid that the recipe stores, before the crop."""

    def __init__(self, name: str, scans: Scans, recipe: Recipe, spacing: float | Sequence[float] = 0) -> None:
        """Resampled to voxels of `spacing` mm, one number or (z, y, x), or left as scanned if that is 0. Raises CaseError if no brain is left."""
        self.volumes, self.mask, self.labels, self.affine = scans.volumes, scans.mask, scans.labels, scans.affine
        if spacing:
            self.volumes, self.mask, self.labels, self.affine = resample(
                scans.volumes, scans.mask, scans.labels, scans.affine, spacing
            )
            if not self.mask.any():
                raise CaseError(f"{name}: no brain is left at recipe.spacing={spacing}: give a smaller one")
        self.recipe, self.spacing = recipe, spacing_of(self.affine)
        self.shape = self.shape_of_crop(name)
        self.offset = crop_offset(self.mask, self.shape)
        self.box = bounding_box(self.mask)  # three quarters of a scan are background
        self.inside = self.mask[self.box]

    def shape_of_crop(self, name: str) -> tuple[int, int, int]:
        """(z, y, x) voxels of the crop. Raises CaseError if it is absurd for the grid."""
        if self.recipe.box:
            x, y, z = self.recipe.box
            return z, y, x
        shape = crop_shape(self.recipe.crop, self.spacing)
        if np.prod(np.array(shape, float)) > LARGEST_CROP * self.mask.size:
            voxel = " x ".join(f"{side:.3g}" for side in reversed(self.spacing))
            what = f"the crop would have {' x '.join(map(str, shape[::-1]))} voxels of {voxel} mm"
            raise CaseError(f"{name}: {what}: correct the voxel size in the headers, or give a smaller recipe.crop=")
        return shape

    def refuse_larger(self, name: str) -> None:
        """Raise CaseError for a brain that is larger than the box that was to hold every brain."""
        brain = extent(self.mask)
        if self.recipe.crop == "brain" and any(size > most for size, most in zip(brain, self.shape, strict=True)):
            sizes = f"{' x '.join(map(str, brain[::-1]))} voxels, and the boxes of this store {' x '.join(map(str, self.shape[::-1]))}"
            raise CaseError(f"{name}: its brain has {sizes}: make the cohort again in another store=")

    def standardise(self, file: str, channel: int, watch: Stopwatch) -> tuple[Volume, Statistics]:
        """A contrast without its bias field, in the box around the brain, and its statistics. Raises CaseError naming the file."""
        with watch.stage("n4"):
            try:
                corrected = correct(self.volumes[channel][self.box], self.inside, self.spacing, self.recipe.n4)
            except RuntimeError as error:  # ITK's
                why = str(error).strip().splitlines()[-1]
                raise CaseError(f"{file}: bias correction failed ({why}): recipe.n4.enabled=false leaves it out") from error
        with watch.stage("normalise"):
            try:
                return corrected, statistics(corrected, self.inside, self.recipe.clip_percent)
            except ValueError as error:
                raise CaseError(f"{file}: {error}") from error

    def z_scores(self, corrected: Volume, stats: Statistics) -> npt.NDArray[Any]:
        """In the box around the brain, in the type that the recipe stores."""
        return normalise(corrected, self.inside, stats, self.recipe.dtype)

    def crop(self, z_scores: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """What is stored of z-scores in the box."""
        return self.part(z_scores, self.offset, self.shape)

    def part(self, z_scores: npt.NDArray[Any], offset: Sequence[int], shape: Sequence[int]) -> npt.NDArray[Any]:
        """(..., z, y, x) z-scores in the box -> any part of the grid, background elsewhere."""
        return crop(z_scores, [o - side.start for o, side in zip(offset, self.box, strict=True)], shape, BACKGROUND)


def brain_extent(case: Case, recipe: Recipe, checks: Checks, require: Sequence[str]) -> list[int]:
    """(z, y, x) voxels of the brain on the grid that the recipe stores; empty for a case that cannot be used."""
    try:
        case.check(require)
        scans = read(case, recipe.reading(checks))
        tiny = replace(recipe, box=[1, 1, 1])  # none is cropped here
        return extent(Placed(case.name, scans, tiny, recipe.spacing).mask) if recipe.spacing else extent(scans.mask)
    except CaseError:
        return []


def box_of(extents: Sequence[Sequence[int]]) -> list[int]:
    """The smallest box (x, y, z), in multiples of 16 voxels, that holds brains of these (z, y, x) extents."""
    return [-(-int(most) // MULTIPLE) * MULTIPLE for most in np.max(extents, axis=0)[::-1]]


def process(
    case: Case, recipe: Recipe, watch: Stopwatch, checks: Checks = "refuse"
) -> tuple[Record, npt.NDArray[Any], npt.NDArray[np.uint8]]:
    """The record, image (modality, z, y, x) and labels (z, y, x) of a case. Raises CaseError if its files cannot be used."""
    with watch.stage("read"):
        scans = read(case, recipe.reading(checks))
        source = origin(case)
        for modality, movement in scans.moved.items():
            source[modality]["moved"] = movement
        measured = {m: quality(volume, scans.mask) for m, volume in zip(scans.modalities, scans.volumes, strict=True)}
        counts = {str(label): int((scans.labels == label).sum()) for label in present(scans.labels)}
    with watch.stage("resample"):
        placed = Placed(case.name, scans, recipe, recipe.spacing)
        placed.refuse_larger(case.name)
    lesions = placed.labels[placed.box]
    stored, intensity, shares = [], {}, {}
    for channel, modality in enumerate(scans.modalities):
        file = f"{case.name}: {case.files[modality].name}"
        corrected, stats = placed.standardise(file, channel, watch)
        with watch.stage("normalise"):
            intensity[modality], shares[modality] = stats.record(), clip_share(corrected, lesions, stats)
            stored.append(placed.crop(placed.z_scores(corrected, stats)))
    kept = int((stored[0] != BACKGROUND).sum())
    whole = int(placed.mask.sum())
    if kept < LEAST * whole:
        voxel = " x ".join(f"{side:.3g}" for side in reversed(placed.spacing))
        what = f"the crop keeps {kept / whole:.1%} of its brain, in voxels of {voxel} mm"
        raise CaseError(f"{case.name}: {what}: correct the voxel size in the headers, or give a larger recipe.crop=")
    step = np.eye(4)
    step[:3, 3] = placed.offset[::-1]
    content = {modality: array_digest(channel) for modality, channel in zip(scans.modalities, stored, strict=True)}
    labels = crop(placed.labels, placed.offset, placed.shape, 0)
    tumour = int((placed.labels > 0).sum())
    if tumour and (cut := 1 - int((labels > 0).sum()) / tumour) > LOST:
        scans.noted.append(("seg", f"{cut:.0%} of the tumour lies outside the crop: recipe.crop=brain keeps every brain whole"))
    record = Record(
        subject=case.name, patient=case.patient, grade=case.grade, modalities=scans.modalities, shape=list(placed.shape),
        spacing=list(placed.spacing), affine=(placed.affine @ step).tolist(), source=source, dtypes=scans.dtypes,
        scaling=scans.scaling, content=content, canonical_shape=list(placed.mask.shape), crop_offset=list(placed.offset),
        brain_size=extent(placed.mask), brain_voxels=kept, brain_voxels_lost=whole - kept, intensity=intensity,
        quality=measured, clip_share=shares, label_voxels=counts, has_labels="seg" in case.files, noted=[*case.noted, *scans.noted], **scans.original,
    )  # fmt: skip
    return record, np.stack(stored), labels

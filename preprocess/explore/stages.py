"""One subject at each stage of the recipe, computed by the functions that to_zarr uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from preprocess.bias import correct
from preprocess.cohort import BACKGROUND, Cohort
from preprocess.cohort.arrays import array_digest
from preprocess.geometry import crop, resample, spacing_of, uncrop
from preprocess.intensity import normalise, statistics
from preprocess.recipe import Recipe
from preprocess.source.brats import Case
from preprocess.source.scans import read

Volumes = npt.NDArray[Any]  # (modality, z, y, x)


@dataclass
class Stages:
    """Volumes on the canonical grid, except `result`, which is on the crop."""

    subject: str
    modalities: list[str]
    spacing: tuple[float, float, float]  # (z, y, x) in mm
    mask: npt.NDArray[np.bool_]  # (z, y, x), the brain
    scanned: Volumes | None  # in source units; None without the source files
    corrected: Volumes  # after N4, in source units
    bounds: list[tuple[float, float]]  # clip bounds in source units, by modality
    z: Volumes  # z-scores, background -9
    offset: tuple[int, ...]  # of the crop, (z, y, x)
    result: Volumes  # as stored
    same: bool  # whether `result` equals the stored image to the last bit

    @property
    def bias(self) -> Volumes | None:
        """The field by which N4 divided each volume, over its mean in the brain, which is arbitrary; 1 outside the brain."""
        if self.scanned is None:
            return None
        usable = self.mask & (self.scanned != 0)
        field = np.divide(self.scanned, self.corrected, out=np.ones_like(self.corrected), where=usable)
        means = np.stack([one[inside].mean() for one, inside in zip(field, usable, strict=True)])
        return np.where(usable, field / means[:, None, None, None], 1)


def repeated(cohort: Cohort, case: Case) -> Stages:
    """All stages, from the source files. Raises CaseError if they can no longer be used."""
    record = cohort.record(case.name)
    recipe = Recipe.of(cohort.recipe)
    scans = read(case, recipe.reading("warn"))
    volumes, mask, affine = scans.volumes, scans.mask, scans.affine
    if recipe.spacing:
        volumes, mask, _, affine = resample(volumes, mask, scans.labels, affine, recipe.spacing)
    spacing = spacing_of(affine)
    corrected = np.stack([correct(volume, mask, spacing, recipe.n4) for volume in volumes])
    stats = [statistics(volume, mask, recipe.clip_percent) for volume in corrected]
    z = np.stack([normalise(volume, mask, s, recipe.dtype) for volume, s in zip(corrected, stats, strict=True)])
    result = np.stack([crop(volume, record.crop_offset, record.shape, BACKGROUND) for volume in z])
    same = {m: array_digest(channel) for m, channel in zip(scans.modalities, result, strict=True)} == record.content
    bounds = [(s.raw_low, s.raw_high) for s in stats]
    return Stages(
        case.name, scans.modalities, spacing, mask, volumes, corrected, bounds, z, tuple(record.crop_offset), result, same
    )


def stored(cohort: Cohort, subject: str) -> Stages:
    """The stages that the store can show: from the bias-corrected intensities on, and only inside the crop."""
    record, image = cohort.record(subject), cohort.image(subject)
    z = uncrop(image, record.crop_offset, record.canonical_shape, BACKGROUND)
    mask = z[0] != BACKGROUND
    of = [record.intensity[modality] for modality in record.modalities]
    corrected = np.stack([np.where(mask, volume * s["std"] + s["mean"], 0) for volume, s in zip(z, of, strict=True)])
    bounds = [(s["raw_low"], s["raw_high"]) for s in of]
    z_spacing, y_spacing, x_spacing = record.spacing
    spacing = (z_spacing, y_spacing, x_spacing)
    return Stages(
        subject, record.modalities, spacing, mask, None, corrected, bounds, z, tuple(record.crop_offset), image, same=True
    )

"""Chooses the subjects whose images are read, and collects numbers from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from preprocess.cohort import BACKGROUND, Cohort, Record
from preprocess.recipe import Recipe
from preprocess.source.brats import Case
from preprocess.source.labels import label_name
from preprocess.source.scans import read
from preprocess.splits import take

Cases = Mapping[str, Case]
BINS = 120
Z_RANGE = (-5.0, 7.0)


@dataclass
class Histograms:
    """Densities of one contrast inside the brain, one row per subject: in source units, and as z-scores."""

    before_edges: npt.NDArray[np.float64]
    after_edges: npt.NDArray[np.float64]
    before: list[npt.NDArray[np.float64]] = field(default_factory=list)
    after: list[npt.NDArray[np.float64]] = field(default_factory=list)
    raw_bounds: list[tuple[float, float]] = field(default_factory=list)  # clip bounds of each subject
    z_bounds: list[tuple[float, float]] = field(default_factory=list)


def chosen(cohort: Cohort, count: int) -> list[str]:
    """At most `count` subjects, evenly spread over grades and names."""
    order = sorted(cohort.subjects, key=lambda subject: (cohort.record(subject).grade, subject))
    return take(order, min(count, len(order)))[0]


def examples(cohort: Cohort, subjects: Sequence[str]) -> list[str]:
    """A few of the subjects: two to four of each grade, from small to large tumours; without a tumour only if none has one."""
    volume = {subject: sum(label_ml(cohort.record(subject)).values()) for subject in subjects}
    pool = [subject for subject in subjects if volume[subject]] or list(subjects)
    grades: dict[str, list[str]] = {}
    for subject in sorted(pool, key=lambda subject: (volume[subject], subject)):
        grades.setdefault(cohort.record(subject).grade, []).append(subject)
    each = max(2, 4 // len(grades))
    return [subject for grade in sorted(grades) for subject in take(grades[grade], min(each, len(grades[grade])))[0]]


def largest(cohort: Cohort, subjects: Sequence[str]) -> str:
    """The subject with the largest tumour."""
    return max(subjects, key=lambda subject: sum(label_ml(cohort.record(subject)).values()))


def label_ml(record: Record) -> dict[str, float]:
    """Volume in ml by the label's name; labels are counted on the scan's own grid, not on the stored one."""
    voxel = abs(float(np.linalg.det(np.array(record.original_affine)[:3, :3]))) / 1000
    volumes: dict[str, float] = {}
    for label, count in record.label_voxels.items():
        volumes[label_name(label)] = volumes.get(label_name(label), 0) + count * voxel
    return volumes


def histograms(cohort: Cohort, subjects: Sequence[str], cases: Cases) -> dict[str, Histograms]:
    """By contrast, from the subjects that have it. Before: as scanned if `cases` has the files, else bias-corrected, from the store.

    Raises StoreError if an array is damaged, CaseError if a file is.
    """
    from rich.progress import track

    by_modality: dict[str, Histograms] = {}
    for subject in track(subjects, "histograms", transient=True):
        record, image = cohort.record(subject), cohort.image(subject)
        brain = image[0] != BACKGROUND
        scanned = intensities_scanned(cases[subject], Recipe.of(cohort.recipe)) if cases else {}
        for channel, modality in enumerate(record.modalities):
            stats = record.intensity[modality]
            z = image[channel][brain]
            raw = scanned[modality] if scanned else z * stats["std"] + stats["mean"]
            densities = by_modality.setdefault(modality, Histograms(raw_edges(cohort, modality), np.linspace(*Z_RANGE, BINS + 1)))
            densities.before.append(density(raw, densities.before_edges))
            densities.after.append(density(z, densities.after_edges))
            densities.raw_bounds.append((stats["raw_low"], stats["raw_high"]))
            densities.z_bounds.append((stats["clip_low"], stats["clip_high"]))
    return {modality: by_modality[modality] for modality in cohort.modalities if modality in by_modality}


def intensities_scanned(case: Case, recipe: Recipe) -> dict[str, npt.NDArray[Any]]:
    """The brain's intensities by contrast."""
    scans = read(case, recipe.reading("warn"))
    return {modality: volume[scans.mask] for modality, volume in zip(scans.modalities, scans.volumes, strict=True)}


def raw_edges(cohort: Cohort, modality: str) -> npt.NDArray[np.float64]:
    """Bins that include the clip bounds of nine in ten subjects: one scan in other units must not squeeze the others.

    A width above 1 is a whole number: most scans hold whole numbers, and each bin must contain equally many of them.
    """
    stats = [record.intensity[modality] for record in cohort.records.values() if modality in record.modalities]
    low = min(0.0, float(np.percentile([s["raw_low"] for s in stats], 10)))
    high = 1.15 * float(np.percentile([s["raw_high"] for s in stats], 90))
    width = (high - low) / BINS
    width = float(np.ceil(width)) if width > 0.5 else width
    return np.asarray(np.floor(low) - 0.5 + width * np.arange(BINS + 1)) if width >= 1 else np.linspace(low, high, BINS + 1)


def density(values: npt.NDArray[Any], edges: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Share of all values per unit, so that values beyond the edges count too."""
    return np.asarray(np.histogram(values, edges)[0] / (len(values) * (edges[1] - edges[0])))


def losses(cohort: Cohort, most: int = 8) -> list[tuple[str, float]]:
    """The subjects with most brain outside the crop, with the share, largest first."""
    lost = {subject: record.brain_share_lost for subject, record in cohort.records.items() if record.brain_voxels_lost}
    return sorted(lost.items(), key=lambda item: (-item[1], item[0]))[:most]

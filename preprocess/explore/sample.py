"""Which subjects are looked at closely, and what is read of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from preprocess.cohort import BACKGROUND, Cohort, Record
from preprocess.explore.flags import lost_share
from preprocess.explore.style import label_name
from preprocess.source.brats import Case
from preprocess.source.scans import read
from preprocess.splits import take

Cases = Mapping[str, Case]
BINS = 120
Z_RANGE = (-5.0, 7.0)


@dataclass
class Histograms:
    """Densities of one contrast inside the brain, one row a subject: in source units, and as z-scores."""

    before_edges: npt.NDArray[np.float64]
    after_edges: npt.NDArray[np.float64]
    before: list[npt.NDArray[np.float64]] = field(default_factory=list)
    after: list[npt.NDArray[np.float64]] = field(default_factory=list)
    raw_bounds: list[tuple[float, float]] = field(default_factory=list)  # of the clip, a subject each
    z_bounds: list[tuple[float, float]] = field(default_factory=list)


def chosen(cohort: Cohort, count: int) -> list[str]:
    """At most `count` subjects, evenly spread over the grades and the names."""
    order = sorted(cohort.subjects, key=lambda subject: (cohort.record(subject).grade, subject))
    return take(order, min(count, len(order)))[0]


def examples(cohort: Cohort, subjects: Sequence[str]) -> list[str]:
    """A few of the subjects: of each grade two to four, spread from small to large tumours; those without any only if there are no others."""
    volume = {subject: sum(label_ml(cohort.record(subject)).values()) for subject in subjects}
    pool = [subject for subject in subjects if volume[subject]] or list(subjects)
    grades: dict[str, list[str]] = {}
    for subject in sorted(pool, key=lambda subject: (volume[subject], subject)):
        grades.setdefault(cohort.record(subject).grade, []).append(subject)
    each = max(2, 4 // len(grades))
    return [subject for grade in sorted(grades) for subject in take(grades[grade], min(each, len(grades[grade])))[0]]


def largest(cohort: Cohort, subjects: Sequence[str]) -> str:
    """The one with the largest tumour."""
    return max(subjects, key=lambda subject: sum(label_ml(cohort.record(subject)).values()))


def label_ml(record: Record) -> dict[str, float]:
    """Volume in ml by the label's name; labels are counted on the scan's own grid, whatever the stored one is."""
    voxel = abs(float(np.linalg.det(np.array(record.original_affine)[:3, :3]))) / 1000
    volumes: dict[str, float] = {}
    for label, count in record.label_voxels.items():
        volumes[label_name(label)] = volumes.get(label_name(label), 0) + count * voxel
    return volumes


def histograms(cohort: Cohort, subjects: Sequence[str], cases: Cases) -> dict[str, Histograms]:
    """By contrast, of the subjects that have it. Before: as scanned where `cases` has the files, else bias-corrected, from the store.

    Raises StoreError if an array is damaged, CaseError if a file is.
    """
    from rich.progress import track

    found: dict[str, Histograms] = {}
    for subject in track(subjects, "histograms", transient=True):
        record, image = cohort.record(subject), cohort.image(subject)
        brain = image[0] != BACKGROUND
        scanned = intensities_scanned(cases[subject], cohort.recipe["resample"]) if cases else {}
        for channel, modality in enumerate(record.modalities):
            stats = record.intensity[modality]
            z = image[channel][brain]
            raw = scanned[modality] if scanned else z * stats["std"] + stats["mean"]
            to = found.setdefault(modality, Histograms(raw_edges(cohort, modality), np.linspace(*Z_RANGE, BINS + 1)))
            to.before.append(density(raw, to.before_edges))
            to.after.append(density(z, to.after_edges))
            to.raw_bounds.append((stats["raw_low"], stats["raw_high"]))
            to.z_bounds.append((stats["clip_low"], stats["clip_high"]))
    return {modality: found[modality] for modality in cohort.modalities if modality in found}


def intensities_scanned(case: Case, grid: str) -> dict[str, npt.NDArray[Any]]:
    """By contrast, those of the brain."""
    scans = read(case, grid)
    return {modality: volume[scans.mask] for modality, volume in zip(scans.modalities, scans.volumes, strict=True)}


def raw_edges(cohort: Cohort, modality: str) -> npt.NDArray[np.float64]:
    """Bins up to where nine of ten subjects have their clip bounds: one scan in other units must not squeeze the others.

    Above 1 they are whole numbers wide, for scans mostly are whole numbers, of which each bin must hold as many.
    """
    stats = [record.intensity[modality] for record in cohort.records.values() if modality in record.modalities]
    low = min(0.0, float(np.percentile([s["raw_low"] for s in stats], 10)))
    high = 1.15 * float(np.percentile([s["raw_high"] for s in stats], 90))
    width = (high - low) / BINS
    width = float(np.ceil(width)) if width > 0.5 else width
    return np.asarray(np.floor(low) - 0.5 + width * np.arange(BINS + 1)) if width >= 1 else np.linspace(low, high, BINS + 1)


def density(values: npt.NDArray[Any], edges: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Share of all values for each unit, so that those beyond the edges count too."""
    return np.asarray(np.histogram(values, edges)[0] / (len(values) * (edges[1] - edges[0])))


def losses(cohort: Cohort, most: int = 8) -> list[tuple[str, float]]:
    """The subjects that lose most of their brain to the crop, with the share, worst first."""
    lost = {subject: lost_share(record) for subject, record in cohort.records.items() if record.brain_voxels_lost}
    return sorted(lost.items(), key=lambda item: (-item[1], item[0]))[:most]

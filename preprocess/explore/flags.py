"""What is odd in a cohort: found in the records of all subjects, and in where their labels lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from preprocess.cohort import BACKGROUND, Cohort, Record
from preprocess.cohort.verify import repeats

CEILINGS = (32767, 65535, -32768)  # of int16 and uint16: an overflow, or a marker that an export left in
FAR = 50  # standard deviations above the brain's mean: 18 is the most in the real scans looked at
OUTSIDE = 0.002  # of the brain: a dozen times the most in those scans, and a twentieth of one layer of voxels around a brain
LOST = 0.01  # of the brain, or of the tumour
KNOWN_LABELS = {"1", "2", "3", "4"}


@dataclass(frozen=True)
class Flag:
    """One odd thing."""

    subject: str
    contrast: str  # or "seg", or empty where it is the subject as a whole
    what: str
    number: str


def flags(cohort: Cohort) -> list[Flag]:
    """All that is odd, by subject. Raises StoreError if an array is damaged."""
    from rich.progress import track

    found = [*set_aside(cohort), *missing(cohort), *same_images(cohort)]
    for subject in track(cohort.subjects, "flags", transient=True):
        record = cohort.record(subject)
        found += [*odd_intensities(record), *odd_crop(record), *odd_labels(cohort, record)]
    return sorted(found, key=lambda flag: (flag.subject, flag.contrast))


def set_aside(cohort: Cohort) -> Iterator[Flag]:
    """The cases that the recipe could not use, an empty contrast among them."""
    for case, reason in cohort.rejected.items():
        yield Flag(case, "", f"set aside: {reason.removeprefix(f'{case}: ')}", "")


def missing(cohort: Cohort) -> Iterator[Flag]:
    """What a subject lacks and another has."""
    had = {subject: {*record.modalities, *(["seg"] * record.has_labels)} for subject, record in cohort.records.items()}
    anywhere = set().union(*had.values())
    for subject, kinds in had.items():
        yield from (Flag(subject, kind, "missing, though others have it", "") for kind in anywhere - kinds)


def same_images(cohort: Cohort) -> Iterator[Flag]:
    """Equal images under two names, of subjects or of contrasts."""
    for (first, modality), (other, its) in repeats(cohort):
        what = f"the same image as {first}'s {modality}" if first != other else f"the same image as its {modality}"
        yield Flag(other, its, what, "")


def odd_intensities(record: Record) -> Iterator[Flag]:
    """Maxima, masks and slices that no scanner makes."""
    for modality in record.modalities:
        quality, typical = record.quality[modality], record.intensity[modality]
        maximum = quality["maximum"]
        far = (maximum - typical["mean"]) / typical["std"]
        if ends := [end for end in (quality["minimum"], maximum) if end in CEILINGS]:
            yield Flag(record.subject, modality, "an intensity is the last number of 16 bits", f"{ends[0]:.0f}")
        elif far > FAR:
            what = f"the maximum, {maximum:.5g}, is so many standard deviations above the mean"
            yield Flag(record.subject, modality, what, f"{far:.0f}")
        if quality["outside"] > OUTSIDE:
            what = "0 in brain that another contrast shows: the masks disagree"
            yield Flag(record.subject, modality, what, f"{quality['outside']:.1%}")
        if quality["constant_slices"]:
            yield Flag(
                record.subject, modality, "axial slices with brain have one intensity", f"{quality['constant_slices']:.0f}"
            )


def odd_crop(record: Record) -> Iterator[Flag]:
    if (share := lost_share(record)) > LOST:
        yield Flag(record.subject, "", "brain lost by the crop", f"{share:.1%}")


def odd_labels(cohort: Cohort, record: Record) -> Iterator[Flag]:
    """Segmentations that are empty, strange, cut by the crop, or beside the brain."""
    if not record.has_labels:
        return
    if not record.label_voxels:
        yield Flag(record.subject, "seg", "the segmentation is empty", "0 ml")
        return
    if strange := sorted(set(record.label_voxels) - KNOWN_LABELS, key=int):
        yield Flag(record.subject, "seg", "labels that BRATS does not have", ", ".join(strange))
    tumour = cohort.labels(record.subject) > 0
    stored, whole = int(tumour.sum()), sum(record.label_voxels.values())
    if not cohort.recipe.get("spacing") and (cut := 1 - stored / whole) > LOST:  # counts of two grids cannot be compared
        yield Flag(record.subject, "seg", "tumour lost by the crop", f"{cut:.1%}")
    if stored:
        slices = np.flatnonzero(tumour.any(axis=(1, 2)))
        part = slice(int(slices[0]), int(slices[-1]) + 1)  # a subject's other slices need not be read
        beside = tumour[part] & (cohort.lazy_image(record.subject)[0, part] == BACKGROUND)
        if (share := beside.sum() / stored) > LOST:
            yield Flag(record.subject, "seg", "tumour outside the brain", f"{share:.1%}")


def lost_share(record: Record) -> float:
    """Share of the brain's voxels that the crop leaves out."""
    return record.brain_voxels_lost / (record.brain_voxels + record.brain_voxels_lost)


def print_flags(found: list[Flag], most: int = 40) -> None:
    """A table in the terminal of the first `most`."""
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    if not found:
        print("no flags")
        return
    table = Table(
        Column("subject", overflow="fold"),
        "contrast",
        Column("what", overflow="fold"),
        "number",
        title=f"{len(found)} flags",
        title_justify="left",
    )
    for flag in found[:most]:
        table.add_row(*(Text(part) for part in (flag.subject, flag.contrast, flag.what, flag.number)))
    Console().print(table)
    if len(found) > most:
        print(f"and {len(found) - most} more, which the page lists")

"""Detects what is odd in a cohort, from all subjects' records and labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from preprocess.cohort import BACKGROUND, Cohort, Record, verify
from preprocess.cohort.summary import LOST

CEILINGS = (32767, 65535, -32768)  # limits of int16 and uint16: an overflow, or a marker left by an export
FAR = 50  # standard deviations above the brain's mean: the most in the real scans we checked is 18
OUTSIDE = 0.002  # share of the brain: twelve times the most in those scans, a twentieth of the voxels on a brain's surface
KNOWN_LABELS = {"1", "2", "3", "4"}


@dataclass(frozen=True)
class Flag:
    """One odd property of a subject or case."""

    subject: str
    contrast: str  # or "seg", or empty if it concerns the whole subject
    what: str
    number: str


def flags(cohort: Cohort) -> list[Flag]:
    """Everything odd, ordered by subject. Raises StoreError if an array is damaged."""
    from rich.progress import track

    flagged = [*set_aside(cohort), *missing(cohort), *same_images(cohort)]
    for subject in track(cohort.subjects, "flags", transient=True):
        record = cohort.record(subject)
        flagged += [*noted(record), *odd_intensities(record), *odd_crop(record), *odd_labels(cohort, record)]
    return sorted(flagged, key=lambda flag: (flag.subject, flag.contrast))


def set_aside(cohort: Cohort) -> Iterator[Flag]:
    """The cases that the recipe could not use, for example for an empty contrast."""
    for case, reason in cohort.rejected.items():
        yield Flag(case, "", f"set aside: {reason.removeprefix(f'{case}: ')}", "")


def missing(cohort: Cohort) -> Iterator[Flag]:
    """Contrasts and segmentations that a subject lacks and others have."""
    kinds_of = {subject: {*record.modalities, *(["seg"] * record.has_labels)} for subject, record in cohort.records.items()}
    anywhere = set().union(*kinds_of.values())
    for subject, kinds in kinds_of.items():
        yield from (Flag(subject, kind, "missing, though others have it", "") for kind in anywhere - kinds)


def same_images(cohort: Cohort) -> Iterator[Flag]:
    """The same image under two names, of subjects or of contrasts."""
    for (first, modality), (other, its) in verify.same_images(cohort):
        what = f"the same image as {first}'s {modality}" if first != other else f"the same image as its {modality}"
        yield Flag(other, its, what, "")


def noted(record: Record) -> Iterator[Flag]:
    """What to_zarr noted while it read the files."""
    yield from (Flag(record.subject, kind, sentence, "") for kind, sentence in record.noted)


def odd_intensities(record: Record) -> Iterator[Flag]:
    """Maxima, masks and slices that a scanner does not produce."""
    for modality in record.modalities:
        quality, typical = record.quality[modality], record.intensity[modality]
        maximum = quality["maximum"]
        far = (maximum - typical["mean"]) / typical["std"]
        if ends := [end for end in (quality["minimum"], maximum) if end in CEILINGS]:
            yield Flag(record.subject, modality, "an intensity is at the limit of 16 bits", f"{ends[0]:.0f}")
        elif far > FAR:
            what = f"maximum of {maximum:.5g}, in standard deviations above the mean"
            yield Flag(record.subject, modality, what, f"{far:.0f}")
        if quality["outside"] > OUTSIDE and not any("brain" in sentence and "apart" in sentence for _, sentence in record.noted):
            what = "share of the brain that is 0 here but not in other contrasts: the masks differ"
            yield Flag(record.subject, modality, what, f"{quality['outside']:.1%}")
        if quality["constant_slices"]:
            yield Flag(
                record.subject,
                modality,
                "axial slices where all of the brain has the same intensity",
                f"{quality['constant_slices']:.0f}",
            )


def odd_crop(record: Record) -> Iterator[Flag]:
    if (share := record.brain_share_lost) > LOST:
        yield Flag(record.subject, "", "brain outside the crop", f"{share:.1%}")


def odd_labels(cohort: Cohort, record: Record) -> Iterator[Flag]:
    """Segmentations that are empty, have unknown labels, are cut by the crop, or lie outside the brain."""
    if not record.has_labels:
        return
    if not record.label_voxels:
        yield Flag(record.subject, "seg", "the segmentation is empty", "0 ml")
        return
    if unknown := sorted(set(record.label_voxels) - KNOWN_LABELS, key=int):
        yield Flag(record.subject, "seg", "labels that BRATS does not have", ", ".join(unknown))
    tumour = cohort.labels(record.subject) > 0
    stored, whole = int(tumour.sum()), sum(record.label_voxels.values())
    if not cohort.recipe.get("spacing") and (cut := 1 - stored / whole) > LOST:  # counts on different grids cannot be compared
        yield Flag(record.subject, "seg", "tumour outside the crop", f"{cut:.1%}")
    if stored:
        slices = np.flatnonzero(tumour.any(axis=(1, 2)))
        part = slice(int(slices[0]), int(slices[-1]) + 1)  # the other slices need not be read
        beside = tumour[part] & (cohort.lazy_image(record.subject)[0, part] == BACKGROUND)
        if (share := beside.sum() / stored) > LOST and not any(kind == "seg" for kind, _ in record.noted):
            yield Flag(record.subject, "seg", "tumour outside the brain", f"{share:.1%}")


def print_flags(flagged: list[Flag], most: int = 40) -> None:
    """Print a table of the first `most` flags."""
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    if not flagged:
        print("no flags")
        return
    table = Table(
        Column("subject", overflow="fold"),
        "contrast",
        Column("what", overflow="fold"),
        "number",
        title=f"{len(flagged)} flags",
        title_justify="left",
    )
    for flag in flagged[:most]:
        table.add_row(*(Text(part) for part in (flag.subject, flag.contrast, flag.what, flag.number)))
    Console().print(table)
    if len(flagged) > most:
        print(f"and {len(flagged) - most} more, which are on the page")

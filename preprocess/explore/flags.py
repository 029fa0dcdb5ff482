"""Detects what is odd in a cohort, from all subjects' records and labels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from preprocess.cohort import BACKGROUND, Cohort, Record, verify
from preprocess.cohort.oddities import LOST, Flag, oddities


def flags(cohort: Cohort) -> list[Flag]:
    """Everything odd, ordered by subject. Raises StoreError if an array is damaged."""
    from rich.progress import track

    flagged = [*set_aside(cohort), *missing(cohort), *same_images(cohort)]
    for subject in track(cohort.subjects, "flags", transient=True):
        record = cohort.record(subject)
        flagged += [*oddities(record), *odd_crop(record), *odd_tumour(cohort, record)]
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


def odd_crop(record: Record) -> Iterator[Flag]:
    if (share := record.brain_share_lost) > LOST:
        yield Flag(record.subject, "", "brain outside the crop", f"{share:.1%}")


def odd_tumour(cohort: Cohort, record: Record) -> Iterator[Flag]:
    """Tumours that the crop cuts or that lie outside the brain, of which to_zarr has noted nothing, as version 0.1 did not."""
    if not record.label_voxels or any(kind == "seg" for kind, _ in record.noted):
        return
    tumour = cohort.labels(record.subject) > 0
    stored, whole = int(tumour.sum()), sum(record.label_voxels.values())
    if not cohort.recipe.get("spacing") and (cut := 1 - stored / whole) > LOST:  # counts on different grids cannot be compared
        yield Flag(record.subject, "seg", "tumour outside the crop", f"{cut:.1%}")
    if stored:
        slices = np.flatnonzero(tumour.any(axis=(1, 2)))
        part = slice(int(slices[0]), int(slices[-1]) + 1)  # the other slices need not be read
        beside = tumour[part] & (cohort.lazy_image(record.subject)[0, part] == BACKGROUND)
        if (share := beside.sum() / stored) > LOST:
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

"""What the commands print about a cohort."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from preprocess.cohort.advice import next_step
from preprocess.cohort.oddities import LOST, oddities
from preprocess.cohort.reader import Cohort
from preprocess.cohort.verify import same_images
from preprocess.source.labels import label_name
from preprocess.splits import SPLITS

GRADES = ("HGG", "LGG", "unknown")
MUCH = 0.3  # share of a label that the clip flattens, on average over the subjects


def summarise(cohort: Cohort, kept: int, seconds: Sequence[Mapping[str, float]], rejected: Mapping[str, str]) -> int:
    """Print what to_zarr made: `kept` subjects from an earlier run, and new ones with their `seconds` by stage. Returns the exit status."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, soft_wrap=True)
    print_splits(cohort)
    print_clip_share(cohort)
    lost = {subject: record.brain_share_lost for subject, record in cohort.records.items()}
    worst = max(lost, key=lambda subject: lost[subject])
    console.print(f"brain outside the crop: mean {np.mean(list(lost.values())):.2%}, most {lost[worst]:.2%} ({escape(worst)})")
    if cut := sum(share > LOST for share in lost.values()):
        keeps = "recipe.crop=brain in another store= keeps every brain whole"
        console.print(f"[yellow]warning[/yellow] {cut} subjects lose over {100 * LOST:g} % of their brain to the crop: {keeps}")
    if pairs := same_images(cohort):
        console.print(f"[yellow]warning[/yellow] {escape(duplicates(pairs))}")
    for line in noted(cohort):
        console.print(f"[yellow]warning[/yellow] {escape(line)}")
    print_seconds(seconds)
    if kept:
        console.print(f"{kept} subjects were kept from an earlier run")
    for reason in rejected.values():
        console.print(f"[red]set aside[/red] {escape(reason)}")
    print(next_step(cohort))
    if rejected:
        where = cohort.path / "rejected.json"
        print(f"{len(cohort.subjects)} subjects are in the cohort, {len(rejected)} cases were set aside: see {where}")
    return 1 if rejected else 0


def duplicates(pairs: Sequence[tuple[tuple[str, str], tuple[str, str]]], most: int = 2) -> str:
    """One sentence on pairs of the same image."""
    some = ", ".join(f"{first}'s {modality} and {second}'s {its}" for (first, modality), (second, its) in pairs[:most])
    if len(pairs) == 1:
        return f"{some} are the same image: is this one scan under two names?"
    return f"{len(pairs)} pairs of images are the same, such as {some}: are these scans under two names?"


def noted(cohort: Cohort, most: int = 20) -> Iterator[str]:
    """A line for everything odd about the subjects; one for all subjects of which the same holds."""
    subjects: dict[str, list[str]] = {}
    for subject, record in cohort.records.items():
        for flag in oddities(record):
            sentence = f"{flag.contrast}: {flag.what} ({flag.number})" if flag.number else flag.what
            subjects.setdefault(sentence, []).append(subject)
    for sentence, named in list(subjects.items())[:most]:
        yield f"{named[0]}{f' and {len(named) - 1} more' * (len(named) > 1)}: {sentence}"
    if len(subjects) > most:
        yield f"{len(subjects) - most} more of this kind: {shlex.join(['python', '-m', 'preprocess.explore', str(cohort.path)])} lists all"


def print_splits(cohort: Cohort) -> None:
    """A table of the subjects by split and grade; of the first fold, if there are several."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    folds = cohort.manifest["folds"]
    title = f"{cohort.path}" + f", fold 0 of {len(folds)}" * (len(folds) > 1)
    table = Table("split", "subjects", *GRADES, title=Text(title))
    for name, members in by_split(cohort, folds[0]).items():
        grades = Counter(cohort.record(subject).grade for subject in members)
        table.add_row(name, str(len(members)), *(str(grades[grade]) for grade in GRADES))
    Console().print(table)


def by_split(cohort: Cohort, fold: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """A fold's subjects by split, and under `none` those that are in no split, if there are any."""
    assigned = {name: fold[name] for name in SPLITS}
    rest = sorted(set(cohort.subjects).difference(*assigned.values()))
    return {**assigned, **({"none": rest} if rest else {})}


def print_clip_share(cohort: Cohort) -> None:
    """A table of the share of each label that the clip changes: mean over the subjects, and largest; and what that means."""
    from rich.console import Console
    from rich.table import Table

    if not (shares := clip_shares(cohort)):
        return
    percent = cohort.recipe.get("clip_percent", 0)
    table = Table("label", *cohort.modalities, title=f"share of a label's voxels beyond the {percent:g} % clip: mean (most)")
    for label, by_modality in shares.items():
        table.add_row(label, *(f"{np.mean(each):.0%} ({max(each):.0%})" if each else "" for each in by_modality.values()))
    Console().print(table)
    if any(np.mean(each) > MUCH for by_modality in shares.values() for each in by_modality.values() if each):
        print(
            "Training sees these voxels at the clip's bound, so all equally bright or dark: where their shades matter, train with "
            "data.clip=false (the store itself is not clipped)."
        )


def clip_shares(cohort: Cohort) -> dict[str, dict[str, list[float]]]:
    """By the label's name and modality, the share of the label's voxels beyond the clip bounds: a number for each subject that has both.
    Enhancing tumour is 4 until 2022 and 3 from 2023 on."""
    shares: dict[str, dict[str, list[float]]] = {}
    labels = sorted({label for record in cohort.records.values() for label in record.label_voxels}, key=int)
    for label in labels:
        by_modality = shares.setdefault(label_name(label), {m: [] for m in cohort.modalities})
        for record in cohort.records.values():
            for m, each in record.clip_share.items():
                by_modality[m] += [each[label]] if label in each else []
    return shares


def print_seconds(seconds: Sequence[Mapping[str, float]]) -> None:
    """The mean time of a subject, and each stage's share of it."""
    total: Counter[str] = Counter()
    for stages in seconds:
        total.update(stages)
    if spent := sum(total.values()):
        shares = ", ".join(f"{name} {value / spent:.0%}" for name, value in total.items())
        print(f"{len(seconds)} subjects, {spent / len(seconds):.1f} s of one core each: {shares}")

"""What a command prints about a cohort."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from preprocess.cohort import Cohort
from preprocess.cohort.verify import repeats
from preprocess.splits import SPLITS

GRADES = ("HGG", "LGG", "unknown")


def summarise(cohort: Cohort, kept: int, seconds: Sequence[Mapping[str, float]], rejected: Mapping[str, str]) -> int:
    """Print what to_zarr made: `kept` subjects were there before, `seconds` by stage of the new ones; the exit status."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, soft_wrap=True)
    print_splits(cohort)
    print_clip_share(cohort)
    lost = {s: r.brain_voxels_lost / (r.brain_voxels + r.brain_voxels_lost) for s, r in cohort.records.items()}
    worst = max(lost, key=lambda s: lost[s])
    console.print(f"brain outside the crop: mean {np.mean(list(lost.values())):.2%}, most {lost[worst]:.2%} ({escape(worst)})")
    if cut := sum(share > 0.01 for share in lost.values()):
        console.print(f"[yellow]warning[/yellow] {cut} subjects lose over 1 % of their brain: a larger recipe.crop= keeps it")
    for (first, modality), (second, its) in repeats(cohort):
        both = f"{escape(first)}'s {modality} and {escape(second)}'s {its}"
        console.print(f"[yellow]warning[/yellow] {both} are the same image: one scan under two names?")
    print_seconds(seconds)
    if kept:
        console.print(f"{kept} subjects were finished before and kept")
    for reason in rejected.values():
        console.print(f"[red]set aside[/red] {escape(reason)}")
    print(f"next: python slurm/launch.py sweep=lr {shlex.quote(f'data.store={cohort.path}')}")
    if rejected:
        where = cohort.path / "rejected.json"
        print(f"{len(cohort.subjects)} subjects are in the cohort, {len(rejected)} cases were set aside: see {where}")
    return 1 if rejected else 0


def print_splits(cohort: Cohort) -> None:
    """A table of subjects by split and grade; of the first fold, where there are several."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    folds = len(cohort.manifest["folds"])
    table = Table("split", "subjects", *GRADES, title=Text(f"{cohort.path}" + f", fold 0 of {folds}" * (folds > 1)))
    assigned = {name: cohort.split(name) for name in SPLITS}
    in_none = sorted(set(cohort.subjects) - {s for members in assigned.values() for s in members})
    for name, members in (*assigned.items(), *([("none", in_none)] if in_none else [])):
        grades = Counter(cohort.record(s).grade for s in members)
        table.add_row(name, str(len(members)), *(str(grades[grade]) for grade in GRADES))
    Console().print(table)


def print_clip_share(cohort: Cohort) -> None:
    """A table of how much of each label the clip changes: mean over subjects, and the most."""
    from rich.console import Console
    from rich.table import Table

    labels = sorted({label for record in cohort.records.values() for label in record.label_voxels}, key=int)
    if not labels:
        return
    percent = cohort.recipe.get("clip_percent", 0)
    table = Table("label", *cohort.modalities, title=f"share of a label's voxels beyond the {percent:g} % clip: mean (most)")
    for label in labels:
        row = []
        for modality in cohort.modalities:
            found = [r.clip_share[modality][label] for r in cohort.records.values() if label in r.clip_share.get(modality, {})]
            row.append(f"{np.mean(found):.0%} ({max(found):.0%})" if found else "")
        table.add_row(label, *row)
    Console().print(table)


def print_seconds(seconds: Sequence[Mapping[str, float]]) -> None:
    """How long a subject took, and each stage's share of it."""
    total: Counter[str] = Counter()
    for stages in seconds:
        total.update(stages)
    if spent := sum(total.values()):
        stages_text = ", ".join(f"{name} {value / spent:.0%}" for name, value in total.items())
        print(f"{len(seconds)} subjects, {spent / len(seconds):.1f} s of one core each: {stages_text}")

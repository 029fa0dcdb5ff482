"""Compare two runs over the patients that both have scored: differences with intervals, tests, effect sizes.

    python -m distsynth.compare runs/lr/simo_lr-0.0001 runs/lr/simo_lr-0.0002
    python -m distsynth.compare a=runs/lr/simo_lr-0.0001 b=voxelwise            with one of its baselines
    python -m distsynth.compare a='runs/seeds/simo (3 runs)' b='runs/seeds/mimo (3 runs)' metric=ssim       two rows of a sweep's table
    python -m distsynth.compare a=runs/first b=runs/second cohort=clinic        on data.external.clinic

Values are paired by patient. Of a row of several runs each patient's value is the mean over those runs. The interval is a studentised bootstrap over
patients, p is Wilcoxon's signed-rank test, adjusted by Holm over all rows that are printed.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from distsynth.evaluation import earlier
from distsynth.evaluation.baselines import BASELINES
from distsynth.evaluation.statistics import FEWEST, ROUGH, Paired, Place, Values, by_patient, holm, paired
from distsynth.evaluation.sweep_scores import read_runs
from distsynth.evaluation.table import markdown
from distsynth.modalities import Modality
from distsynth.run_directory import RunDirectory, is_sweep
from preprocess.shared.errors import SettingError, UserError
from preprocess.shared.settings import command, parse, required, setting

LOWER_IS_BETTER = ("nmae",)
DIGITS = {"psnr": 2}

Metric = Literal["psnr", "ssim", "nmae", "dice", "judge_dice"]


@dataclass
class Settings:
    POSITIONAL: ClassVar = ("a", "b")
    a: str = required("a run's folder, or SWEEP/ROW, a row of its table of several runs")
    b: str = required(f"another, or one of a's baselines: {', '.join(BASELINES)}")
    metric: Metric = setting("psnr", "psnr, ssim, nmae, dice or judge_dice")
    regions: list[str] = setting(lambda: ["brain", "tumour"], "the regions to compare in")
    cohort: str = setting("test", "test, val or the name of an external cohort")
    out: str = setting("", "also write the rows to this CSV file")


@dataclass
class Side:
    """One of the two: its values by output and region, and by patient."""

    name: str
    values: dict[Place, dict[str, float]] = field(default_factory=dict)
    digests: set[str] = field(default_factory=set)  # of the cohort that was scored, where it is known


def main(words: Sequence[str]) -> int:
    settings = parse(Settings, words)
    a, b = (side_of(name, settings) for name in (settings.a, settings.b))
    if a.digests and b.digests and not a.digests & b.digests:
        raise UserError(f"{a.name} and {b.name} were scored on different cohorts {settings.cohort}: evaluate both on one")
    rows, left_out = compare(a, b, settings)
    if not rows:
        raise UserError(
            f"{a.name} and {b.name} have no patient of {settings.cohort} with {settings.metric} of the same output and region"
        )
    print(f"{settings.metric} on {settings.cohort}: a = {a.name}, b = {b.name}")
    print("\n".join(markdown(rows)))
    few = min(int(row["patients"]) for row in rows)
    for note in notes(settings, left_out, few):
        print(note)
    if settings.out:
        write(Path(settings.out), rows)
    return 0


def side_of(word: str, settings: Settings) -> Side:
    """The values that a word names. Raises UserError if it names no run, or one without scores."""
    model = "segmentor" if settings.metric == "dice" else "synthesised"
    if word in BASELINES:
        if word == settings.a:
            raise SettingError(f"a={word} is a baseline: give a run as a= and the baseline as b=")
        word, model = settings.a, word
    side = Side(f"{model} of {word}" if model in BASELINES else word)
    every = []
    for run in runs_of(word):
        scores = earlier.read(run)
        if scores is None:
            raise UserError(f"{word} has no scores: python -m distsynth.evaluate {run.path} makes them")
        if settings.cohort not in scores["cohorts"]:
            known = ", ".join(scores["cohorts"])
            raise SettingError(f"{word} was not scored on cohort={settings.cohort}: on {known}")
        side.digests |= {digest for digest in [scores["cohorts"][settings.cohort].get("digest")] if digest}
        every.append(scores)
    side.values = by_patient(every, settings.cohort, model, settings.metric)
    return side


def runs_of(word: str) -> Sequence[RunDirectory]:
    """The run at a path, or those of a row of a sweep's table, `SWEEP/NAME (3 runs)`."""
    path = Path(word)
    if path.name.endswith(" runs)") and is_sweep(path.parent):
        rows = {row.name: row.directories for row in read_runs(path.parent)[0] if row.each}
        if path.name not in rows:
            raise UserError(f"{word} is no row of several runs: {', '.join(rows) or 'this sweep has none'}")
        return rows[path.name]
    run = RunDirectory(path)
    run.read_identity()
    return [run]


def compare(a: Side, b: Side, settings: Settings) -> tuple[list[dict[str, str]], set[str]]:
    """A row for each output and region that both have, and the patients of only one of them."""
    results, left_out = [], set()
    for place in places(a, b, settings.regions):
        left_out |= a.values[place].keys() ^ b.values[place].keys()
        if both := sorted(a.values[place].keys() & b.values[place].keys()):
            ours, theirs = (np.array([side.values[place][subject] for subject in both]) for side in (a, b))
            results.append((place, ours, theirs, paired(ours, theirs)))
    adjusted = holm([result.p for *_, result in results])
    return [row_of(*each, p, settings.metric) for each, p in zip(results, adjusted, strict=True)], left_out


def row_of(place: Place, ours: Values, theirs: Values, result: Paired, p: float, metric: str) -> dict[str, str]:
    digits, sign = DIGITS.get(metric, 3), -1 if metric in LOWER_IS_BETTER else 1
    return {
        "output": Modality(place[0]).title,
        "region": place[1],
        "patients": str(result.patients),
        "a": f"{ours.mean():.{digits}f}",
        "b": f"{theirs.mean():.{digits}f}",
        "a - b": f"{result.difference:+.{digits}f}",
        "95 % interval": f"{result.low:+.{digits}f} to {result.high:+.{digits}f}" if np.isfinite(result.low) else "-",
        "p": shown(result.p),
        "p, Holm": shown(p),
        "effect size": f"{result.effect:+.2f}",
        "a better in": str(int((sign * (ours - theirs) > 0).sum())),
    }


def places(a: Side, b: Side, regions: Sequence[str]) -> Iterator[Place]:
    """The outputs and regions that both have, in the order of the regions."""
    for output in dict.fromkeys(output for output, _ in a.values):
        yield from ((output, region) for region in regions if (output, region) in a.values and (output, region) in b.values)


def shown(p: float) -> str:
    return "-" if not np.isfinite(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def notes(settings: Settings, left_out: set[str], few: int) -> Iterator[str]:
    """What the table means, and what it leaves out."""
    which = "lower" if settings.metric in LOWER_IS_BETTER else "higher"
    yield f"{settings.metric}: {which} is better; effect size: matched-pairs rank-biserial correlation, -1 to 1."
    if left_out:
        yield f"warning: {len(left_out)} patients that only one of the two has scored are left out, such as {min(left_out)}"
    if few < ROUGH:
        least = f"; of {few} patients p cannot be below {2 * 0.5**few:.2g}" if 1 < few < FEWEST + 1 else ""
        yield f"warning: with fewer than {ROUGH} patients intervals and p are rough{least}"


def write(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Raises UserError if the file cannot be written."""
    try:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise UserError(f"cannot write out={path}: {error.strerror}") from error
    print(f"written: {path}")


if __name__ == "__main__":
    command(main, __doc__, Settings)

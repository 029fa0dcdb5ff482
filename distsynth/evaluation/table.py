"""One table over a sweep: the best setting per variant and output, chosen on `val`, reported on test, beside the baselines; and a second one for
runs that make no images (`segment`), by Dice."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distsynth import config as configuration
from distsynth.evaluation.metrics import summarise
from distsynth.evaluation.scoring import best_baseline
from distsynth.modalities import Modality, Variant
from distsynth.run_directory import RunDirectory


@dataclass(frozen=True)
class Scored:
    """A run that has scores."""

    name: str
    variant: Variant
    scores: dict[str, Any]

    @property
    def images(self) -> bool:
        """Whether the run's method makes images."""
        return bool(self.scores.get("images", True))


def write_table(sweep: Path) -> str:
    """Write table.md and table.csv into the sweep's folder; a narrower table for the terminal, PSNR alone."""
    runs, without = read_runs(sweep)
    rows = [row for group in by_variant([run for run in runs if run.images]) for row in variant_rows(group)]
    found = [row for group in by_variant([run for run in runs if not run.images]) for row in segmentor_rows(group)]
    notes = footnotes(runs, without)
    both = [*markdown(rows), *([""] if rows and found else []), *markdown(found)]
    (sweep / "table.md").write_text("\n".join([f"# Sweep {sweep.name}", "", *both, "", *notes, ""]))
    (sweep / "table.csv").write_text(as_csv([*rows, *found]))
    shown = [note for note in notes if not note.startswith("*")]
    both = [*markdown([narrow(row) for row in rows]), *([""] if rows and found else []), *markdown(found)]
    return "\n".join(["", *both, "", *shown, f"All columns: {sweep / 'table.md'}", ""])


def by_variant(runs: list[Scored]) -> Iterator[list[Scored]]:
    for variant in sorted({run.variant.name for run in runs}):
        yield [run for run in runs if run.variant.name == variant]


def read_runs(sweep: Path) -> tuple[list[Scored], list[str]]:
    """The runs with scores, those that differ in seed or fold alone taken together: a fold, or a lucky seed, is not to be chosen on its val
    patients. And the names of those without."""
    alike: dict[str, list[Scored]] = {}
    without = []
    for path in sorted(sweep.glob("*/run.json")):
        run = RunDirectory(path.parent)
        if run.scores.is_file():
            config = configuration.load(run.config)
            settings = configuration.to_yaml(replace(config, seed=0, data=replace(config.data, fold=0)))
            alike.setdefault(settings, []).append(Scored(run.path.name, config.variant, json.loads(run.scores.read_text())))
        else:
            without.append(run.path.name)
    return [together(runs) for runs in alike.values()], without


def together(runs: Sequence[Scored]) -> Scored:
    """Runs that differ in seed or fold alone as one, its means taken over the patients of all; its name is what theirs have in common."""
    if len(runs) == 1:
        return runs[0]
    rows = [row for run in runs for row in run.scores["rows"]]
    cohorts = {
        name: {
            "subjects": sorted({subject for run in runs for subject in run.scores["cohorts"][name]["subjects"]}),
            "scores": summarise([row for row in rows if row["cohort"] == name]),
        }
        for name in runs[0].scores["cohorts"]
    }
    shared = "_".join(parts[0] for parts in zip(*(run.name.split("_") for run in runs), strict=False) if len(set(parts)) == 1)
    return Scored(f"{shared or runs[0].name} ({len(runs)} runs)", runs[0].variant, {**runs[0].scores, "cohorts": cohorts})


def variant_rows(runs: list[Scored]) -> Iterator[dict[str, str]]:
    """One row per output: the run that is best on val, its test figures and baselines, and its in-brain figures on other cohorts."""
    for output in runs[0].variant.outputs:
        best = max(runs, key=lambda run: on_val(run, output))
        others = [name for name in best.scores["cohorts"] if name not in ("val", "test")]
        yield {
            "variant": best.variant.name,
            "output": Modality(output).title,
            "best run": best.name,
            "val": cell(best, "val", output, "brain").split(" / ")[0],
            "brain": cell(best, "test", output, "brain"),
            **beside_baseline(best, "test", output),
            "tumour": cell(best, "test", output, "tumour"),
            "tumour, unclipped": cell(best, "test", output, "tumour_raw"),
            "volume*": cell(best, "test", output, "volume"),
            **judged(best, output),
            **{key: value for name in others for key, value in external(best, name, output).items()},
        }


def segmentor_rows(runs: list[Scored]) -> Iterator[dict[str, str]]:
    """One row per modality: the segmentor that is best on val, its Dice there, on test and on other cohorts."""
    for output in runs[0].variant.outputs:
        best = max(runs, key=lambda run: dice(run, "val", output) or 0.0)
        yield {
            "variant": best.variant.name,
            "tumour in": Modality(output).title,
            "best run": best.name,
            **{f"{name}: Dice": number(dice(best, name, output)) for name in best.scores["cohorts"]},
        }


def judged(run: Scored, output: str) -> dict[str, str]:
    """The frozen judge's Dice on the synthesised and on the real image, where there is a judge."""
    made, real = (dice(run, "test", output, model, "judge_dice") for model in ("synthesised", "real"))
    return {} if made is None else {"tumour found": f"{number(made)} (real: {number(real)})"}


def dice(run: Scored, cohort: str, output: str, model: str = "segmentor", metric: str = "dice") -> float | None:
    """Mean over the patients with a tumour; None if there are none."""
    models = scores_of(run, cohort, output).get("tumour", {})
    found: float | None = models.get(model, {}).get(metric, {}).get("mean")
    return found


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def beside_baseline(run: Scored, cohort: str, output: str) -> dict[str, str]:
    found = best_baseline(scores_of(run, cohort, output).get("brain", {}), run.scores["beaten_against"])
    if found is None:
        return {"best baseline": "-", "beats it": "-"}
    name, baseline = found
    shown = f"copy of {Modality(run.scores['copied'][output]).title}" if name == "copy" else name
    gain = mean(run, cohort, output, "brain", "psnr") - baseline
    return {"best baseline": f"{baseline:.2f} ({shown})", "beats it": f"{'yes' if gain > 0 else 'NO'}, {gain:+.2f}"}


def external(run: Scored, cohort: str, output: str) -> dict[str, str]:
    """Another cohort's in-brain figures, with its own baseline."""
    baseline = beside_baseline(run, cohort, output)
    return {
        f"{cohort}: brain": cell(run, cohort, output, "brain"),
        f"{cohort}: best baseline": baseline["best baseline"],
        f"{cohort}: beats it": baseline["beats it"],
    }


def cell(run: Scored, cohort: str, output: str, region: str) -> str:
    """`PSNR / SSIM / NMAE` of a region."""
    scores = scores_of(run, cohort, output).get(region, {}).get("synthesised")
    if not scores:
        return "-"
    return " / ".join(
        f"{scores[metric]['mean']:.{digits}f}" for metric, digits in (("psnr", 2), ("ssim", 3), ("nmae", 3)) if metric in scores
    )


def scores_of(run: Scored, cohort: str, output: str) -> dict[str, Any]:
    """By region; nothing where no patient of the cohort could be scored."""
    scores: dict[str, Any] = run.scores["cohorts"].get(cohort, {"scores": {}})["scores"].get(output, {})
    return scores


def on_val(run: Scored, output: str) -> float:
    """What a run is chosen by; the runs are equal where no val patient has the output."""
    return mean(run, "val", output, "brain", "psnr") if scores_of(run, "val", output) else 0.0


def mean(run: Scored, cohort: str, output: str, region: str, metric: str) -> float:
    return float(run.scores["cohorts"][cohort]["scores"][output][region]["synthesised"][metric]["mean"])


def footnotes(runs: list[Scored], without: list[str]) -> list[str]:
    notes = []
    if runs:
        counts = ", ".join(f"{name} {len(cohort['subjects'])}" for name, cohort in runs[0].scores["cohorts"].items())
        patients = f"Patients: {counts}."
        if any(run.images for run in runs):
            notes = [
                "PSNR (dB) / SSIM / NMAE of whole volumes in a region, mean over patients; val: in the brain, which chose run and checkpoint.",
                f"{patients} Range: the clipped truth's own inside the brain. Baselines see the training patients only.",
                "* the full volume, background included: for comparison with papers only.",
            ]
        if any(judged(run, output) for run in runs for output in run.variant.outputs):
            notes.append("Tumour found: Dice of the whole tumour, as evaluate.judge finds it in the image.")
        if not all(run.images for run in runs):
            notes.append(
                f"Dice of the whole tumour, mean over patients; val chose run and checkpoint.{'' if notes else ' ' + patients}"
            )
        if any(run.name.endswith(" runs)") for run in runs):
            notes.append("(n runs): they differ in fold or seed alone, and the means are over the patients of all.")
    return notes + ([f"Without scores: {', '.join(without)}."] if without else [])


def narrow(row: dict[str, str]) -> dict[str, str]:
    """A row for the terminal: without the columns for papers, and of each figure the PSNR."""
    return {key: value.split(" / ")[0] for key, value in row.items() if "unclipped" not in key and "volume" not in key}


def markdown(rows: list[dict[str, str]]) -> list[str]:
    """Rows as a Markdown table, padded so that it also reads in a terminal."""
    if not rows:
        return []
    columns = columns_of(rows)
    widths = {c: max(len(c), *(len(row.get(c, "-")) for row in rows)) for c in columns}

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    head = [line([c.ljust(widths[c]) for c in columns]), line(["-" * widths[c] for c in columns])]
    return head + [line([row.get(c, "-").ljust(widths[c]) for c in columns]) for row in rows]


def columns_of(rows: list[dict[str, str]]) -> list[str]:
    """The columns of all rows, in the order in which they come up: not every run has every cohort, or a judge."""
    return list(dict.fromkeys(column for row in rows for column in row))


def as_csv(rows: list[dict[str, str]]) -> str:
    out = io.StringIO()
    if rows:
        writer = csv.DictWriter(out, columns_of(rows), restval="-")
        writer.writeheader()
        writer.writerows(rows)
    return out.getvalue()

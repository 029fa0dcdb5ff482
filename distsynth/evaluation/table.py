"""One table over a sweep: the best setting per variant, output and method, chosen on `val`, reported on test, beside the baselines; and a second
one for runs that make no images (`segment`), by Dice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from distsynth.config import Config
from distsynth.evaluation.captions import captions, others
from distsynth.evaluation.numbers import as_csv, margin_interval, row_of
from distsynth.evaluation.scoring import best_baseline
from distsynth.evaluation.sweep_scores import Scored, read_run, read_runs
from distsynth.modalities import Modality
from distsynth.run_directory import RunDirectory

Row = dict[str, str]

FOR_PAPERS = {"tumour, unclipped", "volume*"}
MARGINS = {"95 % interval", "of each", "SSIM beyond", "NMAE beyond", "over the copy"}
COSTS = {"updates", "seconds", "parameters"}
FILES_ONLY = FOR_PAPERS | MARGINS | COSTS  # columns that the terminal has no room for

FIGURES_NOTE = (
    "PSNR (dB) / SSIM / NMAE of whole volumes in a region, mean over patients; val: in the brain, which chose run and checkpoint."
)
VOLUME_NOTE = "* the full volume, background included: only for comparison with papers."
MARGINS_NOTE = (
    "Inside the test patients' brains: SSIM beyond, above the baseline with the best SSIM; NMAE beyond, the share by which it is below the "
    "baseline with the lowest NMAE; over the copy, dB above the nearest input, copied."
)
INTERVAL_NOTE = (
    "95 % interval: of the dB above the best baseline, by a bootstrap over the test patients; rough below 50, none below 5."
)
EACH_NOTE = "Of each: dB of each run above the best baseline, in the order of the runs' names."


def write_table(sweep: Path) -> str:
    """Write table.md and table.csv into the sweep's folder; returns a narrower table for the terminal, with only the PSNR."""
    runs, without = read_runs(sweep)
    rows, notes = rows_of(runs, without)
    (sweep / "table.md").write_text("\n".join([f"# Sweep {sweep.name}", "", *both(*rows), "", *notes, ""]))
    (sweep / "table.csv").write_text(as_csv([row_of(run, output) for run, output in chosen(runs)]))
    return "\n".join([*on_terminal(runs, rows, notes), f"All columns: {sweep / 'table.md'}, as numbers in table.csv", ""])


def table_of_run(run: RunDirectory, config: Config | None = None) -> str:
    """The same table for the terminal, of one run that has scores; `config` where they are of another variant than its own."""
    rows, notes = rows_of(runs := [read_run(run, config)], [])
    return "\n".join(on_terminal(runs, rows, notes))


def rows_of(runs: list[Scored], without: list[str]) -> tuple[tuple[list[Row], list[Row]], list[str]]:
    """The rows of the runs that make images and of those that do not, and the notes below them."""
    images = list(image_rows([run for run in runs if run.images]))
    tumours = [segmentor_row(*each) for each in best_segmentors([run for run in runs if not run.images])]
    return (images, tumours), footnotes(runs, [*images, *tumours], without)


def on_terminal(runs: list[Scored], rows: tuple[list[Row], list[Row]], notes: list[str]) -> list[str]:
    """Captions, the narrow tables, and those notes that are on columns of theirs."""
    images, tumours = ([narrow(row) for row in part] for part in rows)
    notes = [note for note in notes if note not in (FIGURES_NOTE, VOLUME_NOTE, MARGINS_NOTE, INTERVAL_NOTE, EACH_NOTE)]
    return ["", *captions(runs), *both(images, tumours), "", *notes]


def both(images: list[Row], tumours: list[Row]) -> list[str]:
    """The two tables' lines."""
    return [*markdown(images), *([""] if images and tumours else []), *markdown(tumours)]


def by_variant(runs: list[Scored]) -> Iterator[list[Scored]]:
    for variant in sorted({run.variant.name for run in runs}):
        yield [run for run in runs if run.variant.name == variant]


def chosen(runs: list[Scored]) -> Iterator[tuple[Scored, str]]:
    """The run and the output of every row, in the order of the tables."""
    yield from best_images([run for run in runs if run.images])
    yield from best_segmentors([run for run in runs if not run.images])


def best_images(runs: list[Scored]) -> Iterator[tuple[Scored, str]]:
    """Per variant, output and method the run that is best on val."""
    for group in by_variant(runs):
        for output in group[0].variant.outputs:
            for method in sorted({run.method for run in group}):
                yield max((run for run in group if run.method == method), key=lambda run: on_val(run, output)), output


def image_rows(runs: list[Scored]) -> Iterator[Row]:
    several = len({run.method for run in runs}) > 1
    for best, output in best_images(runs):
        yield image_row(best, output, {"method": best.method} if several else {})


def image_row(run: Scored, output: str, method: Row) -> Row:
    """A run's test figures and baselines, its in-brain figures on other cohorts, and what it has cost."""
    return {
        "variant": run.variant.name,
        "output": Modality(output).title,
        **method,
        "best run": run.name,
        "val": cell(run, "val", output, "brain").split(" / ")[0],
        "brain": cell(run, "test", output, "brain"),
        **beside_baseline(run, "test", output),
        "tumour": cell(run, "test", output, "tumour"),
        "tumour, unclipped": cell(run, "test", output, "tumour_raw"),
        "volume*": cell(run, "test", output, "volume"),
        **judged(run, output),
        **{key: value for name in others(run) for key, value in external(run, name, output).items()},
        **margins(run, output),
        **costs(run),
    }


def best_segmentors(runs: list[Scored]) -> Iterator[tuple[Scored, str]]:
    """Per modality the segmentor that is best on val."""
    for group in by_variant(runs):
        for output in group[0].variant.outputs:
            yield max(group, key=lambda run: run.dice("val", output) or 0.0), output


def segmentor_row(run: Scored, output: str) -> Row:
    """A segmentor's Dice on val, on test and on other cohorts."""
    return {
        "variant": run.variant.name,
        "tumour in": Modality(output).title,
        "best run": run.name,
        **{f"{name}: Dice": number(run.dice(name, output)) for name in run.scores["cohorts"]},
        **costs(run),
    }


def costs(run: Scored) -> Row:
    """What a setting has cost."""
    return {name: f"{value / 1e6:.2f} M" if name == "parameters" else str(value) for name, value in run.cost.items()}


def judged(run: Scored, output: str) -> Row:
    """The frozen judge's Dice on the synthesised and on the real image, where there is a judge."""
    made, real = (run.dice("test", output, model, "judge_dice") for model in ("synthesised", "real"))
    return {} if made is None else {"tumour found": f"{number(made)} (real: {number(real)})"}


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def beside_baseline(run: Scored, cohort: str, output: str) -> Row:
    best = best_baseline(run.in_brain(cohort, output), run.scores["beaten_against"])
    if best is None:
        return {"best baseline": "-", "beats it": "-"}
    name, psnr = best
    title = f"copy of {Modality(run.scores['copied'][output]).title}" if name == "copy" else name
    gain = run.psnr(cohort, output) - psnr
    return {"best baseline": f"{psnr:.2f} ({title})", "beats it": f"{'yes' if gain > 0 else 'NO'}, {gain:+.2f}"}


def margins(run: Scored, output: str) -> Row:
    """More of the distance to the baselines, inside the brain of the test patients: of each of several runs in PSNR, and in SSIM and NMAE, each
    beside the baseline that is best in it. Empty where there are no baselines."""
    models = run.in_brain("test", output)
    baselines = [models[name] for name in run.scores["beaten_against"] if name in models]
    best = best_baseline(models, run.scores["beaten_against"])
    if best is None:
        return {}
    ssim = models["synthesised"]["ssim"]["mean"] - max(baseline["ssim"]["mean"] for baseline in baselines)
    nmae = 1 - models["synthesised"]["nmae"]["mean"] / min(baseline["nmae"]["mean"] for baseline in baselines)
    return {
        "95 % interval": between(*margin_interval(run, output, best[0])),
        **({"of each": " ".join(margin_of(each, output, best[0]) for each in run.each)} if run.each else {}),
        "SSIM beyond": f"{ssim:+.3f}",
        "NMAE beyond": f"{nmae:+.1%}",
        "over the copy": margin_of(run, output, "copy"),
    }


def between(low: float, high: float) -> str:
    return f"{low:+.2f} to {high:+.2f}" if np.isfinite(low) else "-"


def margin_of(run: Scored, output: str, baseline: str) -> str:
    """How many dB better than a baseline; the one that is best over several runs need not be the best of each."""
    if baseline not in run.in_brain("test", output):
        return "-"
    return f"{run.psnr('test', output) - run.psnr('test', output, baseline):+.2f}"


def external(run: Scored, cohort: str, output: str) -> Row:
    """Another cohort's in-brain figures, with its own baseline."""
    baseline = beside_baseline(run, cohort, output)
    return {
        f"{cohort}: brain": cell(run, cohort, output, "brain"),
        f"{cohort}: best baseline": baseline["best baseline"],
        f"{cohort}: beats it": baseline["beats it"],
    }


def cell(run: Scored, cohort: str, output: str, region: str) -> str:
    """`PSNR / SSIM / NMAE` of a region."""
    scores = run.regions(cohort, output).get(region, {}).get("synthesised")
    if not scores:
        return "-"
    return " / ".join(
        f"{scores[metric]['mean']:.{digits}f}" for metric, digits in (("psnr", 2), ("ssim", 3), ("nmae", 3)) if metric in scores
    )


def on_val(run: Scored, output: str) -> float:
    """What a run is chosen by; the runs are equal where no val patient has the output."""
    return run.psnr("val", output) if run.regions("val", output) else 0.0


def footnotes(runs: list[Scored], rows: list[Row], without: list[str]) -> list[str]:
    notes = []
    columns = columns_of(rows)
    if runs:
        counts = ", ".join(f"{name} {len(cohort['subjects'])}" for name, cohort in runs[0].scores["cohorts"].items())
        patients = f"Patients: {counts}."
        if any(run.images for run in runs):
            notes = [
                FIGURES_NOTE,
                f"{patients} Range: the clipped truth's own inside the brain. Baselines are made from the training patients only.",
                VOLUME_NOTE,
            ]
        if "tumour found" in columns:
            notes.append("Tumour found: Dice of the whole tumour, as the segmentor of evaluate.judge finds it in the image.")
        if not all(run.images for run in runs):
            notes.append(
                f"Dice of the whole tumour, mean over patients; val chose run and checkpoint.{'' if notes else ' ' + patients}"
            )
        noted = {"SSIM beyond": MARGINS_NOTE, "95 % interval": INTERVAL_NOTE, "of each": EACH_NOTE}
        notes += [note for column, note in noted.items() if column in columns]
        if any(run.each for run in runs):
            notes.append("(n runs): they differ only in fold or seed, and the means are over the patients of all.")
    return notes + ([f"Without scores: {', '.join(without)}."] if without else [])


def narrow(row: Row) -> Row:
    """A row for the terminal: without the columns of the files, and of each figure the PSNR."""
    return {key: value.split(" / ")[0] for key, value in row.items() if key not in FILES_ONLY}


def markdown(rows: list[Row]) -> list[str]:
    """Rows as a Markdown table, padded so that it also reads in a terminal."""
    if not rows:
        return []
    columns = columns_of(rows)
    widths = {c: max(len(c), *(len(row.get(c, "-")) for row in rows)) for c in columns}

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    head = [line([c.ljust(widths[c]) for c in columns]), line(["-" * widths[c] for c in columns])]
    return head + [line([row.get(c, "-").ljust(widths[c]) for c in columns]) for row in rows]


def columns_of(rows: list[Row]) -> list[str]:
    """The columns of all rows, in the order of their first use: not every run has every cohort, or a judge."""
    return list(dict.fromkeys(column for row in rows for column in row))

"""table.csv: the rows of a sweep's table with one number a column; what there is no number for is empty.

Columns are `COHORT REGION METRIC mean|sd|n` over the patients, for example `test brain psnr mean` in dB; `real image` after the region is the
judge's Dice on the image as acquired.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from distsynth.evaluation.scoring import best_baseline
from distsynth.evaluation.statistics import by_patient, interval
from distsynth.evaluation.sweep_scores import Scored
from distsynth.modalities import Modality

MODELS = {"synthesised": "", "segmentor": "", "real": "real image "}
STATISTICS = {"mean": "mean", "std": "sd", "n": "n"}


def row_of(run: Scored, output: str) -> dict[str, Any]:
    """A run's numbers for one of its outputs."""
    named = {"variant": run.variant.name, "output": Modality(output).title, "method": run.method, "best run": run.name}
    scores = {name: value for cohort in run.scores["cohorts"] for name, value in of_cohort(run, cohort, output)}
    return {**named, **scores, **dict(over_copy(run, output)), **run.cost}


def of_cohort(run: Scored, cohort: str, output: str) -> Iterator[tuple[str, Any]]:
    """Every metric in every region, and in the brain the baseline with the best PSNR and the distance to the best in each metric."""
    for region, models in run.regions(cohort, output).items():
        for model, title in MODELS.items():
            for metric, value in models.get(model, {}).items():
                for key, statistic in STATISTICS.items():
                    yield f"{cohort} {region} {title}{metric} {statistic}", value[key]
    models, names = run.in_brain(cohort, output), run.scores["beaten_against"]
    best = best_baseline(models, names)
    if best is None:
        return
    yield f"{cohort} best baseline", best[0]
    yield f"{cohort} best baseline psnr mean", best[1]
    made, baselines = models["synthesised"], [models[name] for name in names if name in models]
    yield f"{cohort} psnr above best baseline", made["psnr"]["mean"] - best[1]
    if "ssim" in made:
        yield f"{cohort} ssim above best baseline", made["ssim"]["mean"] - max(each["ssim"]["mean"] for each in baselines)
    if "nmae" in made:
        yield f"{cohort} nmae below best baseline", min(each["nmae"]["mean"] for each in baselines) - made["nmae"]["mean"]


def over_copy(run: Scored, output: str) -> Iterator[tuple[str, float]]:
    """On test, dB above the nearest input, copied; and of several runs how far each is above the best baseline of all."""
    models, best = run.in_brain("test", output), best_baseline(run.in_brain("test", output), run.scores["beaten_against"])
    if best is None:
        return
    if "copy" in models:
        yield "test psnr above copy", run.psnr("test", output) - run.psnr("test", output, "copy")
    low, high = margin_interval(run, output, best[0])
    if np.isfinite(low):
        yield from (("test psnr above best baseline, 95 % low", low), ("test psnr above best baseline, 95 % high", high))
    for number, each in enumerate(run.each, 1):
        if best[0] in each.in_brain("test", output):
            yield f"test psnr above best baseline, run {number}", each.psnr("test", output) - each.psnr("test", output, best[0])


def margin_interval(run: Scored, output: str, baseline: str) -> tuple[float, float]:
    """A 95 % interval of the dB above a baseline in the brain, paired by test patient; of several runs each patient's mean."""
    every = [each.scores for each in run.each or (run,)]
    made, theirs = (by_patient(every, "test", model, "psnr").get((output, "brain"), {}) for model in ("synthesised", baseline))
    return interval(np.array([made[subject] - theirs[subject] for subject in sorted(made.keys() & theirs.keys())]))


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    out = io.StringIO()
    if rows:
        writer = csv.DictWriter(out, list(dict.fromkeys(column for row in rows for column in row)))
        writer.writeheader()
        writer.writerows(rows)
    return out.getvalue()

"""Every method on one cohort, trained and scored as a user would: a table method x variant beside the baselines.

    python -m distsynth.bench methods data.store=data/phantom.zarr data.external.real=data/real.zarr data.rotate=false seeds=[0,1,2]

Each run is a folder of `out`, with its figures; a run that has scores is not made again. Of several seeds or folds (of a cohort made with
split.folds=) the figures are means over the patients of all, and the margin over the best baseline is given for each run too. "Beyond" in SSIM is a
difference and in NMAE the share by which it is lower, each from the baseline that is best in it. A method's small preset stands for it. Methods
that compare what they make with the truth have to beat every baseline inside the brain; those that never see it beside its input (cyclegan,
discogan, unit, and stargan, whose loss uses no pairs) the nearest input copied.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from distsynth import config as configuration
from distsynth.bench.words import apart
from distsynth.config import compose
from distsynth.evaluation.scoring import best_baseline
from distsynth.evaluation.table import Scored, beside_baseline, cell, dice, markdown, mean, number, scores_of, together
from distsynth.methods import registry
from distsynth.modalities import Modality, Variant
from distsynth.run_directory import CONFIGS, RunDirectory
from distsynth.tracking.journal import read
from distsynth.training import checkpoint
from distsynth.training.model import restore
from preprocess.shared.errors import SettingError, UserError
from preprocess.shared.settings import setting


@dataclass
class MethodsSettings:
    out: str = setting("runs/methods", "the folder of the runs")
    methods: list[str] = setting([], "presets of configs/method/ (empty: every small one)")
    variants: list[str] = setting(["siso", "simo", "mimo", "miso_t1c"], "variants, each with the methods that serve it")
    seeds: list[int] = setting([0], "trained once with each: how much of a margin is luck")
    folds: list[int] = setting([0], "and once on each, with other patients tested")


def main(words: Sequence[str]) -> int:
    settings, given = apart(MethodsSettings, words)
    for word in given:
        name, _, value = word.partition("=")
        if name in (many := {"seed": "seeds", "data.fold": "folds"}):
            raise SettingError(f"{word} is for one run: give {many[name]}=[{value}]")
    presets = settings.methods or sorted(path.stem for path in (CONFIGS / "method").glob("*_small.yaml"))
    planned = list(plan(presets, settings.variants, given))
    if not planned:
        raise SettingError(f"none of methods={presets} serves any of variants={settings.variants}")
    if not (settings.seeds and settings.folds):
        raise SettingError("seeds=[] or folds=[] leaves nothing to train: give at least one of each")
    images: list[dict[str, str]] = []
    tumours: list[dict[str, str]] = []
    for preset, variant in planned:
        runs = []
        for seed, fold in product(settings.seeds, settings.folds):
            runs.append(RunDirectory(Path(settings.out) / f"{preset}-{variant}-seed{seed}-fold{fold}"))
            print(runs[-1].path.name, file=sys.stderr, flush=True)
            train(runs[-1], [f"method={preset}", f"variant={variant}", *given, f"seed={seed}", f"data.fold={fold}"])
        each = [scored(run) for run in runs]
        if each[0].images:
            images += rows_of(each, preset, cost(runs))
        else:
            tumours += segmentor_rows(each, preset, cost(runs))
    table = "\n".join([*markdown(images), *([""] if images and tumours else []), *markdown(tumours)])
    (Path(settings.out) / "methods.md").write_text(table + "\n")
    print(table)
    return 0


def plan(presets: Sequence[str], variants: Sequence[str], given: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The pairs that go together. Raises SettingError for an unknown name and for settings that one of them does not take."""
    for preset in presets:
        for variant in variants:
            chosen = configuration.layers([f"variant={variant}", f"method={preset}"], ("variant", "method"))
            if Variant(**chosen.variant).kind in registry.method(chosen.method.name).kinds:
                compose([f"variant={variant}", f"method={preset}", *given])
                yield preset, variant


def train(run: RunDirectory, words: Sequence[str]) -> None:
    """Train and score, or go on with it. Raises UserError if it fails, or the folder holds a run with other settings."""
    if run.config.is_file() and configuration.to_yaml(compose(words)) != run.config.read_text():
        raise SettingError(f"{run.path} holds a run with other settings: give another out=, or remove it")
    if run.scores.is_file():
        return
    run.path.mkdir(parents=True, exist_ok=True)
    with (run.path / "log").open("ab") as log:
        done = subprocess.run(
            [sys.executable, "-m", "distsynth.train", f"run={run.path}", *words], stdout=log, stderr=log, env=dict(os.environ)
        )
    if done.returncode:
        last = (run.path / "log").read_text().strip().rpartition("\n")[2]
        raise UserError(f"{run.path.name} failed: {last.removeprefix('error: ')}")


def scored(run: RunDirectory) -> Scored:
    return Scored(run.path.name, configuration.load(run.config).variant, json.loads(run.scores.read_text()))


def cost(runs: Sequence[RunDirectory]) -> dict[str, str]:
    """Updates, seconds of training and parameters of runs that differ in seed or fold."""
    method = restore(configuration.load(runs[0].config), checkpoint.load(runs[0].checkpoints / "best.pt")).method
    return {
        "updates": str(max(line["step"] for line in read(runs[0].journal)[0] if line["kind"] == "metrics")),
        "seconds": f"{statistics.mean(map(seconds, runs)):.0f}",
        "parameters": f"{sum(p.numel() for p in method.parameters()) / 1e6:.2f} M",
    }


def rows_of(each: Sequence[Scored], preset: str, costs: dict[str, str]) -> Iterator[dict[str, str]]:
    """One row per output of runs that differ in seed or fold: in the brain and the tumour of the test patients, and in the brain of the
    other cohorts'."""
    scored = together(each)
    for output in scored.variant.outputs:
        yield {
            "method": preset,
            "variant": scored.variant.title,
            "output": Modality(output).title,
            "brain": short(cell(scored, "test", output, "brain")),
            **beside_baseline(scored, "test", output),
            **({"of each": " ".join(margins(scored, each, output))} if len(each) > 1 else {}),
            **beyond(scored, output),
            "over the copy": over_copy(scored, "test", output),
            "tumour": short(cell(scored, "test", output, "tumour")),
            **{
                f"{name}: brain": short(cell(scored, name, output, "brain"))
                for name in scored.scores["cohorts"]
                if name not in ("val", "test")
            },
            **costs,
        }


def segmentor_rows(each: Sequence[Scored], preset: str, costs: dict[str, str]) -> Iterator[dict[str, str]]:
    """One row per contrast that it finds tumours in: the Dice of the whole tumour in the real images."""
    scored = together(each)
    for output in scored.variant.outputs:
        dices = {f"{name}: Dice": number(dice(scored, name, output)) for name in scored.scores["cohorts"] if name != "val"}
        yield {"method": preset, "variant": scored.variant.title, "tumour in": Modality(output).title, **dices, **costs}


def margins(all_of_them: Scored, runs: Sequence[Scored], output: str) -> Iterator[str]:
    """How many dB each run is better, inside the brain of its test patients, than the baseline that is best over all runs."""
    best = best_baseline(scores_of(all_of_them, "test", output)["brain"], all_of_them.scores["beaten_against"])
    for run in runs:
        models = scores_of(run, "test", output)["brain"]
        yield f"{models['synthesised']['psnr']['mean'] - models[best[0]]['psnr']['mean']:+.2f}" if best else "-"


def beyond(run: Scored, output: str) -> dict[str, str]:
    """SSIM and NMAE inside the brain of the test patients, each beside the baseline that is best in it."""
    models = run.scores["cohorts"]["test"]["scores"][output]["brain"]
    baselines = [models[name] for name in run.scores["beaten_against"] if name in models]
    if not baselines:
        return {"SSIM beyond": "-", "NMAE beyond": "-"}
    made = models["synthesised"]
    ssim = made["ssim"]["mean"] - max(baseline["ssim"]["mean"] for baseline in baselines)
    nmae = 1 - made["nmae"]["mean"] / min(baseline["nmae"]["mean"] for baseline in baselines)
    return {"SSIM beyond": f"{ssim:+.3f}", "NMAE beyond": f"{nmae:+.1%}"}


def seconds(run: RunDirectory) -> float:
    """From the start of training to its last line of progress."""
    lines, _ = read(run.journal)
    started = next(line["time"] for line in lines if line["kind"] == "start")
    last = [line for line in lines if line["kind"] == "progress"][-1]
    return float(last["time"] - started) / 1000


def over_copy(run: Scored, cohort: str, output: str) -> str:
    """How many dB better than the input nearest to it, copied."""
    brain = scores_of(run, cohort, output)["brain"]
    if "copy" not in brain:
        return "-"
    copied = brain["copy"]["psnr"]["mean"]
    return f"{mean(run, cohort, output, 'brain', 'psnr') - copied:+.2f}"


def short(figures: str) -> str:
    """PSNR / SSIM of a cell."""
    return " / ".join(figures.split(" / ")[:2])

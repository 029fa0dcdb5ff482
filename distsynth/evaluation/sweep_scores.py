"""The scores of a sweep's runs as its table needs them: runs that differ only in seed or fold taken together, and what each setting has cost."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from distsynth import config as configuration
from distsynth.evaluation.metrics import summarise
from distsynth.modalities import Variant
from distsynth.run_directory import RunDirectory
from distsynth.tracking.journal import Line, read
from preprocess.shared.errors import StoreError, UserError
from preprocess.shared.files import open_plain, read_bytes

NOT_TRAINED = ("running_mean", "running_var", "num_batches_tracked", "_extra_state")  # batch norm's averages, image pools


@dataclass(frozen=True)
class Scored:
    """A run that has scores, or several that differ only in seed or fold."""

    name: str
    method: str
    variant: Variant
    scores: dict[str, Any]
    directories: tuple[RunDirectory, ...]
    each: tuple[Scored, ...] = ()  # the runs, where there are several

    @property
    def images(self) -> bool:
        """Whether the run's method makes images."""
        return bool(self.scores.get("images", True))

    def regions(self, cohort: str, output: str) -> dict[str, Any]:
        """The scores by region; empty where no patient of the cohort could be scored."""
        scores: dict[str, Any] = self.scores["cohorts"].get(cohort, {"scores": {}})["scores"].get(output, {})
        return scores

    def in_brain(self, cohort: str, output: str) -> dict[str, Any]:
        """By model."""
        models: dict[str, Any] = self.regions(cohort, output).get("brain", {})
        return models

    def psnr(self, cohort: str, output: str, model: str = "synthesised") -> float:
        """Inside the brain, dB, mean over the patients. Raises KeyError if there is none."""
        return float(self.in_brain(cohort, output)[model]["psnr"]["mean"])

    def dice(self, cohort: str, output: str, model: str = "segmentor", metric: str = "dice") -> float | None:
        """Mean over the patients with a tumour; None if there are none."""
        value: float | None = self.regions(cohort, output).get("tumour", {}).get(model, {}).get(metric, {}).get("mean")
        return value

    @cached_property
    def cost(self) -> dict[str, int]:
        """Updates, seconds of training (mean over the runs) and parameters, as far as the runs' files still show them."""
        journals = [read(run.journal)[0] for run in self.directories]
        updates = max((line["step"] for line in journals[0] if line["kind"] == "metrics"), default=0)
        time = mean(map(seconds, journals))
        count = parameters(self.directories[0].checkpoints / "best.pt")
        known: dict[str, int] = {
            "updates": updates,
            "seconds": round(time),
            "parameters": count,
        }
        return {name: value for name, value in known.items() if value}


def read_runs(sweep: Path) -> tuple[list[Scored], list[str]]:
    """The runs with scores, those that differ only in seed or fold taken together: neither a fold nor a lucky seed may be chosen on its val
    patients. And the names of those without."""
    alike: dict[str, list[Scored]] = {}
    without = []
    for path in sorted(sweep.glob("*/run.json")):
        run = RunDirectory(path.parent)
        if not run.scores.is_file():
            without.append(run.path.name)
            continue
        try:
            config = configuration.load(run.config)
            scored = read_run(run, config)
        except UserError as error:  # the other runs have a table all the same
            print(f"warning: {error}", file=sys.stderr)
            without.append(run.path.name)
            continue
        settings = configuration.to_yaml(replace(config, seed=0, data=replace(config.data, fold=0)))
        alike.setdefault(settings, []).append(scored)
    return [together(runs) for runs in alike.values()], without


def read_run(run: RunDirectory, config: configuration.Config | None = None) -> Scored:
    """A run that has scores. Raises UserError if its files cannot be read."""
    config = config or configuration.load(run.config)
    try:
        scores = json.loads(read_bytes(run.scores))
        whole = isinstance(scores["cohorts"], dict) and isinstance(scores.get("rows", []), list)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise StoreError(f"{run.scores} is damaged: remove it, and python -m distsynth.evaluate {run.path} makes it again")
    return Scored(run.path.name, config.method.name, config.variant, scores, (run,))


def together(runs: Sequence[Scored]) -> Scored:
    """Runs that differ only in seed or fold as one, its means taken over the patients of all; its name is the part that theirs share."""
    if len(runs) == 1:
        return runs[0]
    rows = [row for run in runs for row in run.scores["rows"]]
    cohorts = {
        name: {
            "subjects": sorted({s for run in runs for s in run.scores["cohorts"].get(name, {"subjects": []})["subjects"]}),
            "scores": summarise([row for row in rows if row["cohort"] == name]),
        }
        for name in dict.fromkeys(
            name for run in runs for name in run.scores["cohorts"]
        )  # each may be scored on others afterwards
    }
    shared = "_".join(parts[0] for parts in zip(*(run.name.split("_") for run in runs), strict=False) if len(set(parts)) == 1)
    return replace(
        runs[0],
        name=f"{shared or runs[0].name} ({len(runs)} runs)",
        scores={**runs[0].scores, "cohorts": cohorts},
        directories=tuple(directory for run in runs for directory in run.directories),
        each=tuple(runs),
    )


def seconds(journal: Sequence[Line]) -> float:
    """From each start of a run to its last line of progress, without the time between two jobs and what was lost with a killed one."""
    stretches: list[list[int]] = []
    for line in journal:
        if line["kind"] == "start":
            stretches.append([line["time"]])
        elif line["kind"] == "progress" and stretches:
            stretches[-1].append(line["time"])
    return sum(stretch[-1] - stretch[0] for stretch in stretches) / 1000


def parameters(checkpoint: Path) -> int:
    """How many a method has, counted in its checkpoint without reading the values; 0 if that is absent or unreadable."""
    try:
        open_plain(checkpoint).close()
        state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    except Exception:
        return 0
    return sum(tensor.numel() for name, tensor in state["method"].items() if not name.endswith(NOT_TRAINED))

"""Seconds from the start of a training process to the end of its first update, including imports and opening the cohort; and how many of them
are spent on reading the training slices, which grows with the cohort."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from distsynth import metric_names
from distsynth.bench.words import split_words
from distsynth.config import compose
from distsynth.data.intensity_map import IntensityMap
from distsynth.preflight import check
from distsynth.ranks.world import World
from distsynth.tracking.journal import read
from distsynth.training.model import build
from preprocess.shared.errors import UserError
from preprocess.shared.settings import setting

GOAL = 6.0  # seconds, without reading the slices
FIRST_STEP = metric_names.seconds("first_step")


@dataclass
class StartSettings:
    repeats: int = setting(5, "number of fresh processes", least=1)


def main(words: Sequence[str]) -> int:
    """Train one update in each of a few fresh processes; print the median and the range, and the time that reading takes."""
    settings, given = split_words(StartSettings, words)
    one = ["train.epochs=1", "train.steps_per_epoch=1", "evaluate.baselines=false", *given]
    seconds = [first_step(one) for _ in range(settings.repeats)]
    print(f"time to the first training step: median {statistics.median(seconds):.2f} s of {settings.repeats}, "
          f"{min(seconds):.2f} to {max(seconds):.2f} s; reading the slices takes {reading(one):.2f} s of it; "
          f"goal under {GOAL:.0f} s without reading")  # fmt: skip
    return 0


def first_step(words: Sequence[str]) -> float:
    """The seconds that the run's own journal states. Raises UserError if the training fails."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        done = subprocess.run([sys.executable, "-m", "distsynth.train", f"run={run}", *words], capture_output=True, text=True)
        if done.returncode:
            raise UserError(done.stderr.strip().splitlines()[-1].removeprefix("error: "))
        values = [line.get("values", {}) for line in read(run / "journal.jsonl")[0]]
    return float(next(each[FIRST_STEP] for each in values if FIRST_STEP in each))


def reading(words: Sequence[str]) -> float:
    """Seconds that it takes here to read what the first stage trains on."""
    config = compose(words)
    cohort = check(config, 1).cohort
    model = build(config, cohort, IntensityMap.of(cohort, cohort.split("gan"), config.data.clip))
    subjects = cohort.split(model.method.stages(config.train)[0].split)
    share = World(0, 1, 0, torch.device("cpu")).share
    began = time.perf_counter()
    model.feed(cohort, subjects, config.data, share)
    return time.perf_counter() - began

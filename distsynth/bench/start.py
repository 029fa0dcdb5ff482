"""Seconds from the start of a training process to the end of its first update, imports and opening the cohort included."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distsynth import metric_names
from distsynth.bench.words import apart
from distsynth.tracking.journal import read
from preprocess.shared.errors import UserError
from preprocess.shared.settings import setting

GOAL = 10.0  # seconds
FIRST_STEP = metric_names.seconds("first_step")


@dataclass
class StartSettings:
    repeats: int = setting(5, "fresh processes", least=1)


def main(words: Sequence[str]) -> int:
    """Train one update in fresh processes, a few times; print median and spread."""
    settings, given = apart(StartSettings, words)
    one = ["train.epochs=1", "train.steps_per_epoch=1", "evaluate.baselines=false", *given]
    seconds = [first_step(one) for _ in range(settings.repeats)]
    print(f"time to the first training step: median {statistics.median(seconds):.2f} s of {settings.repeats}, "
          f"{min(seconds):.2f} to {max(seconds):.2f} s; goal under {GOAL:.0f} s")  # fmt: skip
    return 0


def first_step(words: Sequence[str]) -> float:
    """Seconds, as the run's own journal has them. Raises UserError if the training fails."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        done = subprocess.run([sys.executable, "-m", "distsynth.train", f"run={run}", *words], capture_output=True, text=True)
        if done.returncode:
            raise UserError(done.stderr.strip().splitlines()[-1].removeprefix("error: "))
        values = [line["values"] for line in read(run / "journal.jsonl")[0] if line["kind"] == "metrics"]
    return float(next(each[FIRST_STEP] for each in values if FIRST_STEP in each))

"""Seconds from the start of a training process to the end of its first update, including imports and opening the cohort."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distsynth.bench.words import apart
from distsynth.tracking.journal import read
from preprocess.shared.errors import UserError
from preprocess.shared.settings import setting

GOAL = 10.0  # seconds


@dataclass
class StartSettings:
    repeats: int = setting(5, "number of fresh processes", least=1)


def main(words: Sequence[str]) -> int:
    """Train one update in each of a few fresh processes; print the median and the range."""
    settings, given = apart(StartSettings, words)
    one = ["train.epochs=1", "train.steps_per_epoch=1", "evaluate.baselines=false", *given]
    seconds = [first_step(one) for _ in range(settings.repeats)]
    print(f"time to the first training step: median {statistics.median(seconds):.2f} s of {settings.repeats}, "
          f"{min(seconds):.2f} to {max(seconds):.2f} s; goal under {GOAL:.0f} s")  # fmt: skip
    return 0


def first_step(words: Sequence[str]) -> float:
    """The seconds that the run's own journal states. Raises UserError if the training fails."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        done = subprocess.run([sys.executable, "-m", "distsynth.train", f"run={run}", *words], capture_output=True, text=True)
        if done.returncode:
            raise UserError(done.stderr.strip().splitlines()[-1].removeprefix("error: "))
        values = [line.get("values", {}) for line in read(run / "journal.jsonl")[0]]
    return next(float(v["time/first_step_s"]) for v in values if "time/first_step_s" in v)

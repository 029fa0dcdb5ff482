"""Figures of merit, measured on the machine at hand.

    python -m distsynth.bench start data.store=data/phantom.zarr repeats=5

start: seconds from the start of a training process to the end of its first update, imports and opening the cohort included.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from distsynth.tracking.journal import read
from preprocess.errors import SettingError, UserError
from preprocess.settings import command

GOAL = 10.0  # seconds


def main(words: Sequence[str]) -> int:
    benches: dict[str, Callable[[Sequence[str]], int]] = {"start": start}
    if not words or words[0] not in benches:
        raise SettingError(f"name a bench first: {', '.join(benches)}")
    return benches[words[0]](words[1:])


def start(words: Sequence[str]) -> int:
    """Train one update in fresh processes, a few times; print median and spread."""
    asked = next((w.partition("=")[2] for w in words if w.startswith("repeats=")), "5")
    if not asked.isdecimal() or not (repeats := int(asked)):
        raise SettingError(f"repeats={asked} must be a whole number of at least 1")
    given = [w for w in words if not w.startswith("repeats=")]
    seconds = [first_step(["train.epochs=1", "train.steps_per_epoch=1", "evaluate.floors=false", *given]) for _ in range(repeats)]
    print(f"time to the first training step: median {statistics.median(seconds):.2f} s of {repeats}, "
          f"{min(seconds):.2f} to {max(seconds):.2f} s; goal under {GOAL:.0f} s")  # fmt: skip
    return 0


def first_step(words: Sequence[str]) -> float:
    """Seconds, as the run's own journal has them. Raises UserError if the training fails."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        done = subprocess.run([sys.executable, "-m", "distsynth.train", f"run={run}", *words], capture_output=True, text=True)
        if done.returncode:
            raise UserError(done.stderr.strip().splitlines()[-1].removeprefix("error: "))
        found = [
            line["values"]["time/first_step_s"]
            for line in read(run / "journal.jsonl")[0]
            if "time/first_step_s" in line.get("values", {})
        ]
    return float(found[0])


if __name__ == "__main__":
    command(main, __doc__)

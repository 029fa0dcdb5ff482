"""Seconds that a checkpoint pauses training, as a share of the seconds between two and of the default train.checkpoint_minutes."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from distsynth import metric_names
from distsynth.settings import TrainSettings
from distsynth.tracking.journal import read
from distsynth.train import main as train
from preprocess.shared.errors import SettingError

STALL = metric_names.seconds("checkpoint_stall")


def main(words: Sequence[str]) -> int:
    """Train with these settings and print the pauses of all checkpoints but the first, from the run's own journal."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        train([f"run={run}", "evaluate.baselines=false", "evaluate.figures=0", *words])
        lines, _ = read(run / "journal.jsonl")
        size = max(path.stat().st_size for path in (run / "checkpoints").glob("step-*.pt"))
    points = [(line["time"] / 1000, line["values"][STALL]) for line in lines if STALL in line.get("values", {})]
    if len(points) < 2:
        raise SettingError(f"the run wrote {len(points)} checkpoint: set more train.epochs, or train.checkpoint_minutes=0")
    between = [later - earlier for (earlier, _), (later, _) in pairwise(points)]
    stalls, default = [stall for _, stall in points[1:]], 60 * TrainSettings().checkpoint_minutes
    print(f"{len(points)} checkpoints of {size / 1e6:.1f} MB: each pauses training for {statistics.median(stalls):.4f} s (median; longest "
          f"{max(stalls):.4f}), {sum(stalls) / sum(between):.2%} of the {statistics.median(between):.1f} s between two here and "
          f"{statistics.median(stalls) / default:.3%} of the default {default:.0f} s; goal under 1 %")  # fmt: skip
    return 0

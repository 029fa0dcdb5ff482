"""What the journal, the timing and the gradient norms cost, measured in two ways.

By themselves: all that they do between two lines of the journal, without the updates, relative to the time of the updates. And the same
updates with and without them, alternating in one process, the fastest turn of each: this includes any effect on the updates, but on a busy
machine it is mostly noise. Both in this process's CPU time; on a GPU in wall-clock time, after synchronising.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from distsynth.bench.synthetic import method_of, noise
from distsynth.bench.words import split_words
from distsynth.config import compose
from distsynth.ranks.world import World, world
from distsynth.settings import LimitSettings
from distsynth.tracking.journal import Journal
from distsynth.training.engine import Engine
from distsynth.training.timing import Timing
from preprocess.shared.settings import setting

GOAL = 1.0  # percent


@dataclass
class OverheadSettings:
    rounds: int = setting(30, "turns with and turns without", least=3)
    pixels: int = setting(64, "height and width of the slices")


def main(words: Sequence[str]) -> int:
    settings, given = split_words(OverheadSettings, words)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, world("auto", LimitSettings(start=3600)) as ranks:
        stretch = Stretch(given, settings.pixels, Journal(Path(folder) / "journal.jsonl"), ranks)
        stretch.turn(True, work=True)
        extra = [stretch.turn(True, work=False) - stretch.turn(False, work=False) for _ in range(settings.rounds)]
        pairs = [[stretch.turn(on, work=True) for on in (True, False)] for _ in range(settings.rounds)]
    on, off = (min(seconds) for seconds in zip(*pairs, strict=True))
    print(
        f"journal, timing and gradient norms by themselves: {1e6 * statistics.median(extra) / stretch.updates:.0f} us an update, "
        f"{100 * statistics.median(extra) / off:.2f} % of its {1000 * off / stretch.updates:.1f} ms; goal under {GOAL:.0f} %\n"
        f"updates with and without them: {100 * (on / off - 1):+.2f} % (fastest of {settings.rounds} turns of {stretch.updates} updates)"
    )
    return 0


class Stretch:
    """The updates between two lines of the journal, with or without timing, with or without the updates themselves."""

    def __init__(self, words: Sequence[str], pixels: int, journal: Journal, ranks: World) -> None:
        config = compose(words)
        method, size = method_of(config, pixels)
        self.stage = method.to(ranks.device).stages(config.train)[-1]
        self.batch = noise(config.variant, self.stage.batch, size, kind=method)
        self.updates, self.journal = config.train.log_every, journal
        self.timings = {on: Timing(ranks, on) for on in (True, False)}
        self.engine = Engine(method, self.stage, config.train, ranks)
        self.clock = time.process_time if ranks.device.type == "cpu" else time.perf_counter

    def turn(self, on: bool, work: bool) -> float:
        """Returns its seconds. Without the updates, the norms are taken of the last update's gradients."""
        engine = self.engine
        engine.timing = timing = self.timings[on]
        start = self.clock()
        timing.begin()
        for index, batch in enumerate(timing.waiting_for([self.batch] * self.updates)):
            engine.keep_norms = on and index == self.updates - 1
            for name in () if work else engine.losses:
                engine.after_backward(name)
            if work:
                engine.update(replace(batch, update=index), norms=engine.keep_norms)
        losses = engine.losses_since_last(self.updates) if work else {}
        if on:
            self.journal.write("metrics", step=self.updates, values=losses | engine.gradient_norms() | timing.values())
        return self.clock() - start

"""The engine's update of a method compared with the published procedure, on the same networks, batch and device.

Both alternate in one process: ours in the run's precision, the procedure eager in torch's default float32, in which GPUs may use TF32 for
convolutions. Printed is the median of the ratios.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from distsynth.bench.plain import PROCEDURES
from distsynth.bench.synthetic import method_of, noise
from distsynth.bench.words import split_words
from distsynth.config import Config, compose
from distsynth.networks.critic import Conv2d, LeakyReLU
from distsynth.ranks.world import World, world
from distsynth.settings import LimitSettings
from distsynth.training.engine import Engine
from distsynth.training.precision import lay_out
from distsynth.training.rehearsal import warm_up
from preprocess.shared.errors import SettingError
from preprocess.shared.settings import setting

GOAL = {"cpu": 1.5, "cuda": 3.0}
WAYS = {
    "eager": {},
    "channels_last": {"channels_last": True},
    "compile": {"compile": True},
    "both": {"compile": True, "channels_last": True},
}


@dataclass
class SpeedSettings:
    pixels: int = setting(64, "height and width of the slices")
    slices: int = setting(4, "slices an update")
    rounds: int = setting(9, "timed turns of each procedure", least=3)
    updates: int = setting(1, "updates per turn (stargan: a multiple of 5, as only every fifth updates its generator)", least=1)
    ways: list[str] = setting(list(WAYS), "how our update runs")

    def __post_init__(self) -> None:
        if not self.ways or set(self.ways) - set(WAYS):
            raise SettingError(f"ways={self.ways} must be some of {', '.join(WAYS)}")


def main(words: Sequence[str]) -> int:
    settings, given = split_words(SpeedSettings, words)
    config = compose(given)
    if config.method.name not in PROCEDURES:
        raise SettingError(
            f"method={config.method.name} has no published procedure to compare with: choose from {', '.join(PROCEDURES)}"
        )
    with world("auto", LimitSettings(start=3600)) as ranks:
        for name in settings.ways:
            changes: dict[str, Any] = WAYS[name]
            changed = replace(config, train=replace(config.train, **changes))
            plain, ours = Plain(config, settings, ranks), Ours(changed, settings, ranks)
            for side in (plain, ours):
                clocked(side, settings, ranks)
            pairs = [(clocked(plain, settings, ranks), clocked(ours, settings, ranks)) for _ in range(settings.rounds)]
            ratios = sorted(a / b for a, b in pairs)
            times = [1000 * statistics.median(side) / settings.updates for side in zip(*pairs, strict=True)]
            print(
                f"{config.method.name}, {name:14} procedure {times[0]:8.1f} ms, ours {times[1]:8.1f} ms: {statistics.median(ratios):.2f} x "
                f"({ratios[0]:.2f} to {ratios[-1]:.2f}; goal {GOAL[ranks.device.type]})",
                flush=True,
            )
    return 0


class Plain:
    """The published procedure."""

    tf32 = True  # for float32 convolutions on GPUs: torch's default, which the published code uses

    def __init__(self, config: Config, settings: SpeedSettings, ranks: World) -> None:
        self.method, size = method_of(config, settings.pixels)
        self.prepare()
        self.method.to(ranks.device).train()
        lay_out(self.method, config.train.channels_last)
        self.stage = self.method.stages(config.train)[-1]
        self.batch = noise(config.variant, settings.slices, size, kind=self.method).to(ranks.device)
        objectives = self.method.objectives()
        self.optimisers = {
            name: torch.optim.Adam(objectives[name].network.parameters(), self.stage.lr, config.train.betas)
            for name in self.stage.objectives
        }
        self.update: Callable[[int], None] = lambda number: PROCEDURES[config.method.name](
            self.method, replace(self.batch, update=number), self.optimisers
        )

    def prepare(self) -> None:
        """Use our networks, but replace the critics' own layers by torch's, as in the published code."""
        for network in self.method.modules():
            for name, part in network.named_children():
                if isinstance(part, LeakyReLU):
                    setattr(network, name, nn.LeakyReLU(part.slope))
                elif isinstance(part, Conv2d):
                    part.forward = partial(nn.Conv2d.forward, part)  # type: ignore[method-assign]

    def turn(self, first: int, updates: int) -> None:
        torch.backends.cudnn.allow_tf32 = self.tf32
        for number in range(first, first + updates):
            self.update(number)


class Ours(Plain):
    """The engine's update."""

    def prepare(self) -> None:
        pass

    def __init__(self, config: Config, settings: SpeedSettings, ranks: World) -> None:
        super().__init__(config, settings, ranks)
        engine = Engine(self.method, self.stage, config.train, ranks)
        self.tf32 = torch.backends.cudnn.allow_tf32  # as the engine sets it
        warm_up(engine, self.batch)
        self.update = lambda number: self.stage.update(replace(self.batch, update=number), engine)


def clocked(side: Plain, settings: SpeedSettings, ranks: World) -> float:
    """Seconds of a turn; the updates of every turn are numbered alike."""
    start = time.perf_counter()
    side.turn(0, settings.updates)
    if ranks.device.type == "cuda":
        torch.cuda.synchronize(ranks.device)
    return time.perf_counter() - start

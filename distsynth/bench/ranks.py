"""Started by `bench scaling` on every rank: times updates with and without communication, and all-reduces by themselves.

torchrun --nproc-per-node=2 -m distsynth.bench.ranks out=measured.json slices='[4,2]' updates=10 pixels=64 method=tcmgan_small
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from distsynth.bench.synthetic import method_of, noise
from distsynth.bench.words import split_words
from distsynth.config import Config, compose
from distsynth.ranks.world import World, world
from distsynth.settings import LimitSettings
from distsynth.training.engine import Engine
from distsynth.training.timing import Timing
from preprocess.shared.files import write_json
from preprocess.shared.settings import command, required, setting

SIZES = (4 * 2**10, 256 * 2**10, 2**20, 8 * 2**20, 25 * 2**20)  # bytes of the all-reduces


@dataclass
class RankSettings:
    out: str = required("the JSON that rank 0 writes")
    slices: list[int] = setting([4], "slices per rank and update; each number is measured")
    updates: int = setting(10, "timed updates of each kind")
    pixels: int = setting(64, "height and width of the slices")


def main(words: Sequence[str]) -> int:
    settings, given = split_words(RankSettings, words)
    torch.set_num_threads(1)
    with world("auto", LimitSettings(start=3600), Path(settings.out)) as ranks:
        measured = {
            "ranks": ranks.size,
            "steps": [timed(compose(given), slices, settings, ranks) for slices in dict.fromkeys(settings.slices)],
            "all_reduce": [(size, all_reduce(size, ranks)) for size in SIZES if ranks.size > 1],
        }
        if ranks.leads:
            write_json(Path(settings.out), measured)
    return 0


def timed(config: Config, slices: int, settings: RankSettings, ranks: World) -> dict[str, Any]:
    """Median seconds of an update with so many slices per rank, mean over the ranks: the whole update; without communication; its CPU time
    without communication; and the exposed wait that the journal would show."""
    method, size = method_of(config, settings.pixels)
    stage = method.to(ranks.device).stages(config.train)[-1]
    timing = Timing(ranks, True)
    engine = Engine(method, stage, config.train, ranks, timing)
    batch = noise(config.variant, slices, size, ranks.rank, method).to(ranks.device)

    def update() -> None:
        stage.update(batch, engine)

    def without_communication() -> None:
        with ExitStack() as stack:
            for module in engine.losses.values():
                if isinstance(module, DistributedDataParallel):
                    stack.enter_context(module.no_sync())
            update()

    for warm_up in (update, update, without_communication):
        warm_up()
    timing.waits.clear()
    pairs = [(clocked(update, ranks), clocked(without_communication, ranks)) for _ in range(settings.updates)]
    waited = sum(timing.exposed()) / settings.updates
    mine = [
        statistics.median(with_[0] for with_, _ in pairs),
        *(statistics.median(w[i] for _, w in pairs) for i in (0, 1)),
        waited,
    ]
    means = ranks.mean(torch.tensor(mine, dtype=torch.float64)).tolist()
    gradients = [sum(4 * p.numel() for p in engine.objectives[name].network.parameters()) for name in engine.losses]
    return {
        "slices": slices,
        **dict(zip(("step", "without_communication", "cpu", "waited"), means, strict=True)),
        "gradients": gradients,
    }


def clocked(work: Callable[[], None], ranks: World) -> tuple[float, float]:
    """Wall-clock seconds and this process's CPU seconds, with all ranks starting together."""
    ranks.barrier()
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    if ranks.device.type == "cuda":
        torch.cuda.synchronize(ranks.device)
    return time.perf_counter() - wall, time.process_time() - cpu


def all_reduce(size: int, ranks: World) -> float:
    """Median seconds of summing so many bytes over the ranks."""
    values = torch.zeros(size // 4, device=ranks.device)

    def reduce() -> None:
        torch.distributed.all_reduce(values)

    return statistics.median([clocked(reduce, ranks)[0] for _ in range(12)][2:])


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    command(main, __doc__, RankSettings)

"""Run by test_ranks.py, python ranks_agree.py STORE FOLDER PRECISION...: trains every preset of configs/method/ on 1, 2 and 4 ranks, all at
once, and saves the results.

Settings and slices are read once, then every rank is a fork of this process: most of the time is spent on the updates.
"""

import multiprocessing
import os
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from distsynth.bench.synthetic import shipped
from distsynth.config import Config, typed
from distsynth.data.feed import Feed
from distsynth.data.intensity_map import IntensityMap
from distsynth.methods.contract import Method
from distsynth.ranks.world import World, world
from distsynth.run_directory import CONFIGS
from distsynth.settings import LimitSettings
from distsynth.training.engine import Engine
from distsynth.training.model import Model, build
from preprocess.cohort import Cohort

STEPS = 20
WORLDS = (1, 2, 4)
# All that may differ from the shipped presets: the width of networks, the size of batches and patches, and of the kept core of a patch.
SMALLER = {"width": 4, "batch": 4, "micro_batch": 0, "patch": 8, "core": 4}
RUNS = {"double": (torch.float64, 0), "in parts": (torch.float64, 1), "single": (torch.float32, 0)}  # precision, micro-batch
SINGLE = World(0, 1, 0, torch.device("cpu"))


def presets() -> list[str]:
    return sorted(path.stem for path in (CONFIGS / "method").glob("*.yaml"))


def shrunk(preset: str, store: str) -> Config:
    """The shipped preset with the keys of SMALLER changed, wherever they are."""
    tree = OmegaConf.structured(shipped(preset, f"data.store={store}"))

    def walk(node: Any) -> None:
        for name in node:
            if name in SMALLER:
                node[name] = SMALLER[name]
            elif OmegaConf.is_dict(node[name]):
                walk(node[name])

    walk(tree.method)
    walk(tree.train)
    return typed(tree)


class Material:
    """A cohort, its intensity map, and the feeds that presets share."""

    def __init__(self, store: str) -> None:
        self.cohort = Cohort.open(store)
        self.mapping = IntensityMap.of(self.cohort, self.cohort.split("gan"))
        self.feeds: dict[str, Feed] = {}

    def model(self, config: Config) -> Model:
        return build(config, self.cohort, self.mapping)

    def feed(self, config: Config, model: Model, split: str) -> Feed:
        method = model.method
        kind = f"{split, method.patch, method.patches, method.paired, method.incomplete, config.variant, config.data, model.size}"
        if kind not in self.feeds:
            subjects = self.cohort.split(split)
            self.feeds[kind] = model.feed(self.cohort, subjects, config.data, SINGLE.share)
        return self.feeds[kind]


def trained(config: Config, material: Material, ranks: World, dtype: torch.dtype) -> Method:
    model = material.model(config)
    method = model.method.to(dtype).train()
    for stage in method.stages(config.train):
        engine = Engine(method, stage, config.train, ranks)
        feed = material.feed(config, model, stage.split)
        for step in range(STEPS):
            epoch, place = divmod(step, feed.steps(stage.batch))
            engine.set_epoch(epoch)
            (batch,) = feed.batches(stage.name, epoch, 0, stage.batch, range(place, place + 1), ranks.rank, ranks.size)
            batch = replace(batch.map(lambda tensor: tensor.to(dtype), batch.keys), epoch=epoch, update=step)
            stage.update(batch, engine)
    return method


def rank(
    configs: dict[str, Config], material: Material, out: Path, precisions: tuple[str, ...], rank: int, size: int, port: int
) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="localhost", MASTER_PORT=str(port))
    results = {}
    with world("cpu", LimitSettings()) as ranks:
        for preset, config in configs.items():
            for name in precisions:
                dtype, micro_batch = RUNS[name]
                if micro_batch and SMALLER["batch"] // size <= micro_batch:
                    continue  # there is only one part
                config.train.micro_batch = micro_batch
                method = trained(config, material, ranks, dtype)
                results[preset, name] = {
                    "weights": method.state_dict(),
                    "used": OmegaConf.to_container(OmegaConf.structured(config)),
                    "batch_norm": any(isinstance(part, torch.nn.BatchNorm2d) for part in method.modules()),
                }
        if ranks.leads:
            torch.save(results, out / f"{size}.pt")


def main(store: str, out: str, *precisions: str) -> None:
    torch.set_num_threads(1)
    material = Material(store)
    configs = {preset: shrunk(preset, store) for preset in presets()}
    for config in configs.values():
        model = material.model(config)
        for stage in model.method.stages(config.train):
            material.feed(config, model, stage.split)
    fork = multiprocessing.get_context("fork")
    started = []
    for size in WORLDS:
        port = free_port()
        started += [
            fork.Process(target=rank, args=(configs, material, Path(out), precisions, n, size, port)) for n in range(size)
        ]
    for process in started:
        process.start()
    for process in started:
        process.join()
    sys.exit(any(process.exitcode for process in started))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    main(*sys.argv[1:])

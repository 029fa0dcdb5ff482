"""Run by test_ranks.py under torchrun: trains every preset of configs/method/ on this many ranks and saves what came out."""

import sys
from dataclasses import replace
from typing import Any

import torch
from omegaconf import OmegaConf

from distsynth.bench.synthetic import shipped
from distsynth.config import CONFIGS, Config, fragment, typed
from distsynth.data.feeds import feed_of
from distsynth.data.intensity_map import IntensityMap
from distsynth.methods.method import Method
from distsynth.training.distributed import World, world
from distsynth.training.engine import Engine
from distsynth.training.model import build
from distsynth.training.settings import LimitSettings
from preprocess.cohort import Cohort

STEPS = 20
# All that may differ from what is shipped: the width of networks, the size of batches and patches (and of what of one is kept), and what says
# how many updates there are.
SMALLER = {"width": 4, "batch": 4, "micro_batch": 0, "patch": 8, "core": 4}


def presets() -> list[str]:
    return sorted(path.stem for path in (CONFIGS / "method").glob("*.yaml"))


def runs(preset: str) -> tuple[str, ...]:
    """What a preset is trained in: all in float64, and the one that bears its method's name also in micro-batches and in float32."""
    plain = fragment("method", preset)["method"]["name"] == preset
    return ("double", "in parts", "single") if plain else ("double",)


def shrunk(preset: str, store: str, micro_batch: int) -> Config:
    """The preset as it is shipped, but for the keys of SMALLER wherever they stand."""
    tree = OmegaConf.structured(shipped(preset, f"data.store={store}"))

    def walk(node: Any) -> None:
        for name in node:
            if name in SMALLER:
                node[name] = SMALLER[name]
            elif OmegaConf.is_dict(node[name]):
                walk(node[name])

    walk(tree.method)
    walk(tree.train)
    tree.train.micro_batch = micro_batch
    return typed(tree)


def trained(config: Config, ranks: World, dtype: torch.dtype) -> Method:
    cohort = Cohort.open(config.data.store)
    model = build(config, cohort, IntensityMap.of(cohort, cohort.split("gan")))
    method = model.method.to(dtype).train()
    for stage in method.stages(config.train):
        engine = Engine(method, stage, config.train, ranks)
        subjects = cohort.split(stage.split)
        feed = feed_of(method, cohort, subjects, config.variant, model.mapping, config.data, model.size, ranks.share)
        for step in range(STEPS):
            epoch, place = divmod(step, feed.steps(stage.batch))
            engine.set_epoch(epoch)
            (batch,) = feed.batches(stage.name, epoch, 0, stage.batch, range(place, place + 1), ranks.rank, ranks.size)
            batch = replace(batch.map(lambda tensor: tensor.to(dtype), batch.keys), epoch=epoch, update=step)
            stage.update(batch, engine)
    return method


def main(store: str, out: str) -> None:
    torch.set_num_threads(1)
    found = {}
    with world("cpu", LimitSettings()) as ranks:
        for preset in presets():
            for name in runs(preset):
                micro = int(name == "in parts")
                if micro and SMALLER["batch"] // ranks.size <= micro:
                    continue  # there is but one part
                dtype = torch.float32 if name == "single" else torch.float64
                config = shrunk(preset, store, micro)
                method = trained(config, ranks, dtype)
                found[preset, name] = {
                    "weights": method.state_dict(),
                    "used": OmegaConf.to_container(OmegaConf.structured(config)),
                    "batch_norm": any(isinstance(part, torch.nn.BatchNorm2d) for part in method.modules()),
                }
        if ranks.leads:
            torch.save(found, out)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""What the methods' tests share: noise in a brain to update a method on, an engine that updates it, and the names of its settings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distsynth.config import Config, compose
from distsynth.config import save as save_config
from distsynth.data.batch import Batch
from distsynth.data.intensity_map import IntensityMap
from distsynth.data.randomness import sample_keys
from distsynth.methods.contract import Made, Method, Terms
from distsynth.preflight import check
from distsynth.ranks.preemption import StopRequest
from distsynth.ranks.world import World
from distsynth.run_directory import RunDirectory
from distsynth.settings import TrainSettings
from distsynth.training import checkpoint
from distsynth.training.engine import Engine, joined
from distsynth.training.model import build
from distsynth.training.trainer import Trainer

CPU = World(0, 1, 0, torch.device("cpu"))


def engine_for(method: Method, train: TrainSettings) -> Engine:
    """Of the method's last stage, on one rank."""
    return Engine(method, method.stages(train)[-1], train, CPU)


class Unmoved:
    """A `Step` that moves no weight and keeps each objective's loss and terms, with their graphs."""

    def __init__(self, method: Method) -> None:
        self.objectives = method.objectives()
        self.made: dict[str, Made] = {}
        self.losses: dict[str, tuple[Tensor, Terms]] = {}

    def make(self, name: str, batch: Batch) -> Made:
        make = self.objectives[name].make
        assert make is not None
        self.made[name] = make(batch)
        return joined([self.made[name]])

    def minimise(self, name: str, batch: Batch) -> Made:
        objective = self.objectives[name]
        made = self.made.pop(name, None) or (objective.make(batch) if objective.make else {})
        self.losses[name] = objective.loss(batch.having(**made))
        return joined([made])


def losses_of(method: Method, batch: Batch) -> dict[str, tuple[Tensor, Terms]]:
    """Every objective's loss and terms, as the updates of the method's stages call them."""
    step = Unmoved(method)
    for stage in method.stages(TrainSettings()):
        for update in reversed(range(method.cycle)):
            if not step.losses.keys() >= set(stage.objectives):
                stage.update(replace(batch, update=update), step)
    return step.losses


def trainer_of(config: Config, run: RunDirectory) -> Trainer:
    """Of a run on this rank, whose cohorts are checked and opened."""
    return Trainer(config, check(config, 1), run, CPU, StopRequest())


def untrained_run(path: Path, *words: str) -> RunDirectory:
    """A run whose best checkpoint is the model before its first update, in a moment; its weights are larger, so that its images are no even grey."""
    run, config = RunDirectory(path), compose(words)
    run.create(path.name, path.parent.name)
    save_config(config, run.config)
    cohort = check(config, 1).cohort
    model = build(config, cohort, IntensityMap.of(cohort, cohort.split("gan"), config.data.clip))
    with torch.no_grad():
        for weights in model.method.parameters():
            weights.mul_(4 if weights.dim() > 1 else 1)
    made_from = {"recipe": cohort.recipe, "store": cohort.digest[:12], "variant": asdict(config.variant)}
    checkpoint.save({**model.state_dict(), "position": {}, "made_from": made_from}, run.checkpoints / "best.pt")
    return run


def paired(method: Method, n: int = 3, seed: int = 0) -> Batch:
    """Noise of all the variant's contrasts inside a brain with a tumour, 32 x 32, float64."""
    g = torch.Generator().manual_seed(seed)
    brain, tumour = torch.zeros(2, n, 1, 32, 32, dtype=torch.float64)
    brain[..., 6:26, 6:26] = 1
    tumour[..., 10:16, 10:16] = 1
    inputs, outputs = len(method.variant.inputs), len(method.variant.outputs)
    images = torch.rand(n, inputs + outputs, 32, 32, generator=g, dtype=torch.float64) * 2 * brain - 1
    return Batch(images[:, :inputs], images[:, inputs:], brain, tumour, sample_keys(np.arange(n), seed))


def unpaired(n: int, seed: int, size: tuple[int, int]) -> Batch:
    """Noise inside two different brains, float64; `size` is at least 20 x 14."""
    g = torch.Generator().manual_seed(seed)
    brain, other = torch.zeros(2, n, 1, *size, dtype=torch.float64)
    brain[..., 4:20, 3:12] = 1
    other[..., 2:16, 5:14] = 1
    sources, targets = (torch.rand(n, 1, *size, generator=g, dtype=torch.float64) * 2 * b - 1 for b in (brain, other))
    keys = sample_keys(np.arange(n), seed)
    return Batch(sources, targets, brain, torch.zeros_like(brain), keys, {"target_brain": other})


def leaves(settings: Any, head: str = "") -> Iterator[str]:
    """The names of all settings of a method, `group.name`."""
    for field in fields(settings):
        value = getattr(settings, field.name)
        yield from leaves(value, f"{head}{field.name}.") if is_dataclass(value) else [head + field.name]


def receptive_field(network: nn.Module) -> int:
    """Pixels of the input, along one axis, that one value of the output depends on, computed from the convolutions in their order."""
    field, jump = 1, 1
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            field += (module.kernel_size[0] - 1) * jump
            jump *= module.stride[0]
    return field


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())

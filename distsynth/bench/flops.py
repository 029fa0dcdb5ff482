"""The cost of an update of a method, counted instead of timed: floating-point operations, kernels, bytes of gradients."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from distsynth.bench.synthetic import method_of, noise
from distsynth.config import Config
from distsynth.data.batch import Batch
from distsynth.methods.contract import Made
from distsynth.ranks.world import World
from distsynth.training.engine import Engine


@dataclass(frozen=True)
class Counted:
    """One update of the last stage on one slice: forward, backward and optimiser steps. If updates differ, the one with the most steps."""

    flops: int  # of convolutions and matrix products; a multiplication and an addition count as two
    kernels: int  # operations other than views
    gradients: tuple[int, ...]  # bytes, per optimiser step


class Kernels(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that reach a device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.namespace != "prim" and not func.is_view
        return func(*args, **(kwargs or {}))


class Untracked(nullcontext[None]):
    """Replaces torch's module tracker, whose hooks fail when a gradient with respect to an input is taken, as in a gradient penalty."""

    parents = frozenset({"Global"})


def count(config: Config, pixels: int) -> Counted:
    """Count one update with fake tensors, which have a shape but no data: any size takes a second and no memory."""
    with FakeTensorMode(allow_non_fake_inputs=True):  # numpy makes the random numbers
        return counted(config, pixels)


def counted(config: Config, pixels: int) -> Counted:
    """Count one update by running it, really or, under FakeTensorMode, without arithmetic."""
    method, size = method_of(config, pixels)
    stage = method.stages(config.train)[-1]
    engine = Engine(method, stage, config.train, World(0, 1, 0, torch.device("cpu")))
    gradients: list[int] = []
    minimise = engine.minimise

    def recorded(name: str, batch: Batch) -> Made:
        gradients.append(sum(4 * p.numel() for p in engine.objectives[name].network.parameters() if p.requires_grad))
        return minimise(name, batch)

    engine.minimise = recorded  # type: ignore[method-assign]
    flops = FlopCounterMode(display=False)
    flops.mod_tracker = Untracked()  # type: ignore[assignment]
    with flops, Kernels() as kernels:
        stage.update(noise(config.variant, 1, size, kind=method), engine)
    return Counted(flops.get_total_flops(), kernels.count, tuple(gradients))

"""The memory plan: how much memory a stage will take on a rank, and how many slices this GPU can hold at once.

    total = parameters (and their average) + gradients + Adam's two moments + activations(slices) + overhead

Activations are measured, not estimated: an update is rehearsed on one slice and on two, in the run's own precision, and what autograd keeps
for the backward pass is added up, loss by loss. The difference is the cost of a slice; the rest is fixed (weights cast to half precision).
The backward pass holds about two more of the largest tensor. The losses of a stage run one after another, so only the largest one counts.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distsynth.data.batch import Batch
from distsynth.methods.contract import Made
from distsynth.training.engine import Engine
from distsynth.training.rehearsal import Rehearsal, no_trace, outside_ddp

OVERHEAD = 0.8e9  # bytes of a GPU taken by CUDA's context, its libraries and cuDNN's workspace; an assumption
USABLE = 0.92  # share of the rest, because the allocator's blocks do not fit exactly; an assumption


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes on one rank in one stage."""

    stage: str
    parameters: int
    gradients: int
    optimiser: int
    fixed: int  # kept for the backward pass, whatever the batch size
    per_slice: int

    @property
    def static(self) -> int:
        return self.parameters + self.gradients + self.optimiser + self.fixed

    def total(self, slices: int) -> int:
        """Bytes for so many slices at once, without the overhead of a GPU."""
        return self.static + slices * self.per_slice

    def fits(self, card: float) -> int:
        """The most slices that a GPU of `card` bytes can hold at once; 0 if none."""
        return max(0, int(((card - OVERHEAD) * USABLE - self.static) / self.per_slice))

    def line(self) -> dict[str, Any]:
        """The journal's line."""
        return asdict(self)


def plan(engine: Engine, batch: Batch) -> MemoryPlan:
    """The stage's plan, measured on slices like those of `batch`, on its device. Leaves the method unchanged."""
    with no_trace(engine), outside_ddp(engine):
        one, two = (kept_bytes(engine, repeated(batch, count)) for count in (1, 2))
    networks = {id(o.network): o.network for o in engine.objectives.values()}
    trained = sum(bytes_of(p) for network in networks.values() for p in network.parameters() if p.requires_grad)
    resident = [*engine.method.parameters(), *engine.method.buffers(), *engine.ema.weights.values()]
    parameters = sum(bytes_of(t) for t in resident)
    return MemoryPlan(engine.stage.name, parameters, trained, 2 * trained, max(0, 2 * one - two), max(1, two - one))


class MemoryRehearsal(Rehearsal):
    """A rehearsal without the backward pass that adds up the bytes each objective keeps for it, not counting the weights."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.kept: dict[str, dict[int, Tensor]] = defaultdict(dict)  # by storage: a tensor kept by several operations counts once
        self.bytes: dict[str, int] = {}

    def around(self, name: str) -> AbstractContextManager[None]:
        def keep(tensor: Tensor) -> Tensor:
            self.kept[name][tensor.untyped_storage().data_ptr()] = tensor.detach()
            return tensor

        return torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)

    def backward(self, loss: Tensor) -> None:
        """Left out."""

    def minimise(self, name: str, batch: Batch) -> Made:
        made, weights = super().minimise(name, batch), {p.untyped_storage().data_ptr() for p in self.engine.method.parameters()}
        kept = self.kept.pop(name)
        sizes = [tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in weights]
        self.bytes[name] = sum(sizes) + 2 * max(sizes, default=0)
        return made


def kept_bytes(engine: Engine, batch: Batch) -> int:
    """What the largest loss of the stage holds in its backward pass."""
    rehearsal = MemoryRehearsal(engine)
    rehearsal.run(batch)
    return max(rehearsal.bytes.values())


def repeated(batch: Batch, count: int) -> Batch:
    """The first slice, `count` times."""
    return batch.map(lambda tensor: tensor[:1].repeat_interleave(count, 0), np.repeat(batch.keys[:1], count))


def bytes_of(tensor: Tensor | nn.Parameter) -> int:
    return tensor.numel() * tensor.element_size()


def describe(plan: MemoryPlan, slices: int, card: int | None) -> str:
    """The plan in a sentence, for a rank that takes so many slices at once, on a GPU of `card` bytes or on a CPU."""
    parts = {"parameters": plan.parameters, "gradients": plan.gradients, "optimiser": plan.optimiser}
    parts["activations"] = plan.fixed + slices * plan.per_slice
    shares = ", ".join(f"{name} {size / 1e9:.3g}" for name, size in parts.items())
    need = plan.total(slices) + (OVERHEAD if card else 0)
    text = f"memory of stage {plan.stage} per rank, GB: {shares}; total {need / 1e9:.3g} for {slices} slices at once"
    if card is None:
        return text
    most = plan.fits(card)
    advice = f"holds {most}" if most >= slices else f"holds only {most}: " + (
        f"set train.micro_batch={most}, which changes nothing but memory" if most else "use narrower networks or a larger GPU"
    )  # fmt: skip
    return f"{text}, {OVERHEAD / 1e9:.1f} of overhead included; this GPU of {card / 1e9:.1f} GB {advice}"


def gpu_bytes(device: torch.device) -> int | None:
    """The size of the device's memory in bytes; None for a CPU."""
    return int(torch.cuda.get_device_properties(device).total_memory) if device.type == "cuda" else None

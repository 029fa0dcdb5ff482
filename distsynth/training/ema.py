"""`train.ema`: an exponential moving average of the weights, which replaces them in validation, in the best checkpoint and in evaluation.

With w(t) the weights after update t, a(0) = w(0) and a(t) = d a(t-1) + (1 - d) w(t), where d = min(ema, t / (t + 9)), so that the first
weights are soon forgotten. Adversarial losses make a network oscillate, and the mean of its path is better than any point on it (Yazici et
al., "The unusual effectiveness of averaging in GAN training", ICLR 2019). Training itself does not use the average.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    """The average of all parameters of a module; buffers (statistics of batch norms) are not averaged. With `decay` 0 there is no average,
    and the weights themselves are used."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.trained = dict(module.named_parameters()) if decay else {}
        self.weights: dict[str, Tensor] = {name: p.detach().clone() for name, p in self.trained.items()}

    def update(self, t: int) -> None:
        """Include the weights after update t, counted from 1."""
        if self.weights:
            share = 1 - min(self.decay, t / (t + 9))
            torch._foreach_lerp_(list(self.weights.values()), [p.detach() for p in self.trained.values()], share)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the module's parameters hold the average."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def swap(self) -> None:
        for name, parameter in self.trained.items():
            parameter.data, self.weights[name] = self.weights[name], parameter.data

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Continue from a checkpoint's average; parameters it lacks start from their current weights."""
        for name, own in self.weights.items():
            own.copy_(weights.get(name, self.trained[name].detach()))

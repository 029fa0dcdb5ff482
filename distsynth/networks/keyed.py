"""Random numbers made on the networks' device, keyed by sample: dropout and noise are the same on any number of ranks.

`distsynth.data.randomness` does the same in numpy, for the few numbers that a whole sample needs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

GOLDEN, FIRST, SECOND = (value - 2**64 for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def uniform(seeds: Tensor, shape: Sequence[int]) -> Tensor:
    """(B,) int64 -> (B, *shape) float32 in [0, 1), each number a function only of its sample's seed and its place."""
    place = torch.arange(math.prod(shape), device=seeds.device)
    bits = splitmix(splitmix(seeds)[:, None] + place)  # not + place * GOLDEN: inductor would fold constants that overflow
    return ((bits >> 40) & 0xFFFFFF).float().mul(2.0**-24).view(len(seeds), *shape)


def normal(seeds: Tensor, shape: Sequence[int]) -> Tensor:
    """(B,) int64 -> (B, *shape) float32 from N(0, 1) (Box and Muller 1958)."""
    radius, angle = uniform(seeds, (2, *shape)).unbind(1)
    return (-2 * torch.log1p(-radius)).sqrt() * torch.cos(2 * math.pi * angle)


def dropout(x: Tensor, seeds: Tensor, p: float) -> Tensor:
    """x (B, ...) with a share p of its values set to 0 and the others multiplied by 1 / (1 - p) (Srivastava et al. 2014)."""
    return x * (uniform(seeds, x.shape[1:]) >= p).to(x.dtype) / (1 - p)


def splitmix(state: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014) in wrapping int64."""
    z = state + GOLDEN
    z = (z ^ shifted(z, 30)) * FIRST
    z = (z ^ shifted(z, 27)) * SECOND
    return z ^ shifted(z, 31)


def shifted(z: Tensor, by: int) -> Tensor:
    """A logical right shift: torch's own is arithmetic."""
    return (z >> by) & ((1 << (64 - by)) - 1)

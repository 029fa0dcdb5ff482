"""The squashing functions at the end of the networks, in float32: in bfloat16 the gradient of tanh is exactly 0 from 3.5 on, and that of sigmoid
from 6.3 on, so that a saturated pixel would never learn again. With float32 and float64 they change nothing."""

from __future__ import annotations

import torch
from torch import Tensor


def tanh(x: Tensor) -> Tensor:
    """Any real number -> [-1, 1]."""
    return torch.tanh(full(x))


def sigmoid(x: Tensor) -> Tensor:
    """Any real number -> [0, 1]."""
    return torch.sigmoid(full(x))


def full(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x

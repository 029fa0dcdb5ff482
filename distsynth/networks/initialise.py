"""Initial weights."""

from __future__ import annotations

import torch
from torch import nn


def normal(network: nn.Module, seed: int, std: float = 0.02) -> None:
    """Convolutions from N(0, std), their biases zero (pix2pix; Isola et al. 2017, section 3.3), from a generator of its own, so
    that the weights depend on the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, std, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def uniform(network: nn.Module, seed: int) -> None:
    """torch's own first weights, which published code has that says nothing of them: convolutions and their biases uniform within
    1 / sqrt(fan in); from a generator of its own, so that they depend on the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            bound = module.weight[0].numel() ** -0.5
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            if module.bias is not None:
                nn.init.uniform_(module.bias, -bound, bound, generator=generator)

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


def normal_norms(network: nn.Module, seed: int, std: float = 0.02) -> None:
    """The scales of batch norms from N(1, std), as pix2pix's published code has them beside `normal`'s convolutions."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, std, generator=generator)

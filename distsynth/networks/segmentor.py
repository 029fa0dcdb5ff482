"""The segmentor of TC-MGAN (Xin et al. 2020): a U-Net that segments the whole tumour, with strided 3x3 convolutions down and up."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from distsynth.networks.heads import sigmoid


class Segmentor(nn.Module):
    """(B, inputs, H, W) -> (B, 1, H, W) probability of tumour, for any H and W above 2**levels."""

    def __init__(self, inputs: int, width: int, norm: str, levels: int = 4) -> None:
        """`width` channels at the first of `levels` levels, doubled per level (published: 64).

        `norm`: `batch` as published, or `instance`, which does not depend on the batch or the number of ranks. The first level has no
        instance norm: it would remove the label maps, which are constant, and their weights would get gradients of rounding only.
        """
        super().__init__()
        widths = [width * 2**level for level in range(levels)]
        first = nn.Sequential(nn.Conv2d(inputs, width, 3, 2, 1), *([nn.BatchNorm2d(width)] if norm == "batch" else []), nn.ReLU())
        self.down = nn.ModuleList([first, *(down_block(a, b, norm) for a, b in pairwise(widths))])
        deep = widths[::-1]
        ins, outs = [deep[0], *(a + b for a, b in pairwise(deep))], [*deep[:-1], 1]
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 3, 2, 1, bias=b == 1) for a, b in zip(ins, outs, strict=True))
        self.norms = nn.ModuleList(normalise(b, norm) for b in outs[:-1])

    def forward(self, x: Tensor) -> Tensor:
        sizes, skips = [x.shape[-2:]], []
        for down in self.down:
            x = down(x)
            sizes.append(x.shape[-2:])
            skips.append(x)
        x = skips.pop()
        for level, norm in enumerate(self.norms):
            x = torch.relu(norm(self.up[level](x, output_size=sizes[-2 - level])))
            x = torch.cat([x, skips.pop()], dim=1)
        return sigmoid(self.up[-1](x, output_size=sizes[0]))


def down_block(inputs: int, outputs: int, norm: str) -> nn.Sequential:
    """3x3 convolution of stride 2 (the norm has the bias), norm, ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), normalise(outputs, norm), nn.ReLU())


def normalise(channels: int, norm: str) -> nn.Module:
    """`batch` or `instance` norm with a learnt scale and shift."""
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.InstanceNorm2d(channels, affine=True)

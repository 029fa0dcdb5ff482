"""The generator of StarGAN (Choi et al. 2018, table 4 of the appendix)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distsynth.networks.unet import full_resolution_block


class StarGANGenerator(nn.Module):
    """(B, inputs, H, W) -> (B, outputs, H, W) in [-1, 1]; H and W must be multiples of 4.

    All padding is with zeros. It has to be: labels enter as constant maps, of which an InstanceNorm leaves only what the border makes of
    them, and reflection padding would leave nothing.
    """

    def __init__(self, inputs: int, outputs: int, width: int = 64, blocks: int = 6, direct: bool = False) -> None:
        """`width` channels at the full resolution, doubled at each of two strided levels, where the residual `blocks` are.

        `direct` (not published) makes the output of these and of the input itself, by two 3x3 convolutions in place of the last one: what is
        fine need not go through the strided levels, nor what is absolute through their norms.
        """
        super().__init__()
        deep = 4 * width
        self.body = nn.Sequential(
            nn.Conv2d(inputs, width, 7, padding=3, bias=False),
            *normed(width),
            nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False),
            *normed(2 * width),
            nn.Conv2d(2 * width, deep, 4, 2, 1, bias=False),
            *normed(deep),
            *(ResidualBlock(deep) for _ in range(blocks)),
            nn.ConvTranspose2d(deep, 2 * width, 4, 2, 1, bias=False),
            *normed(2 * width),
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1, bias=False),
            *normed(width),
        )
        self.leave = (
            full_resolution_block(width + inputs, width, outputs)
            if direct
            else nn.Conv2d(width, outputs, 7, padding=3, bias=False)
        )
        self.direct = direct

    def forward(self, x: Tensor) -> Tensor:
        made = self.body(x)
        return torch.tanh(self.leave(torch.cat([made, x], dim=1) if self.direct else made))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with norms, added to what came in (He et al. 2016); no activation behind the sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        first, second = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.body = nn.Sequential(first, *normed(width), second, nn.InstanceNorm2d(width, affine=True))

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.body(x)
        return x + added


def normed(width: int) -> tuple[nn.Module, nn.Module]:
    """InstanceNorm with a learnt scale and shift, and ReLU."""
    return nn.InstanceNorm2d(width, affine=True), nn.ReLU()

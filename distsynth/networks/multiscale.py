"""The multi-scale discriminator of UNIT's published code: PatchGANs without a norm, on the image and on downsampled copies of it."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn


class MultiScale(nn.Module):
    """(B, inputs, H, W) -> for each scale (B, 1, h, w) logits."""

    def __init__(self, inputs: int, width: int = 64, layers: int = 4, scales: int = 3) -> None:
        """`width` channels at the first of `layers` 4x4 convolutions of stride 2, doubled per layer; reflection padding."""
        super().__init__()
        self.scales = nn.ModuleList(patches(inputs, width, layers) for _ in range(scales))
        self.halve = nn.AvgPool2d(3, 2, 1, count_include_pad=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        logits = []
        for index, scale in enumerate(self.scales):
            x = self.halve(x) if index else x
            logits.append(scale(x))
        return logits


def patches(inputs: int, width: int, layers: int) -> nn.Sequential:
    """Convolutions of stride 2 with LeakyReLU, then 1x1 to a logit."""
    widths = [inputs, *(width * 2**layer for layer in range(layers))]
    body: list[nn.Module] = []
    for before, after in pairwise(widths):
        body += [nn.Conv2d(before, after, 4, 2, 1, padding_mode="reflect"), nn.LeakyReLU(0.2)]
    return nn.Sequential(*body, nn.Conv2d(widths[-1], 1, 1))


def most_layers(size: tuple[int, int], scales: int) -> int:
    """The most layers that the smallest scale of H x W allows: reflection padding needs two pixels before each. 0: not even one."""
    smallest = ((min(size) - 1) >> (scales - 1)) + 1
    return smallest.bit_length() - 1

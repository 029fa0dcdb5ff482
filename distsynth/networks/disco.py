"""The networks of DiscoGAN (Kim et al. 2017) as in the published code: convolutions without biases, images in [0, 1]."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from distsynth.networks.heads import sigmoid
from distsynth.networks.unet import NORMS


class DiscoGenerator(nn.Module):
    """(B, inputs, H, W) -> (B, outputs, H, W), both in [0, 1]; H and W must be multiples of 2**depth."""

    def __init__(self, inputs: int, outputs: int, width: int, depth: int, norm: str) -> None:
        """`width` channels at the first of `depth` levels, doubled per level up to 8 x width (published: 64 and 4, for 64 x 64).

        `norm`: `instance`, which does not depend on the number of ranks, or `batch` as published; the first and last layer have none."""
        super().__init__()
        widths = channels(width, depth)
        layers: list[nn.Module] = [nn.Conv2d(inputs, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, 2, 1, bias=False), NORMS[norm](after), nn.LeakyReLU(0.2)]
        for before, after in pairwise(widths[::-1]):
            layers += [nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False), NORMS[norm](after), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(width, outputs, 4, 2, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return sigmoid(self.layers(x))


class DiscoDiscriminator(nn.Module):
    """(B, inputs, H, W) in [0, 1] -> logits (B,), and the features of every level except the first, for feature matching."""

    def __init__(self, inputs: int, width: int, depth: int, size: tuple[int, int], norm: str) -> None:
        """As the generator's downsampling; the last kernel is as large as what `depth` levels leave of H x W (published: 4 x 4 of 64 x 64)."""
        super().__init__()
        widths = channels(width, depth)
        self.first = nn.Sequential(nn.Conv2d(inputs, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2))
        self.levels = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 4, 2, 1, bias=False), NORMS[norm](after), nn.LeakyReLU(0.2))
            for before, after in pairwise(widths)
        )
        self.last = nn.Conv2d(widths[-1], 1, (size[0] >> depth, size[1] >> depth), bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        x, features = self.first(x), []
        for level in self.levels:
            x = level(x)
            features.append(x)
        return self.last(x).flatten(), features


def channels(width: int, depth: int) -> list[int]:
    """The number of channels of each level."""
    return [width * min(2**level, 8) for level in range(depth)]

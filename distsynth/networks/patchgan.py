"""The PatchGAN discriminator of pix2pix (Isola et al. 2017, appendix 6.1.2), also used by CycleGAN and MM-GAN."""

from __future__ import annotations

from torch import Tensor, nn

from distsynth.networks.unet import NORMS
from preprocess.shared.errors import SettingError


class PatchGAN(nn.Module):
    """(B, inputs, H, W) -> (B, outputs, h, w) logits, each of a patch: 70x70 pixels with the published 3 layers."""

    def __init__(self, inputs: int, width: int = 64, layers: int = 3, norm: str = "instance", outputs: int = 1) -> None:
        """`width` channels at the first of `layers` strided layers, doubled per layer up to 8 x width; then one layer of stride 1, then the map.

        `norm`: `instance`, which does not depend on the number of ranks, or `batch` as in pix2pix. Biases before a norm are left out.
        """
        super().__init__()
        widths = [width * min(2**layer, 8) for layer in range(layers + 1)]
        body: list[nn.Module] = [nn.Conv2d(inputs, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for layer in range(1, layers + 1):
            stride = 2 if layer < layers else 1
            body += [
                nn.Conv2d(widths[layer - 1], widths[layer], 4, stride, 1, bias=False),
                NORMS[norm](widths[layer]),
                nn.LeakyReLU(0.2),
            ]
        self.body = nn.Sequential(*body, nn.Conv2d(widths[-1], outputs, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body(x)
        return logits


def check_layers(layers: int, size: tuple[int, int]) -> None:
    """Raise SettingError if so many strided layers leave fewer than 3 pixels of H x W: the two layers after them, 4 wide and padded by 1, take
    one pixel each."""
    if min(size) < 3 << layers:
        raise SettingError(
            f"method.discriminator.layers={layers} needs slices of at least {3 << layers} pixels and these, padded, are {size[0]}x{size[1]}: "
            "set fewer layers"
        )

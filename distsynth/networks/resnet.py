"""The ResNet generator of CycleGAN (Zhu et al. 2017, appendix 7.2), after Johnson et al. 2016, and its residual block.

Biases before an InstanceNorm are left out: their true gradient is zero, and Adam would amplify its rounding.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from distsynth.networks.heads import tanh

Padding = Literal["reflect", "zeros"]


class ResNet(nn.Module):
    """(B, inputs, H, W) -> (B, outputs, H, W) in [-1, 1]; H and W must be multiples of 4."""

    def __init__(self, inputs: int, outputs: int, width: int = 64, blocks: int = 9) -> None:
        """`width` channels at the full resolution; `blocks` residual blocks at a quarter of it (published: 9, or 6 for 128 x 128)."""
        super().__init__()
        self.layers = nn.Sequential(
            *conv_block(inputs, width, 7, 1, 3),
            *conv_block(width, 2 * width, 3, 2, 1, "zeros"),
            *conv_block(2 * width, 4 * width, 3, 2, 1, "zeros"),
            *(ResidualBlock(4 * width) for _ in range(blocks)),
            *up_block(4 * width, 2 * width),
            *up_block(2 * width, width),
            nn.Conv2d(width, outputs, 7, 1, 3, padding_mode="reflect"),
        )

    def forward(self, x: Tensor) -> Tensor:
        return tanh(self.layers(x))


class ResidualBlock(nn.Module):
    """(B, width, H, W) -> the same shape: two 3x3 convolutions with reflection padding, added to the input; no activation after the sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*conv_block(width, width, 3, 1, 1), *conv_block(width, width, 3, 1, 1)[:-1])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.layers(x)
        return y


def conv_block(inputs: int, outputs: int, kernel: int, stride: int, padding: int, mode: Padding = "reflect") -> list[nn.Module]:
    """Convolution, InstanceNorm, ReLU."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding, padding_mode=mode, bias=False)
    return [convolution, nn.InstanceNorm2d(outputs), nn.ReLU()]


def up_block(inputs: int, outputs: int) -> list[nn.Module]:
    """3x3 transposed convolution of stride 2, InstanceNorm, ReLU."""
    return [nn.ConvTranspose2d(inputs, outputs, 3, 2, 1, output_padding=1, bias=False), nn.InstanceNorm2d(outputs), nn.ReLU()]

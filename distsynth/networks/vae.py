"""The two variational autoencoders of UNIT (Liu et al. 2017), as in the published code, optionally with the paper's shared blocks."""

from __future__ import annotations

from torch import Tensor, nn

from distsynth.networks.heads import tanh
from distsynth.networks.resnet import ResidualBlock, conv_block

SIDES = ("source", "target")


class Autoencoders(nn.Module):
    """Autoencoders of two kinds of images, called `source` and `target`, with one latent space, (B, 4 width, H / 4, W / 4)."""

    def __init__(self, width: int = 64, blocks: int = 4, shared: int = 0) -> None:
        """`blocks` residual blocks in each encoder and decoder, of which the encoders share the last `shared` and the decoders the first
        `shared`. Shared blocks are stored once, so that an optimiser and DDP see each of their parameters once."""
        super().__init__()
        own = blocks - shared
        self.encoders = nn.ModuleDict({side: encoder(1, width, own) for side in SIDES})
        self.last = nn.Sequential(*(ResidualBlock(4 * width) for _ in range(shared)))
        self.first = nn.Sequential(*(ResidualBlock(4 * width) for _ in range(shared)))
        self.decoders = nn.ModuleDict({side: decoder(1, width, own) for side in SIDES})

    def encode(self, side: str, image: Tensor) -> Tensor:
        """(B, 1, H, W) -> the mean of its latent code."""
        mean: Tensor = self.last(self.encoders[side](image))
        return mean

    def decode(self, side: str, latent: Tensor) -> Tensor:
        """A latent code -> (B, 1, H, W) in [-1, 1]."""
        return tanh(self.decoders[side](self.first(latent)))


def encoder(inputs: int, width: int, blocks: int) -> nn.Sequential:
    """7x7 convolution, two 4x4 of stride 2, residual blocks; InstanceNorm (so no biases), reflection padding."""
    return nn.Sequential(
        *conv_block(inputs, width, 7, 1, 3),
        *conv_block(width, 2 * width, 4, 2, 1),
        *conv_block(2 * width, 4 * width, 4, 2, 1),
        *(ResidualBlock(4 * width) for _ in range(blocks)),
    )


def decoder(outputs: int, width: int, blocks: int) -> nn.Sequential:
    """Residual blocks, then two times nearest-neighbour upsampling and a 5x5 convolution with LayerNorm, then a 7x7 convolution."""
    ups = [*up_block(4 * width, 2 * width), *up_block(2 * width, width)]
    last = nn.Conv2d(width, outputs, 7, 1, 3, padding_mode="reflect")
    return nn.Sequential(*(ResidualBlock(4 * width) for _ in range(blocks)), *ups, last)


def up_block(inputs: int, outputs: int) -> list[nn.Module]:
    """Upsampling, 5x5 convolution, LayerNorm over a sample's channels and pixels (a GroupNorm of one group; the published code divides by the
    standard deviation computed with n - 1), ReLU."""
    convolution = nn.Conv2d(inputs, outputs, 5, 1, 2, padding_mode="reflect")
    return [nn.Upsample(scale_factor=2), convolution, nn.GroupNorm(1, outputs), nn.ReLU()]

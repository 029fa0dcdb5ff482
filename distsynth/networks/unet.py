"""The U-Net generator of pix2pix (Isola et al. 2017, appendix 6.1.1), at any depth and width.

Each level downsamples with a 4x4 convolution of stride 2 and upsamples with a 4x4 transposed one; a skip connects the two.
Biases before an InstanceNorm are left out: their true gradient is zero, and Adam would amplify its rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from distsynth.networks import keyed
from distsynth.networks.heads import tanh
from preprocess.shared.errors import SettingError

OUTER = 4  # outermost levels, which have no dropout in pix2pix


class UNet(nn.Module):
    """(B, inputs, H, W) -> (B, outputs, H, W) in [-1, 1]; H and W must be multiples of 2**depth."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        width: int,
        depth: int,
        direct: bool = False,
        norm: str = "instance",
        dropout: float = 0.0,
    ) -> None:
        """`width` channels at the first level, doubled per level up to 8 x width (pix2pix: 64, at depth 7 for 128 x 128 and 8 for 256 x 256).

        `direct` (not pix2pix) adds a level of 3x3 convolutions at the full resolution, without a norm: it restores a slice's absolute
        intensities, which InstanceNorm removes. `norm`: instance, or batch as in pix2pix. `dropout` is the share of values dropped after the
        norm when upsampling, at inner levels except the innermost (pix2pix: .5, at three of 8 levels and two of 7; here also at one of 3 to 5,
        where the published code has none and so no noise).
        """
        super().__init__()
        last = width if direct else outputs
        widths = [width * min(2**level, 8) for level in range(depth)]
        self.dropout = dropout
        self.dropped = range(1, max(min(2, depth - 1), depth - OUTER))  # indices of self.up, counted from the innermost
        self.down = nn.ModuleList(
            down_block(inputs if level == 0 else widths[level - 1], widths[level], level, depth, norm) for level in range(depth)
        )
        self.up = nn.ModuleList(
            up_block(widths[level] * (1 if level == depth - 1 else 2), widths[level - 1] if level else last, level, norm)
            for level in reversed(range(depth))
        )
        self.enter = nn.Conv2d(inputs, width, 3, padding=1) if direct else None
        self.leave = full_resolution_block(last + width, width, outputs) if direct else None

    def forward(self, x: Tensor, seeds: Tensor | None = None) -> Tensor:
        """`seeds` (B,) int64, one per sample, decide which values are dropped (`Batch.seeds`); without them none are."""
        full = None if self.enter is None else self.enter(x)
        skips = []
        for down in self.down:
            x = down(x)
            skips.append(x)
        for index, (up, skip) in enumerate(zip(self.up, [None, *reversed(skips[:-1])], strict=True)):
            x = up(x if skip is None else torch.cat([x, skip], dim=1))
            if seeds is not None and self.dropout and index in self.dropped:
                x = keyed.dropout(x, seeds + index, self.dropout)
        return tanh(x if full is None or self.leave is None else self.leave(torch.cat([x, full], dim=1)))


def stride_of(given: int, size: Sequence[int], most: int, setting: str) -> int:
    """What H and W must be multiples of for `given` levels; if that is 0, for as many, up to `most`, as pad h x w by at most a tenth (256: 8
    levels, 128: 7, 160: 5, 54: 3). Raises SettingError, naming the setting, if some levels would have one pixel or none."""
    deepest = (max(size) - 1).bit_length()
    if not 0 <= given <= max(deepest, 1):
        raise SettingError(
            f"{setting}={given} does not suit slices of {size[0]}x{size[1]}: 1 to {deepest}, or 0 for as many as fit"
        )
    fitting = [d for d in range(1, most + 1) if all(-(-n >> d) << d <= 1.1 * n for n in size)]
    return 1 << (given or max(fitting, default=1))


def depth_of(given: int, size: Sequence[int], most: int) -> int:
    """The levels of a network for slices padded to multiples of `stride_of`: `given`, or if that is 0 as many, up to `most`, as H x W allows."""
    return given or max((d for d in range(1, most + 1) if all(n % (1 << d) == 0 for n in size)), default=1)


def down_block(inputs: int, outputs: int, level: int, depth: int, norm: str) -> nn.Sequential:
    """LeakyReLU, 4x4 convolution of stride 2, norm; the outermost has no activation, the outermost and the innermost have no norm."""
    normed = 0 < level < depth - 1
    layers: list[nn.Module] = [] if level == 0 else [nn.LeakyReLU(0.2)]
    layers.append(nn.Conv2d(inputs, outputs, 4, 2, 1, bias=not normed))
    return nn.Sequential(*layers, *([NORMS[norm](outputs)] if normed else []))


def up_block(inputs: int, outputs: int, level: int, norm: str) -> nn.Sequential:
    """ReLU, 4x4 transposed convolution of stride 2, norm; the outermost has no norm."""
    layers: list[nn.Module] = [nn.ReLU(), nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=level == 0)]
    return nn.Sequential(*layers, *([NORMS[norm](outputs)] if level else []))


NORMS: dict[str, Callable[[int], nn.Module]] = {"instance": nn.InstanceNorm2d, "batch": nn.BatchNorm2d}


def full_resolution_block(inputs: int, width: int, outputs: int) -> nn.Sequential:
    """LeakyReLU and 3x3 convolution, twice."""
    first, second = nn.Conv2d(inputs, width, 3, padding=1), nn.Conv2d(width, outputs, 3, padding=1)
    return nn.Sequential(nn.LeakyReLU(0.2), first, nn.LeakyReLU(0.2), second)

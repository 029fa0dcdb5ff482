"""The critic of TC-MGAN (Xin et al. 2020) and StarGAN (Choi et al. 2018): strided convolutions, no norm, two heads; 2-D or 3-D."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, unfold

from preprocess.shared.errors import SettingError


class LeakyReLU(nn.Module):
    """nn.LeakyReLU to the last bit, but with a cheaper second derivative: the slope is a constant, where torch's own sends zeros through the
    whole forward pass again. A gradient penalty costs a third less."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, self.slope * x)


class Conv2d(nn.Conv2d):
    """nn.Conv2d, (B, inputs, H, W) -> (B, outputs, H', W'). On a CPU a layer with an output of at most 2 x 2 pixels is computed as a matrix
    product, in half the time or less: most of a critic's weights are in its last such layer."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride, padding = self.kernel_size, self.stride, self.padding
        assert not isinstance(padding, str)
        height, width = ((x.shape[d] + 2 * padding[d] - kernel[d]) // stride[d] + 1 for d in (-2, -1))
        if x.device.type != "cpu" or height * width > 4:
            return super().forward(x)
        columns = unfold(x, kernel, padding=padding, stride=stride).transpose(1, 2)
        return linear(columns, self.weight.flatten(1), self.bias).transpose(1, 2).reshape(len(x), -1, height, width)


CONV: dict[int, type[nn.Module]] = {2: Conv2d, 3: nn.Conv3d}


class Critic(nn.Module):
    """(B, inputs, [D,] H, W) -> the critic's map, summed over its patches (B,), and class logits (B, classes)."""

    def __init__(self, inputs: int, classes: int, width: int, depth: int, size: Sequence[int]) -> None:
        """`width` channels at the first of `depth` levels, doubled per level (published for 128 x 128: TC-MGAN 64 and 5, StarGAN 64 and 6)."""
        super().__init__()
        channels, conv = [inputs, *(width * 2**level for level in range(depth))], CONV[len(size)]
        layers: list[nn.Module] = []
        for before, after in pairwise(channels):
            layers += [conv(before, after, 4, 2, 1), LeakyReLU(0.01)]
        self.trunk = nn.Sequential(*layers)
        self.map = conv(channels[-1], 1, 3, padding=1, bias=False)
        final = [side >> depth for side in size]
        self.places = math.prod(final)  # number of values in the map
        self.classifier = conv(channels[-1], classes, final, bias=False)  # one kernel as large as the map, at any image size

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.trunk(x)
        return self.map(features).flatten(1).sum(1), self.classifier(features).flatten(1)


def stargan_depth(given: int, size: Sequence[int], setting: str) -> int:
    """`given`, or if that is 0 StarGAN's 6, or fewer so that at least 2 pixels are left (128: 6, 72: 5). Raises SettingError, naming the
    setting, if less than one pixel is left."""
    deepest = min(size).bit_length() - 1
    depth = given or max(1, min(6, deepest - 1))
    if depth > deepest:
        images = f"slices of {size[0]}x{size[1]}" if len(size) == 2 else f"patches of {size[0]}"
        raise SettingError(f"{setting}={depth} is too deep for {images}: at most {deepest}")
    return depth

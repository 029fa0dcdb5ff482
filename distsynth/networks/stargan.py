"""StarGAN's generator (Choi et al. 2018, table 4 of the appendix), for images, and for volumes as in Dai et al. 2020.

All padding must be zeros: labels enter as constant maps. An InstanceNorm removes constants, so that only the border carries the labels on, and
with reflection padding nothing would. Convolutions before an InstanceNorm have no bias, as in the published code.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv3d

from distsynth.networks.critic import CONV
from distsynth.networks.heads import tanh
from distsynth.networks.unet import full_resolution_block

CONVOLVE = {2: conv2d, 3: conv3d}
BACK: dict[int, type[nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORM: dict[int, type[nn.Module]] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


class Generator(nn.Module):
    """(B, inputs, [D,] H, W) -> (B, outputs, [D,] H, W) in [-1, 1]; each side must be a multiple of 2**downs."""

    idle: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        width: int = 64,
        downs: int = 2,
        blocks: int = 6,
        kernel: int = 7,
        direct: bool = False,
        axes: int = 2,
        constant: int = 0,
    ) -> None:
        """`width` channels at the full resolution, doubled by each of `downs` strided convolutions, then `blocks` residual blocks; the first
        and the last convolution have the odd size `kernel`; `axes` is 2 for images and 3 for volumes.

        `direct` (not StarGAN) restores the absolute intensities that InstanceNorm removes. In 2-D two 3x3 convolutions, in place of the last
        one, see the last features and the input itself; in 3-D, where these are too slow, two convolutions of kernel 1 see the last features
        and features of the input's single voxels.

        The last `constant` inputs are the same everywhere. What they add through the centre of the first kernel is constant too, and the
        InstanceNorm removes it: the true gradient of these weights is zero, and Adam would amplify its rounding. So they get no gradient.
        """
        super().__init__()
        widths = [width * 2**level for level in range(downs + 1)]
        self.padding, self.convolve = kernel // 2, CONVOLVE[axes]
        self.first = CONV[axes](inputs, width, kernel, padding=kernel // 2, bias=False)
        body: list[nn.Module] = normed(width, axes)
        for before, after in pairwise(widths):
            body += [CONV[axes](before, after, 4, 2, 1, bias=False), *normed(after, axes)]
        body += [Residual(widths[-1], axes) for _ in range(blocks)]
        for before, after in pairwise(widths[::-1]):
            body += [BACK[axes](before, after, 4, 2, 1, bias=False), *normed(after, axes)]
        self.body = nn.Sequential(*body)
        self.enter: nn.Module | None = None
        if not direct:
            self.leave: nn.Module = CONV[axes](width, outputs, kernel, padding=kernel // 2, bias=False)
        elif axes == 2:
            self.enter, self.leave = nn.Identity(), full_resolution_block(width + inputs, width, outputs)
        else:
            self.enter = nn.Sequential(CONV[axes](inputs, 2 * width, 1), nn.LeakyReLU(0.2))
            self.leave = nn.Sequential(CONV[axes](3 * width, 2 * width, 1), nn.LeakyReLU(0.2), CONV[axes](2 * width, outputs, 1))
        idle = torch.zeros(1, inputs, *[kernel] * axes, dtype=torch.bool)
        idle.view(inputs, -1)[inputs - constant :, kernel**axes // 2] = True  # the centre of the kernel
        self.register_buffer("idle", idle, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.first.weight
        assert isinstance(weight, Tensor)
        weight = torch.where(self.idle, weight.detach(), weight)
        features = self.body(self.convolve(x, weight, padding=self.padding))
        if self.enter is not None:
            features = torch.cat([features, self.enter(x)], dim=1)
        return tanh(self.leave(features))


class Residual(nn.Module):
    """x + norm(conv(relu(norm(conv(x)))))."""

    def __init__(self, channels: int, axes: int) -> None:
        super().__init__()
        first, second = (CONV[axes](channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.body = nn.Sequential(first, *normed(channels, axes), second, NORM[axes](channels, affine=True))

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = self.body(x)
        return x + changed


def normed(channels: int, axes: int) -> list[nn.Module]:
    """InstanceNorm with a learnt scale and shift, then ReLU."""
    return [NORM[axes](channels, affine=True), nn.ReLU()]

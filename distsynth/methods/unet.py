"""unet: plain L1 regression, the baseline that a discriminator, a segmentor or a cycle has to improve on.

A U-Net (Ronneberger et al. 2015, in the form of pix2pix) makes all outputs y from the inputs x at once, as channels, and is trained on

    loss = |y - G(x)|        the mean over the slice's pixels and channels, -1 on both sides outside the brain

This is the row "L1" of pix2pix's Table 1 (Isola et al. 2017): `pix2pix` without its discriminator and without dropout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from distsynth.data.batch import Batch
from distsynth.data.randomness import key
from distsynth.methods.contract import Method, Objective, Stage, Step, Terms, confined
from distsynth.modalities import Variant
from distsynth.networks.initialise import normal, normal_norms
from distsynth.networks.unet import UNet, depth_of, stride_of
from distsynth.settings import TrainSettings
from preprocess.shared.settings import setting


@dataclass
class UNetSettings:
    """Defaults are pix2pix's generator, except for the norm."""

    name: str = setting("unet", "the method")
    width: int = setting(64, "channels at the first level", least=1)
    depth: int = setting(0, "levels (0: as many as pad the image by at most a tenth, up to 8)", least=0)
    norm: Literal["instance", "batch"] = setting("instance", "instance: the same on any number of ranks; batch: as in pix2pix")
    direct: bool = setting(
        False, "skip connection from the input to the last level (not in pix2pix; learns absolute intensities sooner)"
    )


class UNetRegression(Method):
    """See the module docstring. The network has the same name as in the GAN methods, so that they can start from its weights
    (`train.init_from`)."""

    Settings = UNetSettings

    @classmethod
    def stride(cls, settings: UNetSettings, size: tuple[int, int]) -> int:
        return stride_of(settings.depth, size, 8, "method.depth")

    def __init__(self, settings: UNetSettings, variant: Variant, size: tuple[int, int], seed: int) -> None:
        super().__init__(settings, variant, size, seed)
        inputs, outputs = len(variant.inputs), len(variant.outputs)
        depth = depth_of(settings.depth, size, 8)
        self.generator = UNet(inputs, outputs, settings.width, depth, settings.direct, settings.norm)
        normal(self.generator, key(seed, "weights", "generator") >> 1)
        normal_norms(self.generator, key(seed, "norms", "generator") >> 1)

    def objectives(self) -> dict[str, Objective]:
        return {"generator": Objective(self.generator, self.loss)}

    def stages(self, train: TrainSettings) -> list[Stage]:
        return [Stage.main(train, "regression", ("generator",), self.update, self.compare)]

    def update(self, batch: Batch, step: Step) -> None:
        step.minimise("generator", batch)

    def loss(self, batch: Batch) -> tuple[Tensor, Terms]:
        loss = (batch.targets - self.synthesise(batch.sources, batch.brain)).abs().mean()
        return loss, {"l1": loss}

    def synthesise(self, sources: Tensor, brain: Tensor) -> Tensor:
        return confined(self.generator(sources), brain)

"""pix2pix: "Image-to-Image Translation with Conditional Adversarial Networks" (Isola et al., CVPR 2017).

A U-Net makes all outputs y from the inputs x at once, as channels. A PatchGAN sees both and classifies each patch as real or fake.

    d_loss = (BCE(D(x, y), 1) + BCE(D(x, G(x, z)), 0)) / 2          discriminator, halved as in section 3.3; then
    g_loss = BCE(D(x, G(x, z)), 1) + 100 |y - G(x, z)|              generator: equation 4, in the form that section 3.3 trains

The noise z is only dropout, at the inner levels, and it stays on at test time (section 3.3). The L1 distance is the mean over the slice's
pixels and channels. Both steps see the same fakes, made before the update, as in the published code.

Where this differs from the published code, on purpose: instance norm is the default. It equals batch norm at the published batch of 1 and
is the same on any number of ranks (`norm: batch` is the published one: `configs/method/pix2pix_published.yaml`). Dropout is keyed by
sample, and at test time a slice always gets the same noise. The generator's output is confined to the brain of its input, so that the
background enters no loss. The number of levels follows the image size (8 fit 256 x 256, 5 fit 160 x 160). The feed's flips and rotations
replace the published jitter (enlarge by an eighth, crop at random).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from distsynth.data.batch import Batch
from distsynth.data.randomness import key
from distsynth.methods.contract import Made, Method, Objective, Stage, Step, Terms, confined, frozen, in_chunks
from distsynth.modalities import Variant
from distsynth.networks.initialise import normal, normal_norms
from distsynth.networks.keyed import splitmix
from distsynth.networks.patchgan import PatchGAN, check_layers
from distsynth.networks.unet import UNet, depth_of, stride_of
from distsynth.settings import TrainSettings
from preprocess.shared.settings import setting

CRITERIA: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"bce": binary_cross_entropy_with_logits, "lsgan": mse_loss}


@dataclass
class GeneratorSettings:
    width: int = setting(64, "channels at the first level", least=1)
    depth: int = setting(0, "levels (0: as many as pad the image by at most a tenth, up to 8)", least=0)
    dropout: float = setting(0.5, "share of values dropped at the inner levels", least=0, below=1)
    direct: bool = setting(
        False, "skip connection from the input to the last level (not in pix2pix; learns absolute intensities sooner)"
    )


@dataclass
class DiscriminatorSettings:
    width: int = setting(64, "channels at the first layer", least=1)
    layers: int = setting(3, "strided layers (3: patches of 70 x 70 pixels; 1: of 16 x 16)", least=1)


@dataclass
class WeightSettings:
    l1: float = setting(100.0, "weight of the L1 distance in g_loss", least=0)
    discriminator: float = setting(0.5, "weight of d_loss (Adam nearly cancels it)", least=0)


@dataclass
class Pix2PixSettings:
    """Defaults are the published ones, except for the norm."""

    name: str = setting("pix2pix", "the method")
    generator: GeneratorSettings = setting(GeneratorSettings, "")
    discriminator: DiscriminatorSettings = setting(DiscriminatorSettings, "")
    weights: WeightSettings = setting(WeightSettings, "")
    norm: Literal["instance", "batch"] = setting("instance", "instance: the same on any number of ranks; batch: as published")
    gan: Literal["bce", "lsgan"] = setting("bce", "bce: cross-entropy, as published; lsgan: least squares (Mao et al. 2017)")
    noise_at_test: bool = setting(True, "dropout and the slice's own batch statistics at test time, as published")


class Pix2Pix(Method):
    """See the module docstring."""

    Settings = Pix2PixSettings

    @classmethod
    def stride(cls, settings: Pix2PixSettings, size: tuple[int, int]) -> int:
        return stride_of(settings.generator.depth, size, 8, "method.generator.depth")

    def __init__(self, settings: Pix2PixSettings, variant: Variant, size: tuple[int, int], seed: int) -> None:
        super().__init__(settings, variant, size, seed)
        self.settings = settings
        inputs, outputs = len(variant.inputs), len(variant.outputs)
        g, d = settings.generator, settings.discriminator
        check_layers(d.layers, size)
        self.generator = UNet(inputs, outputs, g.width, depth_of(g.depth, size, 8), g.direct, settings.norm, g.dropout)
        self.discriminator = PatchGAN(inputs + outputs, d.width, d.layers, settings.norm)
        for name, network in self.named_children():
            normal(network, key(seed, "weights", name) >> 1)
            normal_norms(network, key(seed, "norms", name) >> 1)

    # -- what is optimised ---------------------------------------------------------------------------------------------

    def objectives(self) -> dict[str, Objective]:
        return {
            "discriminator": Objective(self.discriminator, self.discriminator_loss),
            "generator": Objective(self.generator, self.generator_loss, self.make),
        }

    def stages(self, train: TrainSettings) -> list[Stage]:
        return [Stage.main(train, "gan", ("discriminator", "generator"), self.update, self.compare)]

    def update(self, batch: Batch, step: Step) -> None:
        made = step.make("generator", batch)
        step.minimise("discriminator", batch.having(**made))
        step.minimise("generator", batch)

    # -- the losses ----------------------------------------------------------------------------------------------------

    def make(self, batch: Batch) -> Made:
        return {"fake": self.generate(batch.sources, batch.brain, batch.seeds("dropout"))}

    def discriminator_loss(self, batch: Batch) -> tuple[Tensor, Terms]:
        on_real = self.criterion(batch.targets, batch, real=True)
        terms = {"d_real": on_real, "d_fake": self.criterion(batch.more["fake"], batch, real=False)}
        loss = self.settings.weights.discriminator * (terms["d_real"] + terms["d_fake"])
        return loss, {"d_loss": loss, **terms}

    def generator_loss(self, batch: Batch) -> tuple[Tensor, Terms]:
        fake = batch.more["fake"]
        with frozen(self.discriminator):
            adversarial = self.criterion(fake, batch, real=True)
        terms = {"g_gan": adversarial, "g_l1": (batch.targets - fake).abs().mean()}
        loss = terms["g_gan"] + self.settings.weights.l1 * terms["g_l1"]
        return loss, {"g_loss": loss, **terms}

    def criterion(self, images: Tensor, batch: Batch, real: bool) -> Tensor:
        """The adversarial loss of images (B, outputs, H, W) that should be classified as real, or as fake: a mean over patches and samples."""
        logits = self.discriminator(torch.cat([batch.sources, images], dim=1))
        return CRITERIA[self.settings.gan](logits, torch.full_like(logits, float(real)))

    # -- making images -------------------------------------------------------------------------------------------------

    def generate(self, sources: Tensor, brain: Tensor, seeds: Tensor | None) -> Tensor:
        """(B, inputs, H, W), (B, 1, H, W), (B,) -> (B, outputs, H, W) in [-1, 1], -1 outside the brain."""
        return confined(self.generator(sources, seeds), brain)

    def synthesise(self, sources: Tensor, brain: Tensor) -> Tensor:
        if not self.settings.noise_at_test:
            return self.generate(sources, brain, None)
        if self.settings.norm != "batch":
            return self.generate(sources, brain, seeds_of(sources))
        with own_statistics(self.generator):  # published: batches of 1 at test time
            return in_chunks(lambda x, inside: self.generate(x, inside, seeds_of(x)), sources, brain, size=1)


def seeds_of(images: Tensor) -> Tensor:
    """(B, C, H, W) -> (B,) int64, a hash of each slice: the same slice gets the same noise in any batch."""
    bits = images.float().flatten(1).view(torch.int32).long()
    return splitmix((bits * splitmix(torch.arange(bits.shape[1], device=bits.device))).sum(1))


@contextmanager
def own_statistics(network: nn.Module) -> Iterator[None]:
    """Inside, batch norms use the statistics of their current input and do not update their running statistics."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [(norm.training, norm.track_running_stats) for norm in norms]
    for norm in norms:
        norm.training, norm.track_running_stats = True, False
    try:
        yield
    finally:
        for norm, (training, tracking) in zip(norms, before, strict=True):
            norm.training, norm.track_running_stats = training, tracking

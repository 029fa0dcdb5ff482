"""MM-GAN: "Missing MRI pulse sequence synthesis using multi-modal generative adversarial network" (Sharma and Hamarneh, IEEE TMI 2020; arXiv
1904.12200).

One U-Net takes all of the variant's contrasts as channels, the missing ones blank, and outputs all of them; contrasts that were given replace the
U-Net's version of them (implicit conditioning). A PatchGAN classifies each patch of each channel as real or fake. Which contrasts are missing, the
scenario, is drawn for each sample, and a curriculum starts with the easy scenarios. One trained model serves every subset of its contrasts.

    L_G = (1 - l1) MSE(D(x_i, x), 1) + l1 |x - G(x_z)|_1 over the missing contrasts
    L_D = .5 [MSE(D(x, x), 1) + MSE(D(x_i, x), r)]           r = 1 for the channels that were given, 0 for the synthesised ones

with l1 = .9, the MSE over all channels, x the patient's contrasts, x_z those that the scenario gives, and x_i = x_z with its gaps filled from
G(x_z). As in the published code, G is updated first, D is then trained on the images of the updated G, and D sees x beside the images it
classifies (`discriminator.sees_real`).

Blank means -1 here, which is the background: the paper scales intensities by their mean, so that its zero is the background too. A contrast that
the patient lacks is blank for both networks and enters no loss.

Where this differs from the published code: the scenario is drawn per sample, not per batch. Intensities are in [-1, 1] with tanh (their
`--use_tanh`), confined to the brain. The last level and the 70x70 PatchGAN are pix2pix's; that PatchGAN has as many weights as theirs with one
stride less. Dropout is at three levels of the decoder only (theirs: at four, and at five of the encoder). The curriculum is the paper's: exactly
one contrast missing, then two, then three. `curriculum.easier` keeps the easier scenarios, as their code does; but their code leaves three of the
six pairs out until the third phase and three of the four single contrasts until the last.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from distsynth.data.batch import Batch
from distsynth.data.randomness import key
from distsynth.methods.contract import Method, Objective, Stage, Step, Terms, confined, frozen
from distsynth.methods.contrasts import choose, images_of, present_of
from distsynth.modalities import Variant
from distsynth.networks.initialise import normal
from distsynth.networks.patchgan import PatchGAN, check_layers
from distsynth.networks.unet import UNet, depth_of, stride_of
from distsynth.settings import TrainSettings
from preprocess.shared.errors import SettingError
from preprocess.shared.settings import setting

BLANK = -1.0


@dataclass
class GeneratorSettings:
    width: int = setting(64, "channels at the first level", least=1)
    depth: int = setting(0, "levels (0: as many as pad the image by at most a tenth, up to 8)", least=0)
    dropout: float = setting(0.2, "share of values dropped at the inner levels", least=0, below=1)
    direct: bool = setting(
        False, "skip connection from the input to the last level (not published; learns absolute intensities sooner)"
    )


@dataclass
class DiscriminatorSettings:
    width: int = setting(64, "channels at the first level", least=1)
    layers: int = setting(3, "strided layers (3: patches of 70x70 pixels)", least=1)
    sees_real: bool = setting(True, "show it the patient's own contrasts beside those it classifies, as the published code does")


@dataclass
class WeightSettings:
    l1: float = setting(0.9, "share of the L1 loss in the generator's loss; the rest is the adversarial loss", least=0, most=1)
    discriminator: float = setting(0.5, "weight of the discriminator's loss (Adam nearly cancels it)", least=0)


@dataclass
class CurriculumSettings:
    epochs: list[int] = setting(
        [10, 20, 30],
        "last epochs, counted from 0, with one, two, three, … contrasts missing; then any subset ([]: from the start)",
    )
    easier: bool = setting(False, "let up to two, three, … contrasts be missing instead of exactly that many")

    def __post_init__(self) -> None:
        if sorted(self.epochs) != list(self.epochs):
            raise SettingError(f"method.curriculum.epochs={list(self.epochs)} must ascend")


@dataclass
class MMGANSettings:
    """Defaults are those of the paper and its code."""

    name: str = setting("mmgan", "the method")
    generator: GeneratorSettings = setting(GeneratorSettings, "")
    discriminator: DiscriminatorSettings = setting(DiscriminatorSettings, "")
    weights: WeightSettings = setting(WeightSettings, "")
    curriculum: CurriculumSettings = setting(CurriculumSettings, "")


class MMGAN(Method):
    """See the module docstring."""

    Settings = MMGANSettings
    incomplete = True
    any_to_any = True
    subsets: Tensor  # (subsets, modalities) bool: every set of contrasts that can be given

    @classmethod
    def stride(cls, settings: MMGANSettings, size: tuple[int, int]) -> int:
        return stride_of(settings.generator.depth, size, 8, "method.generator.depth")

    def __init__(self, settings: MMGANSettings, variant: Variant, size: tuple[int, int], seed: int) -> None:
        super().__init__(settings, variant, size, seed)
        self.settings = settings
        count, g, d = len(self.modalities), settings.generator, settings.discriminator
        check_layers(d.layers, size)
        self.generator = UNet(count, count, g.width, depth_of(g.depth, size, 8), g.direct, dropout=g.dropout)
        self.discriminator = PatchGAN(count * (1 + d.sees_real), d.width, d.layers, outputs=count)
        for name, network in self.named_children():
            normal(network, key(seed, "weights", name) >> 1)
        subsets = torch.tensor(list(product([False, True], repeat=count))[1:-1])
        self.register_buffer("subsets", subsets, persistent=False)

    # -- what is optimised ---------------------------------------------------------------------------------------------

    def objectives(self) -> dict[str, Objective]:
        return {
            "generator": Objective(self.generator, self.generator_loss),
            "discriminator": Objective(self.discriminator, self.discriminator_loss),
        }

    def stages(self, train: TrainSettings) -> list[Stage]:
        return [Stage.main(train, "synthesis", ("generator", "discriminator"), self.train_both, self.compare)]

    def train_both(self, batch: Batch, step: Step) -> None:
        fewest, most = self.missing_in(batch.epoch)
        missing = torch.tensor([[fewest, most]]).to(batch.sources.device, non_blocking=True)
        batch = batch.having(missing=missing.expand(len(batch), -1))
        step.minimise("generator", batch)
        step.minimise("discriminator", batch)

    def missing_in(self, epoch: int) -> tuple[int, int]:
        """The smallest and the largest number of missing contrasts in an epoch."""
        every = len(self.modalities) - 1
        for phase, last in enumerate(self.settings.curriculum.epochs, 1):
            if epoch <= last:
                return (1 if self.settings.curriculum.easier else min(phase, every)), min(phase, every)
        return 1, every

    # -- the losses ----------------------------------------------------------------------------------------------------

    def generator_loss(self, batch: Batch) -> tuple[Tensor, Terms]:
        images, present = images_of(batch), present_of(batch)
        given = self.draw(batch)
        filled = self.fill(images, given, batch.brain, batch.seeds("dropout"))
        with frozen(self.discriminator):
            on_filled = self.discriminate(filled, images, present)
        terms = {
            "g_gan": over(present, (on_filled - 1).square()),
            "g_l1": over(present & ~given, (images - filled).abs()),
        }
        share = self.settings.weights.l1
        loss = (1 - share) * terms["g_gan"] + share * terms["g_l1"]
        return loss, {"g_loss": loss, **terms}

    def discriminator_loss(self, batch: Batch) -> tuple[Tensor, Terms]:
        images, present = images_of(batch), present_of(batch)
        given = self.draw(batch)
        with torch.no_grad():
            filled = self.fill(images, given, batch.brain, batch.seeds("dropout"))
        both = self.discriminate(torch.cat([images, filled]), torch.cat([images, images]), torch.cat([present, present]))
        on_real, on_filled = both.chunk(2)
        terms = {
            "d_real": over(present, (on_real - 1).square()),
            "d_fake": over(present, (on_filled - given.to(on_filled)[:, :, None, None]).square()),
        }
        loss = self.settings.weights.discriminator * (terms["d_real"] + terms["d_fake"])
        return loss, {"d_loss": loss, **terms}

    # -- the networks' inputs ------------------------------------------------------------------------------------------

    def draw(self, batch: Batch) -> Tensor:
        """(B, modalities) bool: which contrasts are given. A subset of those that the patient has, with as many missing as the curriculum
        wants; all such subsets are equally likely."""
        present = present_of(batch)[:, None]
        spare = (present.sum(2) - 1).clamp(min=0)  # (B, 1): at least one is given
        fewest, most = (torch.minimum(column, spare) for column in batch.more["missing"].chunk(2, dim=1))
        missing = (present & ~self.subsets).sum(2)  # (B, subsets)
        allowed = (present | ~self.subsets).all(2) & (missing >= fewest) & (missing <= most)
        return self.subsets[choose(allowed, batch.uniform("scenario"))]

    def fill(self, images: Tensor, given: Tensor, brain: Tensor, seeds: Tensor | None = None) -> Tensor:
        """(B, modalities, H, W): the contrasts that are given (B, modalities), and the others synthesised from them."""
        known = given[:, :, None, None]
        return images.where(known, confined(self.generator(images.where(known, BLANK), seeds), brain))

    def discriminate(self, filled: Tensor, images: Tensor, present: Tensor) -> Tensor:
        """(B, modalities, h, w): the discriminator's output. Contrasts that the patient lacks are blank for it."""
        seen = filled.where(present[:, :, None, None], BLANK)
        scores: Tensor = self.discriminator(torch.cat([seen, images], dim=1) if self.settings.discriminator.sees_real else seen)
        return scores

    # -- using ---------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def synthesise(self, sources: Tensor, brain: Tensor) -> Tensor:
        at = [self.modalities.index(name) for name in self.variant.inputs]
        images = sources.new_full((len(sources), len(self.modalities), *sources.shape[-2:]), BLANK)
        given = torch.zeros(images.shape[:2], dtype=torch.bool, device=sources.device)
        images[:, at], given[:, at] = sources, True
        return self.fill(images, given, brain)[:, [self.modalities.index(name) for name in self.variant.outputs]]


def over(chosen: Tensor, values: Tensor) -> Tensor:
    """The mean of (B, modalities, h, w) over pixels and each sample's chosen channels (B, modalities), then over the batch; a sample
    without chosen channels counts as 0."""
    channel = values.flatten(2).mean(2)
    return (channel.where(chosen, 0).sum(1) / chosen.sum(1).clamp(min=1)).mean()

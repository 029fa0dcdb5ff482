"""Unified GAN: "Multimodal MRI synthesis using unified generative adversarial networks" (Dai et al., Medical Physics 2020).

One 3-D generator turns a patch of any modality into any other; one-hot maps say which. One discriminator tells real patches from fakes and
classifies their modality. A patient's volume is assembled from its patches.

    per sample    x: a modality of the patient, drawn; y: another one, c its label; a the label of x; G(x, c); the cycle G(G(x, c), a)
    d_loss = delta (d_real + d_fake) + alpha d_cls + gp d_gp                               discriminator, then every n_critic-th update
    g_loss = mu g_fake + alpha g_cls + beta g_syn + gamma g_cyc                            generator
    d_real = -E[mean D(y)], d_fake = E[mean D(G)], g_fake = -E[mean D(G)], d_cls, g_cls = cross-entropy of c, of D on y and on G
    d_gp = E[(||grad sum D||_2 - 1)^2], g_syn = E[mean |y - G|], g_cyc = E[mean |x - cycle|] over voxels

The networks are not public. These are StarGAN's in 3-D, with StarGAN's Wasserstein critic, gradient penalty of weight 10, five critic updates per
generator update, and learning rate (Choi et al. 2018 and its code). Our reading of the paper:

- The paper's five weights, alpha 2, beta 5, gamma 10, delta 2, mu .1, balance four terms that it names: classification, synthetic   consistency,
  cycle consistency, adversarial. We take them in that order, and use the last two for the adversarial term, delta in the   discriminator's loss
  and mu in the generator's. In another reading alpha and delta, which are equal, would weight the classification of   real and of synthesised
  patches.
- The data is paired, so synthetic consistency is the L1 distance to the truth. For the same reason the discriminator's real patch is y, not   x as
  in StarGAN, whose data is unpaired: if any modality is turned into any other, x and y have the same distribution; if only one   direction is
  trained, only y is right.
- x and y are never the same modality (StarGAN may draw the label that the image already has).
- "The final estimation of overlapped regions was set to 48 x 48 x 48", with patches of 72: either the middle 48 voxels of each patch are   kept
  (`assembly: centre`), or patches overlap by 48 and are averaged (`average`). `configs/method/unified_gan.yaml` and   `unified_gan_average.yaml`.

The generator's output is confined to the brain of its input, so that the background enters no loss. A variant with one input trains on all its
modalities, and the model can then be used between any two of them (`directions=all`); the paper's twelve single pairs are
`configs/sweep/pairs.yaml`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from distsynth.data.batch import Batch
from distsynth.data.patches import assembled
from distsynth.data.randomness import key
from distsynth.methods.contract import Made, Method, Objective, Stage, Step, Terms, confined, frozen
from distsynth.methods.losses import critic_terms
from distsynth.modalities import Variant
from distsynth.networks.critic import Critic, stargan_depth
from distsynth.networks.initialise import uniform
from distsynth.networks.stargan import Generator
from distsynth.settings import TrainSettings
from preprocess.shared.errors import SettingError
from preprocess.shared.settings import setting


@dataclass
class GeneratorSettings:
    width: int = setting(64, "channels at the full resolution", least=1)
    downs: int = setting(2, "stride-2 convolutions before the residual blocks, and as many transposed ones after them", least=0)
    blocks: int = setting(6, "residual blocks", least=0)
    kernel: int = setting(7, "size of the first and the last convolution, odd", least=1)
    direct: bool = setting(
        False, "skip connection from the input to the last features (not in StarGAN; learns absolute intensities sooner)"
    )


@dataclass
class CriticSettings:
    width: int = setting(64, "channels at the first level", least=1)
    depth: int = setting(0, "levels (0: as many as leave at least 2 voxels, at most StarGAN's 6)", least=0)


@dataclass
class WeightSettings:
    alpha: float = setting(2.0, "weight of the classification of modalities, in both losses", least=0)
    beta: float = setting(5.0, "weight of synthetic consistency, the L1 to the true patch", least=0)
    gamma: float = setting(
        10.0, "weight of cycle consistency, the L1 between a patch and its translation there and back", least=0
    )
    delta: float = setting(2.0, "weight of the adversarial term in the discriminator's loss", least=0)
    mu: float = setting(0.1, "weight of the adversarial term in the generator's loss", least=0)
    gp: float = setting(10.0, "weight of the gradient penalty (StarGAN's)", least=0)


@dataclass
class UnifiedGANSettings:
    """Defaults are the paper's, and StarGAN's where the paper gives none."""

    name: str = setting("unified_gan", "the method")
    patch: int = setting(72, "voxels along each side of a patch", least=1)
    patches: int = setting(8, "patches of each training subject in an epoch", least=1)
    assembly: Literal["centre", "average"] = setting(
        "centre", "a volume is assembled from the middle of each patch, or by averaging patches where they overlap"
    )
    core: int = setting(
        48, "centre: voxels kept in the middle of a patch's side; average: voxels by which neighbouring patches overlap", least=1
    )
    directions: Literal["all", "given"] = setting(
        "all", "train every modality into every other, or only the variant's input into its outputs"
    )
    n_critic: int = setting(5, "discriminator updates per generator update (StarGAN: 5)", least=1)
    generator: GeneratorSettings = setting(GeneratorSettings, "")
    critic: CriticSettings = setting(CriticSettings, "")
    weights: WeightSettings = setting(WeightSettings, "")

    def __post_init__(self) -> None:
        g = self.generator
        if g.kernel % 2 == 0:
            raise SettingError(f"method.generator.kernel={g.kernel} must be odd: {g.kernel - 1} or {g.kernel + 1}")
        step = 2**g.downs
        if self.patch < 2 * step or self.patch % step:
            near = max(2, self.patch // step) * step
            raise SettingError(
                f"method.patch={self.patch} must be a multiple of {step}, at least {2 * step}, for generator.downs={g.downs}: "
                f"{near} or {near + step}"
            )
        most = self.patch - (self.assembly == "average")
        if self.core > most:
            raise SettingError(
                f"method.core={self.core} must be at most {most} for patches of {self.patch} and assembly={self.assembly}"
            )


class UnifiedGAN(Method):
    """See the module docstring."""

    Settings = UnifiedGANSettings
    kinds = ("siso", "simo")
    any_to_any = True

    @classmethod
    def stride(cls, settings: UnifiedGANSettings, size: tuple[int, int]) -> int:
        return 1  # patches need no padded slices

    def __init__(self, settings: UnifiedGANSettings, variant: Variant, size: tuple[int, int], seed: int) -> None:
        super().__init__(settings, variant, size, seed)
        self.settings, self.weights = settings, settings.weights
        self.patch, self.patches, self.cycle = settings.patch, settings.patches, settings.n_critic
        self.classes = len(self.modalities)
        g = settings.generator
        self.generator = Generator(1 + self.classes, 1, g.width, g.downs, g.blocks, g.kernel, g.direct, 3, self.classes)
        patch = (settings.patch,) * 3
        depth = stargan_depth(settings.critic.depth, patch, "method.critic.depth")
        self.critic = Critic(1, self.classes, settings.critic.width, depth, patch)
        for name, network in self.named_children():
            uniform(network, key(seed, "weights", name) >> 1)

    # -- what is optimised ---------------------------------------------------------------------------------------------

    def objectives(self) -> dict[str, Objective]:
        return {
            "critic": Objective(self.critic, self.critic_loss, penalised=True),
            "generator": Objective(self.generator, self.generator_loss, make=self.translate),
        }

    def stages(self, train: TrainSettings) -> list[Stage]:
        return [Stage.main(train, "joint", ("critic", "generator"), self.train_jointly, self.compare)]

    def train_jointly(self, batch: Batch, step: Step) -> None:
        if (batch.update + 1) % self.settings.n_critic:
            step.minimise("critic", batch)
        else:  # the generator does not change between the two steps: both use the same images
            step.minimise("critic", batch.having(**step.make("generator", batch)))
            step.minimise("generator", batch)

    # -- the losses ----------------------------------------------------------------------------------------------------

    def translate(self, batch: Batch) -> Made:
        """A drawn modality of each sample translated into another one, and back."""
        (x, a), (_, c) = self.draw(batch)
        fake = self.generate(x, c, batch.brain)
        return {"fake": fake, "cycle": self.generate(fake, a, batch.brain)}

    def critic_loss(self, batch: Batch) -> tuple[Tensor, Terms]:
        (x, _), (y, c) = self.draw(batch)
        with torch.no_grad():
            fake = batch.more["fake"] if "fake" in batch.more else self.generate(x, c, batch.brain)
        parts = critic_terms(self.critic, y, fake, batch.uniform("penalty"))
        terms = {
            "d_real": -parts.real.mean() / self.critic.places,
            "d_fake": parts.fake.mean() / self.critic.places,
            "d_cls": cross_entropy(parts.classes, c),
            "d_gp": parts.penalty,
        }
        w = self.weights
        loss = w.delta * (terms["d_real"] + terms["d_fake"]) + w.alpha * terms["d_cls"] + w.gp * terms["d_gp"]
        return loss, {"d_loss": loss, **terms}

    def generator_loss(self, batch: Batch) -> tuple[Tensor, Terms]:
        (x, _), (y, c) = self.draw(batch)
        fake, cycle = batch.more["fake"], batch.more["cycle"]
        with frozen(self.critic):
            on_fake, classes = self.critic(fake)
        terms = {
            "g_fake": -on_fake.mean() / self.critic.places,
            "g_cls": cross_entropy(classes, c),
            "g_syn": (y - fake).abs().mean(),
            "g_cyc": (x - cycle).abs().mean(),
        }
        w = self.weights
        loss = w.mu * terms["g_fake"] + w.alpha * terms["g_cls"] + w.beta * terms["g_syn"] + w.gamma * terms["g_cyc"]
        return loss, {"g_loss": loss, **terms}

    # -- the networks' inputs ------------------------------------------------------------------------------------------

    def draw(self, batch: Batch) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Two different modalities of each sample, drawn at random: the one to start from and the one to make. For each, its image (B, 1,
        D, H, W) and its index among the variant's modalities (B,)."""
        images = torch.cat([batch.sources, batch.targets], dim=1)
        given = self.settings.directions == "given"
        first = (batch.uniform("source") * (1 if given else self.classes)).long()
        other = (first + 1 + (batch.uniform("target") * (self.classes - 1)).long()) % self.classes
        every = torch.arange(len(batch), device=images.device)
        return (images[every, first].unsqueeze(1), first), (images[every, other].unsqueeze(1), other)

    def generate(self, image: Tensor, modality: Tensor, brain: Tensor) -> Tensor:
        """(B, 1, D, H, W), (B,), (B, 1, D, H, W) -> (B, 1, D, H, W) in [-1, 1], -1 outside the brain."""
        label = one_hot(modality, self.classes).to(image)[:, :, None, None, None].expand(-1, -1, *image.shape[2:])
        return confined(self.generator(torch.cat([image, label], dim=1)), brain)

    # -- using -----------------------------------------------------------------------------------------------------------

    @classmethod
    def makes_any(cls, settings: UnifiedGANSettings) -> bool:
        return settings.directions == "all"

    def serve(self, variant: Variant) -> None:
        if not self.makes_any(self.settings):
            raise SettingError(
                f"the run was trained only for variant {self.variant.name} (method.directions=given): train one with directions=all, which makes any "
                "contrast from any other"
            )
        super().serve(variant)

    @torch.no_grad()
    def synthesise(self, sources: Tensor, brain: Tensor) -> Tensor:
        """For patches: (B, 1, D, H, W) and (B, 1, D, H, W) -> (B, outputs, D, H, W)."""
        wanted = torch.tensor([self.modalities.index(name) for name in self.variant.outputs], device=sources.device)
        return torch.cat([self.generate(sources, index.expand(len(sources)), brain) for index in wanted], dim=1)

    def synthesise_volume(self, sources: Tensor, brain: Tensor) -> Tensor:
        patch, core = self.settings.patch, self.settings.core
        keep, stride = (core, core) if self.settings.assembly == "centre" else (patch, patch - core)
        stacks = [sources.transpose(0, 1), brain.transpose(0, 1)]
        return assembled(self.synthesise, stacks, (-1, 0), patch, keep, stride).transpose(0, 1)

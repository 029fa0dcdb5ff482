"""DiscoGAN: "Learning to discover cross-domain relations with generative adversarial networks" (Kim et al., ICML 2017).

Two generators, source -> target and back, and a discriminator for each kind of image, trained on source and target slices of different patients.
The paper's equations 3 to 10 have no feature matching (FM) and no weights. This follows the published code, which has both; for either direction

    g = (1 - r) [.1 BCE(D(fake), 1) + .9 FM] + r MSE(reconstruction)      r = .01 for the first 10,000 updates, then .5
    FM = sum over the levels of D but the first of mean (E[D_level(real)] - E[D_level(fake)])^2, E over the batch (Salimans et al. 2016)
    d = .5 [BCE(D(real), 1) + BCE(D(fake), 0)]

Every third update trains the discriminators, the others the generators. Intensities in this file are in [0, 1], as in the published code, because
its loss weights assume that range.

FM needs feature means over the global batch, so it is no mean over samples. An update therefore computes these means first, over all ranks. The
loss then takes, per sample,  |gap|^2 - 2 gap (D_level(fake) - its own value, detached)  with gap = E[real] - E[fake], which has FM's value and
gradient.

Where this differs from the published code, on purpose: a generator's output is confined to the brain of its input. InstanceNorm is the default, as
its result is the same on any number of ranks (`norm=batch` as published; the published networks also stay in training mode at test time, these do
not). The number of levels follows the image size (published: 4, for 64 x 64). Presets: `configs/method/discogan.yaml` (published) and
`discogan_report.yaml` (the source report).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from distsynth.data.batch import Batch
from distsynth.data.randomness import key
from distsynth.methods.contract import Made, Method, Objective, Stage, Step, Terms, frozen
from distsynth.modalities import Variant
from distsynth.networks.disco import DiscoDiscriminator, DiscoGenerator
from distsynth.networks.initialise import uniform
from distsynth.ranks.world import gathered
from distsynth.settings import TrainSettings
from preprocess.shared.errors import SettingError
from preprocess.shared.settings import setting


@dataclass
class GeneratorSettings:
    width: int = setting(64, "channels at the first level", least=1)


@dataclass
class DiscriminatorSettings:
    width: int = setting(64, "channels at the first level", least=1)


@dataclass
class WeightSettings:
    gan: float = setting(0.1, "weight of the adversarial loss", least=0)
    features: float = setting(0.9, "weight of feature matching", least=0)
    first: float = setting(
        0.01, "share r of the reconstruction in the first updates, 0 to 1; the other two losses share the rest", least=0, most=1
    )
    later: float = setting(0.5, "share r after the first updates", least=0, most=1)
    switch: int = setting(10_000, "updates until r changes", least=0)
    discriminator: float = setting(0.5, "weight of the discriminators' losses (Adam nearly cancels it)", least=0)


@dataclass
class DiscoGANSettings:
    """Defaults are those of the published code, except for the norm."""

    name: str = setting("discogan", "the method")
    generator: GeneratorSettings = setting(GeneratorSettings, "")
    discriminator: DiscriminatorSettings = setting(DiscriminatorSettings, "")
    depth: int = setting(0, "levels of all networks (0: as many as leave 4 pixels and pad the image by at most a tenth)", least=0)
    norm: Literal["instance", "batch"] = setting("instance", "instance: the same on any number of ranks; batch: as published")
    every: int = setting(3, "of so many updates, the first trains the discriminators and the others the generators", least=2)
    weights: WeightSettings = setting(WeightSettings, "")

    def __post_init__(self) -> None:
        if self.depth == 1:
            raise SettingError("method.depth=1 leaves no level for feature matching: set at least 2, or 0")


class DiscoGAN(Method):
    """See the module docstring. `target` names the generator and the discriminator of target images, `source` those of source images."""

    Settings = DiscoGANSettings
    kinds = ("siso",)
    paired = False

    @classmethod
    def stride(cls, settings: DiscoGANSettings, size: tuple[int, int]) -> int:
        fitting = [d for d in range(2, 8) if min(size) >= 4 << d and all(-(-n >> d) << d <= 1.1 * n for n in size)]
        return 1 << (settings.depth or max(fitting, default=2))

    def __init__(self, settings: DiscoGANSettings, variant: Variant, size: tuple[int, int], seed: int) -> None:
        super().__init__(settings, variant, size, seed)
        self.settings, self.weights, self.cycle = settings, settings.weights, settings.every
        fitting = [d for d in range(2, 8) if all(n >= 4 << d and n % (1 << d) == 0 for n in size)]
        depth = settings.depth or max(fitting, default=2)
        if any(n % (1 << depth) or n < 2 << depth for n in size):
            raise SettingError(f"method.depth={depth} needs slices of at least {2 << depth} pixels, and multiples of {1 << depth}; "
                               f"these are {size[0]}x{size[1]}: set fewer levels")  # fmt: skip
        g, d, norm = settings.generator, settings.discriminator, settings.norm
        self.generators = nn.ModuleDict({side: DiscoGenerator(1, 1, g.width, depth, norm) for side in ("target", "source")})
        self.discriminators = nn.ModuleDict(
            {side: DiscoDiscriminator(1, d.width, depth, size, norm) for side in ("target", "source")}
        )
        for name, network in self.named_children():
            uniform(network, key(seed, "weights", name) >> 1)

    # -- what is optimised ---------------------------------------------------------------------------------------------

    def objectives(self) -> dict[str, Objective]:
        return {
            "discriminators": Objective(self.discriminators, self.discriminator_loss),
            "generators": Objective(self.generators, self.generator_loss, self.translate),
        }

    def stages(self, train: TrainSettings) -> list[Stage]:
        return [Stage.main(train, "unpaired", ("discriminators", "generators"), self.update, self.compare)]

    def update(self, batch: Batch, step: Step) -> None:
        if batch.update % self.settings.every == 0:
            step.minimise("discriminators", batch)
            return
        gaps = self.gaps(batch.having(**step.make("generators", batch)))
        r = self.weights.first if batch.update < self.weights.switch else self.weights.later
        step.minimise("generators", batch.having(**over_all_ranks(gaps), r=torch.full_like(batch.sources[:, 0, 0, 0], r)))

    # -- the losses ----------------------------------------------------------------------------------------------------

    def translate(self, batch: Batch) -> Made:
        """All images that the generators' loss needs, (B, 1, H, W) each, in [0, 1]."""
        brain, target_brain = batch.brain, batch.more["target_brain"]
        made = {
            "fake_target": self.generators["target"](unit(batch.sources)) * brain,
            "fake_source": self.generators["source"](unit(batch.targets)) * target_brain,
        }
        made["again_source"] = self.generators["source"](made["fake_target"]) * brain
        made["again_target"] = self.generators["target"](made["fake_source"]) * target_brain
        return made

    def generator_loss(self, batch: Batch) -> tuple[Tensor, Terms]:
        """For a part of the global batch; `update` has put the gaps between the feature means into `batch.more`."""
        made, r, w = batch.more, batch.more["r"], self.weights
        terms: Terms = {}
        total = torch.zeros_like(r)
        for side, real in (("target", batch.targets), ("source", batch.sources)):
            with frozen(self.discriminators):
                logits, features = self.discriminators[side](made[f"fake_{side}"])
            matching = [self.matching(made[f"gap_{side}_{level}"], feature) for level, feature in enumerate(features)]
            gan = binary_cross_entropy_with_logits(logits, torch.ones_like(logits), reduction="none")
            each = {
                "": gan,
                "features_": torch.stack(matching).sum(0),
                "again_": (made[f"again_{side}"] - unit(real)).square().mean((1, 2, 3)),
            }
            total = total + (1 - r) * (w.gan * each[""] + w.features * each["features_"]) + r * each["again_"]
            terms |= {f"g_{name}{side}": value.mean() for name, value in each.items()}
        loss = total.mean()
        return loss, {"g_loss": loss, **terms}

    @staticmethod
    def matching(gap: Tensor, features: Tensor) -> Tensor:
        """(B,): the mean of gap^2 over the features; its gradient is that of E[features of fakes] over the global batch."""
        return (gap.square() - 2 * gap * (features - features.detach())).flatten(1).mean(1)

    @torch.no_grad()
    def gaps(self, batch: Batch) -> dict[str, Tensor]:
        """For each kind of image and level of its discriminator, the mean features of the real images minus those of the fakes, repeated
        for every sample."""
        gaps = {}
        for side, real in (("target", batch.targets), ("source", batch.sources)):
            (_, on_real), (_, on_fake) = (self.discriminators[side](x) for x in (unit(real), batch.more[f"fake_{side}"]))
            for level, (a, b) in enumerate(zip(on_real, on_fake, strict=True)):
                gaps[f"gap_{side}_{level}"] = (a.mean(0) - b.mean(0)).expand_as(a)
        return gaps

    def discriminator_loss(self, batch: Batch) -> tuple[Tensor, Terms]:
        with torch.no_grad():
            fakes = {
                "target": self.generators["target"](unit(batch.sources)) * batch.brain,
                "source": self.generators["source"](unit(batch.targets)) * batch.more["target_brain"],
            }
        terms = {}
        for side, real in (("target", batch.targets), ("source", batch.sources)):
            (on_real, _), (on_fake, _) = (self.discriminators[side](x) for x in (unit(real), fakes[side]))
            terms[f"d_{side}"] = self.weights.discriminator * (
                binary_cross_entropy_with_logits(on_real, torch.ones_like(on_real))
                + binary_cross_entropy_with_logits(on_fake, torch.zeros_like(on_fake))
            )
        loss = terms["d_target"] + terms["d_source"]
        return loss, {"d_loss": loss, **terms}

    @torch.no_grad()
    def synthesise(self, sources: Tensor, brain: Tensor) -> Tensor:
        made: Tensor = self.generators["target"](unit(sources)) * brain
        return 2 * made - 1


def over_all_ranks(gaps: dict[str, Tensor]) -> dict[str, Tensor]:
    """The gaps of all ranks' shares of the batch, averaged."""
    mine = [gap[0] for gap in gaps.values()]
    mean = gathered(torch.cat([gap.flatten() for gap in mine])[None])[0].mean(0)
    parts = torch.split(mean, [gap.numel() for gap in mine])
    return {name: part.view_as(gap[0]).expand_as(gap) for (name, gap), part in zip(gaps.items(), parts, strict=True)}


def unit(image: Tensor) -> Tensor:
    """From [-1, 1] to [0, 1]."""
    return (image + 1) / 2

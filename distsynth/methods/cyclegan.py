"""CycleGAN: "Unpaired image-to-image translation using cycle-consistent adversarial networks" (Zhu et al., ICCV 2017).

Two generators, source -> target (G) and target -> source (F), and a discriminator for each kind of image, trained on source and target
slices of different patients. Equation numbers are the paper's; LS is the least-squares loss.

    g_loss = LS(D_T(G(s)), 1) + LS(D_S(F(t)), 1)                                                       (1), least squares (section 4)
             + cycle_source |F(G(s)) - s|_1 + cycle_target |G(F(t)) - t|_1                             (2)
             + identity (cycle_target |G(t) - t|_1 + cycle_source |F(s) - s|_1)                        section 5.2, weights as in the code
    d_loss = discriminator [LS(D_T(t), 1) + LS(D_T(pooled G(s)), 0) + LS(D_S(s), 1) + LS(D_S(pooled F(t)), 0)]

The generators are updated first, then the discriminators. The discriminators see the fakes from before the generators' step, each possibly
swapped for one of the last 50 or so (section 4 and the published code, which this follows wherever the paper is silent).

Where this differs from the published code, on purpose: a generator's output is confined to the brain of its input, so that the background
enters no loss. A generator's passes on s and t run as one batch, and so do a discriminator's on real and fake (with InstanceNorm the
numbers are the same). There are no random crops of enlarged images. The pool is filled from the global batch, sample by sample, on any
number of ranks. H and W need not be 256.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distsynth.data.batch import Batch
from distsynth.data.randomness import key
from distsynth.methods.contract import Made, Method, Objective, Stage, Step, Terms, confined, frozen
from distsynth.methods.pool import Pool
from distsynth.modalities import Variant
from distsynth.networks.initialise import normal
from distsynth.networks.patchgan import PatchGAN, check_layers
from distsynth.networks.resnet import ResNet
from distsynth.settings import TrainSettings
from preprocess.shared.settings import setting


@dataclass
class GeneratorSettings:
    width: int = setting(64, "channels at the full resolution", least=1)
    blocks: int = setting(0, "residual blocks (0: as published, 6 for slices of up to 128 pixels and 9 for larger ones)", least=0)


@dataclass
class DiscriminatorSettings:
    width: int = setting(64, "channels at the first layer", least=1)
    layers: int = setting(3, "strided layers (3: patches of 70x70 pixels)", least=1)


@dataclass
class WeightSettings:
    cycle_source: float = setting(10.0, "weight of the source's cycle consistency, source -> target -> source", least=0)
    cycle_target: float = setting(10.0, "weight of the target's cycle consistency, target -> source -> target", least=0)
    identity: float = setting(0.5, "weight of the identity losses, as a share of the cycle weights (0: none)", least=0)
    discriminator: float = setting(0.5, "weight of the discriminators' losses (Adam nearly cancels it)", least=0)


@dataclass
class CycleGANSettings:
    """Defaults are those of the published code."""

    name: str = setting("cyclegan", "the method")
    generator: GeneratorSettings = setting(GeneratorSettings, "")
    discriminator: DiscriminatorSettings = setting(DiscriminatorSettings, "")
    pool: int = setting(50, "past fakes of each kind that the discriminators may see (0: only new ones)", least=0)
    weights: WeightSettings = setting(WeightSettings, "")


class CycleGAN(Method):
    """See the module docstring. `target` names the generator and the discriminator of target images, `source` those of source images."""

    Settings = CycleGANSettings
    kinds = ("siso",)
    paired = False

    @classmethod
    def stride(cls, settings: CycleGANSettings, size: tuple[int, int]) -> int:
        return 4

    def __init__(self, settings: CycleGANSettings, variant: Variant, size: tuple[int, int], seed: int) -> None:
        super().__init__(settings, variant, size, seed)
        self.settings, self.weights = settings, settings.weights
        g, d = settings.generator, settings.discriminator
        check_layers(d.layers, size)
        blocks = g.blocks or (6 if max(size) <= 128 else 9)
        self.generators = nn.ModuleDict({side: ResNet(1, 1, g.width, blocks) for side in ("target", "source")})
        self.discriminators = nn.ModuleDict({side: PatchGAN(1, d.width, d.layers) for side in ("target", "source")})
        for name, network in self.named_children():
            normal(network, key(seed, "weights", name) >> 1)
        self.target_pool, self.source_pool = Pool(settings.pool), Pool(settings.pool)

    # -- what is optimised ---------------------------------------------------------------------------------------------

    def objectives(self) -> dict[str, Objective]:
        return {
            "generators": Objective(self.generators, self.generator_loss, self.translate),
            "discriminators": Objective(self.discriminators, self.discriminator_loss),
        }

    def stages(self, train: TrainSettings) -> list[Stage]:
        return [Stage.main(train, "unpaired", ("generators", "discriminators"), self.update, self.compare)]

    def update(self, batch: Batch, step: Step) -> None:
        made = step.minimise("generators", batch)
        shown = {
            f"shown_{side}": pool.exchange(made[f"fake_{side}"], batch.uniform(f"pool/{side}"))
            for side, pool in (("target", self.target_pool), ("source", self.source_pool))
        }
        step.minimise("discriminators", batch.having(**shown))

    # -- the losses ----------------------------------------------------------------------------------------------------

    def translate(self, batch: Batch) -> Made:
        """All images that the generators' loss needs, (B, 1, H, W) each."""
        source, target = (batch.sources, batch.brain), (batch.targets, batch.more["target_brain"])
        made = {}
        if self.weights.identity:
            made["fake_target"], made["same_target"] = self.generate("target", source, target)
            made["fake_source"], made["same_source"] = self.generate("source", target, source)
        else:
            (made["fake_target"],), (made["fake_source"],) = self.generate("target", source), self.generate("source", target)
        (made["cycle_source"],) = self.generate("source", (made["fake_target"], batch.brain))
        (made["cycle_target"],) = self.generate("target", (made["fake_source"], batch.more["target_brain"]))
        return made

    def generator_loss(self, batch: Batch) -> tuple[Tensor, Terms]:
        made, real, w = batch.more, {"source": batch.sources, "target": batch.targets}, self.weights
        terms = {}
        for side, weight in (("target", w.cycle_target), ("source", w.cycle_source)):
            with frozen(self.discriminators):
                terms[f"g_{side}"] = (self.discriminators[side](made[f"fake_{side}"]) - 1).square().mean()
            terms[f"g_cycle_{side}"] = (made[f"cycle_{side}"] - real[side]).abs().mean()
            terms[f"g_loss_{side}"] = terms[f"g_{side}"] + weight * terms[f"g_cycle_{side}"]
            if w.identity:
                terms[f"g_same_{side}"] = (made[f"same_{side}"] - real[side]).abs().mean()
                terms[f"g_loss_{side}"] = terms[f"g_loss_{side}"] + weight * w.identity * terms[f"g_same_{side}"]
        loss = terms.pop("g_loss_target") + terms.pop("g_loss_source")
        return loss, {"g_loss": loss, **terms}

    def discriminator_loss(self, batch: Batch) -> tuple[Tensor, Terms]:
        terms = {}
        for side, real in (("target", batch.targets), ("source", batch.sources)):
            on_real, on_fake = self.discriminators[side](torch.cat([real, batch.more[f"shown_{side}"]])).chunk(2)
            terms[f"d_{side}"] = self.weights.discriminator * ((on_real - 1).square().mean() + on_fake.square().mean())
        loss = terms["d_target"] + terms["d_source"]
        return loss, {"d_loss": loss, **terms}

    # -- the networks on images ----------------------------------------------------------------------------------------

    def generate(self, side: str, *given: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Translate pairs of an image (B, 1, H, W) in [-1, 1] and its brain into one kind of image, as one batch; -1 outside the brain."""
        image, brain = (torch.cat(parts) for parts in zip(*given, strict=True))
        return confined(self.generators[side](image), brain).chunk(len(given))

    @torch.no_grad()
    def synthesise(self, sources: Tensor, brain: Tensor) -> Tensor:
        return confined(self.generators["target"](sources), brain)

"""UNIT: "Unsupervised image-to-image translation networks" (Liu, Breuel and Kautz, NIPS 2017).

Two variational autoencoders, one for source and one for target images, share their latent space: an image is translated by encoding it with
one and decoding it with the other. A discriminator for each kind of image tells real images from translations. Source and target slices are
of different patients. Letters are the paper's: x an image, E(x) the mean of its code, whose variance is 1, z = E(x) + noise, G(z) the
decoded image. For either direction

    g_loss = gan [D(G_other(z)) real]                                        lambda_0 of the paper's equations 3 to 7
             + recon |G(z) - x|_1 + kl mean E(x)^2                           lambda_2, lambda_1; the code's recon_x, recon_kl
             + cycle |G(z') - x|_1 + cycle_kl mean E_other(G_other(z))^2     lambda_4, lambda_3; z' the translation's code; recon_x_cyc, recon_kl_cyc
    d_loss = gan [D(x) real, D(G(z_other)) fake]                             discriminators first

This follows the published code, which differs from the paper in several points: least squares instead of logarithms (`gan`), three scales,
no shared blocks (`generator.shared`; paper: 1), other weights, a mean over the code where the divergence is a sum, and the first code's
divergence counted once (the paper's equation 7 counts it again with lambda_3). `configs/method/unit.yaml` has the code's settings,
`unit_paper.yaml` the paper's weights as the source report gives them, its shared blocks and its logarithms. The perceptual loss of some of
the code's own presets needs a network trained on photographs and is left out.

Where this differs from both, on purpose: a decoder's output is confined to the brain of the encoded image. There are no random crops. The
discriminators see the fakes of the generators' step of the same update, made once (the code draws new noise). Noise is keyed by sample. On
small slices the discriminators have fewer layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from distsynth.data.batch import Batch
from distsynth.data.randomness import key
from distsynth.methods.contract import Made, Method, Objective, Stage, Step, Terms, confined, frozen
from distsynth.modalities import Variant
from distsynth.networks import keyed
from distsynth.networks.initialise import kaiming, normal
from distsynth.networks.multiscale import MultiScale, most_layers
from distsynth.networks.vae import Autoencoders
from distsynth.settings import TrainSettings
from preprocess.shared.errors import SettingError
from preprocess.shared.settings import setting


@dataclass
class GeneratorSettings:
    width: int = setting(64, "channels at the full resolution", least=1)
    blocks: int = setting(4, "residual blocks in each encoder and in each decoder", least=1)
    shared: int = setting(
        0, "how many of those are shared: the encoders' last and the decoders' first (code: 0; paper: 1)", least=0
    )


@dataclass
class DiscriminatorSettings:
    width: int = setting(64, "channels at the first layer", least=1)
    layers: int = setting(0, "strided layers (0: the published 4, or as many as the smallest scale of the slices takes)", least=0)
    scales: int = setting(3, "scales that are discriminated: the image and its successively halved copies", least=1)


@dataclass
class WeightSettings:
    gan: float = setting(1.0, "weight of the adversarial losses, including the discriminators'", least=0)
    recon: float = setting(10.0, "weight of the reconstruction within a kind of image", least=0)
    kl: float = setting(0.01, "weight of the code's divergence from N(0, 1), mean E(x)^2", least=0)
    cycle: float = setting(10.0, "weight of cycle consistency, the reconstruction via the other kind", least=0)
    cycle_kl: float = setting(0.01, "weight of the divergence of the translation's code", least=0)


@dataclass
class UNITSettings:
    """Defaults are those of the published code."""

    name: str = setting("unit", "the method")
    generator: GeneratorSettings = setting(GeneratorSettings, "")
    discriminator: DiscriminatorSettings = setting(DiscriminatorSettings, "")
    gan: Literal["lsgan", "nsgan"] = setting("lsgan", "adversarial loss: lsgan, least squares; nsgan, logarithms, non-saturating")
    weights: WeightSettings = setting(WeightSettings, "")

    def __post_init__(self) -> None:
        g = self.generator
        if g.shared > g.blocks:
            raise SettingError(f"method.generator.shared={g.shared} is more than method.generator.blocks={g.blocks}")


class UNIT(Method):
    """See the module docstring."""

    Settings = UNITSettings
    kinds = ("siso",)
    paired = False

    @classmethod
    def stride(cls, settings: UNITSettings, size: tuple[int, int]) -> int:
        return 4 if min(size) > 4 else 8  # a reflection needs two pixels on each side

    def __init__(self, settings: UNITSettings, variant: Variant, size: tuple[int, int], seed: int) -> None:
        super().__init__(settings, variant, size, seed)
        self.settings, self.weights = settings, settings.weights
        g, d = settings.generator, settings.discriminator
        most = most_layers(size, d.scales)
        if d.layers > most or not most:
            raise SettingError(
                f"method.discriminator.layers={d.layers} and method.discriminator.scales={d.scales} are too many for slices of "
                f"{size[0]}x{size[1]}: at most {most} layers at {d.scales} scales, {most_layers(size, 1)} at 1"
            )
        layers = d.layers or min(4, most)
        self.generators = Autoencoders(g.width, g.blocks, g.shared)
        self.discriminators = nn.ModuleDict({side: MultiScale(1, d.width, layers, d.scales) for side in ("source", "target")})
        kaiming(self.generators, key(seed, "weights", "generators") >> 1)
        normal(self.discriminators, key(seed, "weights", "discriminators") >> 1)

    # -- what is optimised ---------------------------------------------------------------------------------------------

    def objectives(self) -> dict[str, Objective]:
        return {
            "discriminators": Objective(self.discriminators, self.discriminator_loss),
            "generators": Objective(self.generators, self.generator_loss, self.translate),
        }

    def stages(self, train: TrainSettings) -> list[Stage]:
        return [Stage.main(train, "unpaired", ("discriminators", "generators"), self.update, self.compare)]

    def update(self, batch: Batch, step: Step) -> None:
        step.minimise("discriminators", batch.having(**step.make("generators", batch)))
        step.minimise("generators", batch)

    # -- the losses ----------------------------------------------------------------------------------------------------

    def translate(self, batch: Batch) -> Made:
        """All outputs of the generators that their loss needs: images (B, 1, H, W) and means of codes (B, C, h, w)."""
        brains = {"source": batch.brain, "target": batch.more["target_brain"]}
        means, made = self.encoded(batch), {}
        codes = {side: self.noisy(mean, batch, f"code/{side}") for side, mean in means.items()}
        for side, other in (("source", "target"), ("target", "source")):
            pairs = [(codes[side], brains[side]), (codes[other], brains[other])]
            made[f"recon_{side}"], made[f"fake_{side}"] = self.decode(side, *pairs)
        for side, other in (("source", "target"), ("target", "source")):
            again = self.generators.encode(other, made[f"fake_{other}"])
            (made[f"cycle_{side}"],) = self.decode(side, (self.noisy(again, batch, f"again/{side}"), brains[side]))
            made[f"mean_{side}"], made[f"again_{side}"] = means[side], again
        return made

    def generator_loss(self, batch: Batch) -> tuple[Tensor, Terms]:
        made, w = batch.more, self.weights
        terms: Terms = {}
        total = torch.zeros_like(batch.sources[0, 0, 0, 0])
        for side, real in (("source", batch.sources), ("target", batch.targets)):
            with frozen(self.discriminators):
                logits = self.discriminators[side](made[f"fake_{side}"])
            each = {
                "": torch.stack([self.real(scale) for scale in logits]).sum(),
                "recon_": (made[f"recon_{side}"] - real).abs().mean(),
                "kl_": made[f"mean_{side}"].square().mean(),
                "cycle_": (made[f"cycle_{side}"] - real).abs().mean(),
                "cycle_kl_": made[f"again_{side}"].square().mean(),
            }
            weights = (w.gan, w.recon, w.kl, w.cycle, w.cycle_kl)
            total = total + sum(weight * value for weight, value in zip(weights, each.values(), strict=True))
            terms |= {f"g_{name}{side}": value for name, value in each.items()}
        return total, {"g_loss": total, **terms}

    def discriminator_loss(self, batch: Batch) -> tuple[Tensor, Terms]:
        terms = {}
        for side, real in (("source", batch.sources), ("target", batch.targets)):
            both = [scale.chunk(2) for scale in self.discriminators[side](torch.cat([real, batch.more[f"fake_{side}"]]))]
            terms[f"d_{side}"] = torch.stack([self.real(on_real) + self.fake(on_fake) for on_real, on_fake in both]).sum()
        loss = self.weights.gan * (terms["d_source"] + terms["d_target"])
        return loss, {"d_loss": loss, **terms}

    def real(self, logits: Tensor) -> Tensor:
        """The loss of logits that should say real: (x - 1)^2 or -log sigmoid(x)."""
        return (logits - 1).square().mean() if self.settings.gan == "lsgan" else softplus(-logits).mean()

    def fake(self, logits: Tensor) -> Tensor:
        """The loss of logits that should say fake: x^2 or -log(1 - sigmoid(x))."""
        return logits.square().mean() if self.settings.gan == "lsgan" else softplus(logits).mean()

    # -- the networks on images ----------------------------------------------------------------------------------------

    def encoded(self, batch: Batch) -> dict[str, Tensor]:
        """The means of the codes of both kinds of image."""
        return {side: self.generators.encode(side, x) for side, x in (("source", batch.sources), ("target", batch.targets))}

    @staticmethod
    def noisy(mean: Tensor, batch: Batch, stream: str) -> Tensor:
        """A code drawn around its mean with variance 1."""
        return mean + keyed.normal(batch.seeds(stream), mean.shape[1:]).to(mean)

    def decode(self, side: str, *given: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Decode pairs of a code and the brain it comes from into one kind of image, as one batch; -1 outside the brains."""
        code, brain = (torch.cat(parts) for parts in zip(*given, strict=True))
        return confined(self.generators.decode(side, code), brain).chunk(len(given))

    @torch.no_grad()
    def synthesise(self, sources: Tensor, brain: Tensor) -> Tensor:
        """Decodes the mean of the code, as the published code does at test time."""
        return confined(self.generators.decode("target", self.generators.encode("source", sources)), brain)

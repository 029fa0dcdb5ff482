"""TC-MGAN, the method of the source report: "Multi-modality GAN with tumor consistency loss" (Xin et al., ISBI 2020).

A U-Net generator makes one target modality at a time; one-hot maps say which. A WGAN-GP critic also classifies which modality it sees. A U-Net
segmentor, pre-trained on other patients, requires that the tumour can still be segmented. The 11 losses are those of the report's Tables 5 and 6.

    stage "segmentor"   s_loss = Dice(S(x, c), mask)                                      on the segmentor's half of the patients
    stage "joint"       d_loss = d_real + d_fake + cls d_cls + gp d_gp                    critic, then
                        g_loss = g_fake + cls g_cls + rec g_rec + seg g_seg               generator, then
                        s_loss = .7 Dice(S(G)) + .3 Dice(S(x))                            segmentor, on the GAN's half
    d_real = -E[sum D(x)], d_fake = E[sum D(G)], g_fake = -E[sum D(G)], d_cls, g_cls = cross-entropy of the classes, summed
    d_gp = E[(||grad D||_2 - 1)^2], g_rec = E[sum |x - G|] over pixels, g_seg = Dice loss of S(G)

Where this differs from the published code, on purpose: the segmentor is pre-trained on patients that the GAN never sees. The generator's output is
confined to the brain of its input, so that the background enters no loss. The number of levels and the class head follow the image size (7 levels
and a 4x4 head fit 128 x 128 only). The segmentor's norm is InstanceNorm except in `tcmgan_authors`, and its statistics are fixed in g_seg, whereas
the code keeps it in training mode there and so lets the generator change them.

Presets: `configs/method/tcmgan.yaml` (the report) and `tcmgan_authors.yaml`. The pre-training uses the code of the method `segment`;
`train.init_from=RUN method.segmentor.epochs=0` starts from such a run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from distsynth.data.batch import Batch
from distsynth.data.randomness import key
from distsynth.methods.contract import Made, Objective, Stage, Step, Terms, confined, frozen
from distsynth.methods.losses import critic_terms, dice_loss, per_sample_sum
from distsynth.methods.segment import TumourFinder, initialise, label_maps
from distsynth.modalities import Variant
from distsynth.networks.critic import Critic
from distsynth.networks.initialise import kaiming, normal
from distsynth.networks.segmentor import Segmentor
from distsynth.networks.unet import UNet, depth_of, stride_of
from distsynth.settings import ScheduleSettings, TrainSettings
from preprocess.shared.errors import SettingError
from preprocess.shared.settings import setting


@dataclass
class GeneratorSettings:
    width: int = setting(64, "channels at the first level", least=1)
    depth: int = setting(0, "levels (0: as many as pad the image by at most a tenth, up to 7)", least=0)
    direct: bool = setting(
        False, "skip connection from the input to the last level (not in pix2pix; learns absolute intensities sooner)"
    )


@dataclass
class CriticSettings:
    width: int = setting(64, "channels at the first level", least=1)
    depth: int = setting(0, "levels (0: as many as leave at least 2 pixels, at most 5)", least=0)
    sees_tumour: bool = setting(False, "give the critic the tumour mask too (the report's Figure 13)")


@dataclass
class SegmentorSettings:
    width: int = setting(64, "channels at the first level", least=1)
    norm: Literal["instance", "batch"] = setting("instance", "instance: the same on any number of ranks; batch: as published")
    epochs: int = setting(30, "epochs of the pre-training stage", least=0)
    batch: int = setting(5, "slices per update of the pre-training stage", least=1)
    lr: float = setting(1e-4, "Adam's learning rate in the pre-training stage", above=0)
    weight_synthesised: float = setting(0.7, "share of Dice(S(G)) in the joint stage's s_loss", least=0)
    weight_real: float = setting(0.3, "share of Dice(S(x)) in the joint stage's s_loss", least=0)


@dataclass
class WeightSettings:
    cls: float = setting(1.0, "weight of the modality classifier's loss, in d_loss and g_loss", least=0)
    gp: float = setting(10.0, "weight of the gradient penalty", least=0)
    rec: float = setting(1.0, "weight of g_rec, a sum over pixels", least=0)
    seg: float = setting(10.0, "weight of the tumour's Dice loss", least=0)


@dataclass
class TCMGANSettings:
    """Defaults are the report's."""

    name: str = setting("tcmgan", "the method")
    generator: GeneratorSettings = setting(GeneratorSettings, "")
    critic: CriticSettings = setting(CriticSettings, "")
    segmentor: SegmentorSettings = setting(SegmentorSettings, "")
    targets: Literal["one", "all"] = setting(
        "one", "one: a modality drawn per slice and given as a label, as published; all: every output at once"
    )
    weights: WeightSettings = setting(WeightSettings, "")


class TCMGAN(TumourFinder):
    """See the module docstring."""

    Settings = TCMGANSettings

    @classmethod
    def stride(cls, settings: TCMGANSettings, size: tuple[int, int]) -> int:
        return stride_of(settings.generator.depth, size, 7, "method.generator.depth")

    @classmethod
    def batches(cls, settings: TCMGANSettings, train: TrainSettings) -> dict[str, int]:
        pretraining = {"method.segmentor.batch": settings.segmentor.batch} if settings.segmentor.epochs else {}
        return {"train.batch": train.batch, **pretraining}

    def __init__(self, settings: TCMGANSettings, variant: Variant, size: tuple[int, int], seed: int) -> None:
        super().__init__(settings, variant, size, seed)
        self.weights, self.settings = settings.weights, settings
        inputs = len(variant.inputs)
        g = settings.generator
        given, made = (inputs, self.outputs) if settings.targets == "all" else (inputs + self.outputs, 1)
        self.generator = UNet(given, made, g.width, depth_of(g.depth, size, 7), g.direct)
        self.critic = Critic(
            1 + inputs + settings.critic.sees_tumour, self.outputs, settings.critic.width, critic_depth(settings, size), size
        )
        self.segmentor = Segmentor(1 + self.outputs, settings.segmentor.width, settings.segmentor.norm)
        normal(self.generator, key(seed, "weights", "generator") >> 1)
        kaiming(self.critic, key(seed, "weights", "critic") >> 1)
        initialise(self.segmentor, seed)

    # -- what is optimised ---------------------------------------------------------------------------------------------

    def objectives(self) -> dict[str, Objective]:
        return {
            **super().objectives(),  # of the pre-training
            "critic": Objective(self.critic, self.critic_loss, penalised=True),
            "generator": Objective(self.generator, self.generator_loss, self.make),
            "segmentor": Objective(self.segmentor, self.segmentor_loss),
        }

    def stages(self, train: TrainSettings) -> list[Stage]:
        s = self.settings.segmentor
        steady = ScheduleSettings(name="constant")
        pretraining = self.pretraining(s.epochs, s.batch, s.lr, steady)
        objectives = ("critic", "generator", "segmentor") if self.segmentor_learns else ("critic", "generator")
        joint = Stage.main(train, "joint", objectives, self.train_jointly, self.compare)
        return [pretraining, joint] if s.epochs else [joint]

    @property
    def segmentor_learns(self) -> bool:
        """False if `train.freeze` names the segmentor, which then stays as it is."""
        return any(p.requires_grad for p in self.segmentor.parameters())

    def train_jointly(self, batch: Batch, step: Step) -> None:
        made = step.make("generator", batch)  # the same image for both steps: the generator does not change in between
        step.minimise("critic", batch.having(**made))
        step.minimise("generator", batch)
        if self.segmentor_learns:
            step.minimise("segmentor", batch)

    # -- the losses ----------------------------------------------------------------------------------------------------

    def critic_loss(self, batch: Batch) -> tuple[Tensor, Terms]:
        pairs, real, target = self.pairs(batch)
        fake = as_pairs(batch.more["fake"])
        parts = critic_terms(lambda image: self.criticise(image, pairs), real, fake, pairs.uniform("penalty"))
        terms = {
            "d_real": -parts.real.mean(),
            "d_fake": parts.fake.mean(),
            "d_cls": classification(parts.classes, target),
            "d_gp": parts.penalty,
        }
        loss = terms["d_real"] + terms["d_fake"] + self.weights.cls * terms["d_cls"] + self.weights.gp * terms["d_gp"]
        return loss, {"d_loss": loss, **terms}

    def generator_loss(self, batch: Batch) -> tuple[Tensor, Terms]:
        pairs, real, target = self.pairs(batch)
        fake = as_pairs(batch.more["fake"])
        with frozen(self.critic, self.segmentor):
            on_fake, classes = self.criticise(fake, pairs)
            tumour = self.segment_in_eval(fake, target)
        terms = {
            "g_fake": -on_fake.mean(),
            "g_cls": classification(classes, target),
            "g_rec": per_sample_sum((real - fake).abs()),
            "g_seg": dice_loss(tumour, pairs.tumour),
        }
        w = self.weights
        loss = terms["g_fake"] + w.cls * terms["g_cls"] + w.rec * terms["g_rec"] + w.seg * terms["g_seg"]
        return loss, {"g_loss": loss, **terms}

    def segmentor_loss(self, batch: Batch) -> tuple[Tensor, Terms]:
        pairs, real, target = self.pairs(batch)
        s = self.settings.segmentor
        with torch.no_grad():  # the generator has changed since
            fake = as_pairs(self.make(batch)["fake"])
        if s.norm == "batch":  # as published, with separate statistics for synthesised and real images
            on_fake, on_real = self.segment(fake, target), self.segment(real, target)
        else:
            on_fake, on_real = self.segment(torch.cat([fake, real]), torch.cat([target, target])).chunk(2)
        loss = s.weight_synthesised * dice_loss(on_fake, pairs.tumour) + s.weight_real * dice_loss(on_real, pairs.tumour)
        return loss, {"s_loss": loss}

    # -- the networks' inputs ------------------------------------------------------------------------------------------

    def pairs(self, batch: Batch) -> tuple[Batch, Tensor, Tensor]:
        """Pairs of a slice and a target modality: one per slice, drawn at random, or all of a slice's if all are made at once. Returns the
        slices as a batch of P, the targets' images (P, 1, H, W) and their one-hot labels (P, outputs)."""
        if self.settings.targets == "one":
            return batch, *self.draw_target(batch)
        keys = np.add.outer(batch.keys, np.arange(self.outputs, dtype=np.uint64)).ravel().astype(np.uint64)
        targets = torch.eye(self.outputs, device=batch.sources.device, dtype=batch.sources.dtype).repeat(len(batch), 1)
        return batch.map(lambda tensor: tensor.repeat_interleave(self.outputs, 0), keys), as_pairs(batch.targets), targets

    def make(self, batch: Batch) -> Made:
        """The generator's images for the batch: (B, 1, H, W), or all outputs at once (B, outputs, H, W)."""
        target = None if self.settings.targets == "all" else self.pairs(batch)[2]
        return {"fake": self.generate(batch.sources, target, batch.brain)}

    def generate(self, sources: Tensor, target: Tensor | None, brain: Tensor) -> Tensor:
        """(B, inputs, H, W), labels (B, outputs) or None for all outputs, (B, 1, H, W) -> images in [-1, 1], -1 outside the brain."""
        given = sources if target is None else torch.cat([sources, label_maps(target, sources)], dim=1)
        return confined(self.generator(given), brain)

    def criticise(self, image: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The critic on targets stacked with sources: its map summed (N,), class logits (N, outputs). The N images may be several per
        slice: N is a multiple of B."""
        condition = [batch.sources, batch.tumour] if self.settings.critic.sees_tumour else [batch.sources]
        times = len(image) // len(batch)
        value, classes = self.critic(torch.cat([image, torch.cat(condition, dim=1).repeat(times, 1, 1, 1)], dim=1))
        return value, classes

    def segment_in_eval(self, image: Tensor, target: Tensor) -> Tensor:
        """`segment` with fixed batch statistics: the published code uses training mode here and so lets G change S's statistics."""
        training = self.segmentor.training
        self.segmentor.eval()
        try:
            return self.segment(image, target)
        finally:
            self.segmentor.train(training)

    # -- using and validating ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def synthesise(self, sources: Tensor, brain: Tensor) -> Tensor:
        if self.settings.targets == "all":
            return self.generate(sources, None, brain)
        targets = torch.eye(self.outputs, device=sources.device, dtype=sources.dtype)
        made = [self.generate(sources, target.expand(len(sources), -1), brain) for target in targets]
        return torch.cat(made, dim=1)


def as_pairs(images: Tensor) -> Tensor:
    """(B, C, H, W) -> (B * C, 1, H, W)."""
    return images.flatten(0, 1).unsqueeze(1)


def classification(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy with logits, summed over the classes, averaged over the batch."""
    return binary_cross_entropy_with_logits(logits, target, reduction="sum") / len(logits)


def critic_depth(settings: TCMGANSettings, size: tuple[int, int]) -> int:
    """As set, or the published 5, or fewer if these would leave less than 2 pixels. Raises SettingError if less than a pixel is left."""
    deepest = min(size).bit_length() - 1
    depth = settings.critic.depth or max(1, min(5, deepest - 1))
    if depth > deepest:
        raise SettingError(f"method.critic.depth={depth} is too deep for slices of {size[0]}x{size[1]}: at most {deepest}")
    return depth

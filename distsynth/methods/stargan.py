"""StarGAN: "Unified generative adversarial networks for multi-domain image-to-image translation" (Choi et al., CVPR 2018).

One generator makes any of the variant's contrasts from any other, one at a time; a label says which. It learns from single images: no loss
compares a patient's contrasts with each other, so it also trains on patients who lack some.

    L_D = -D(x) + D(G(x, c')) + cls L_cls(x, c) + gp E[(||grad D||_2 - 1)^2]       every update                     (equations 5 and 8)
    L_G = -D(G(x, c')) + cls L_cls(G(x, c'), c') + rec |x - G(G(x, c'), c)|_1      every n_critic-th                (equations 6 and 8)

x is one of a sample's contrasts and c' one of its group's, both drawn for each sample. D(.) is the mean of the critic's map and the penalty is
that of its sum, as in the published code; L_cls is the cross-entropy of the class.

The mask vector (section 3.2, equation 7): patients who have the same contrasts form a group, as a data set does in the paper. The label has a part
for each group, all zero except the sample's own, and a one-hot vector of the group. The critic classifies within the sample's group. With one
group there is no mask vector. The groups are those of the training patients, unless `groups` sets others: with one group of all contrasts, the
generator must also make contrasts that a patient lacks, which is possible because it never needs their truth. A contrast that a patient's group
lacks is synthesised with the label of a group that has it.

Where this differs from the published code: a batch mixes the groups instead of taking them in turns. c' is drawn per sample, not permuted within
the batch. The norms keep no running statistics. The generator's output is confined to the brain. The critic has as many levels as the image
allows, up to the published 6. `generator.labels` can confine the label to the brain too, so that it survives the first InstanceNorm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from distsynth.data.batch import Batch
from distsynth.data.randomness import key
from distsynth.methods.contract import Made, Method, Objective, Stage, Step, Terms, confined, frozen
from distsynth.methods.contrasts import choose, images_of, present_of
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
    blocks: int = setting(6, "residual blocks", least=0)
    direct: bool = setting(
        False, "skip connection from the input to the last level (not published; learns absolute intensities sooner)"
    )
    labels: Literal["image", "brain"] = setting(
        "image",
        "where the label maps are set: in the whole image (published), where InstanceNorm removes most of them, or only in the brain",
    )


@dataclass
class CriticSettings:
    width: int = setting(64, "channels at the first level", least=1)
    depth: int = setting(0, "levels (0: as many as leave at least 2 pixels, at most 6)", least=0)


@dataclass
class WeightSettings:
    cls: float = setting(1.0, "weight of the classification's cross-entropy, in both losses", least=0)
    rec: float = setting(10.0, "weight of cycle consistency (L1)", least=0)
    gp: float = setting(10.0, "weight of the gradient penalty", least=0)


@dataclass
class StarGANSettings:
    """Defaults are those of the paper and its code."""

    name: str = setting("stargan", "the method")
    generator: GeneratorSettings = setting(GeneratorSettings, "")
    critic: CriticSettings = setting(CriticSettings, "")
    weights: WeightSettings = setting(WeightSettings, "")
    n_critic: int = setting(5, "critic updates per generator update", least=1)
    groups: list[list[str]] = setting(
        [], "contrasts of each group of training patients, for the mask vector ([]: taken from the cohort)"
    )


class Drawn(NamedTuple):
    """The samples drawn from a batch."""

    real: Tensor  # (B, 1, H, W) one of its contrasts
    group: Tensor  # (B,) its group
    source: Tensor  # (B,) which contrast that is
    target: Tensor  # (B,) which contrast to make from it


class StarGAN(Method):
    """See the module docstring."""

    Settings = StarGANSettings
    kinds = ("siso", "simo")
    incomplete = True
    any_to_any = True
    held: Tensor  # (groups, modalities) bool: which contrasts a group has
    slot: Tensor  # (groups, modalities) the index of a contrast in the labels and in the critic's logits
    own: Tensor  # (groups, places) bool: which of those indices belong to a group

    @classmethod
    def stride(cls, settings: StarGANSettings, size: tuple[int, int]) -> int:
        return 4 if max(size) > 4 else 8  # a norm needs more than one pixel

    @classmethod
    def settled(cls, settings: StarGANSettings, held: Sequence[Sequence[str]]) -> StarGANSettings:
        if not settings.groups:
            return replace(settings, groups=[list(contrasts) for contrasts in held])
        for contrasts in held:
            if not any(set(contrasts) <= set(group) for group in settings.groups):
                raise SettingError(
                    f"there are training patients with {', '.join(contrasts)}, which no group of method.groups holds: "
                    "add one, or leave method.groups out"
                )
        return settings

    def __init__(self, settings: StarGANSettings, variant: Variant, size: tuple[int, int], seed: int) -> None:
        super().__init__(settings, variant, size, seed)
        self.weights, self.settings, self.cycle = settings.weights, settings, settings.n_critic
        groups = self.groups = groups_of(settings.groups, self.modalities)
        places, held = sum(map(sum, groups)), torch.tensor(groups)
        self.register_buffer("held", held, persistent=False)
        self.register_buffer("slot", (held.flatten().cumsum(0) - 1).view_as(held), persistent=False)
        group_of_place = torch.tensor([number for number, has in enumerate(groups) for _ in range(sum(has))])
        self.register_buffer("own", group_of_place == torch.arange(len(held))[:, None], persistent=False)
        labels = places + (len(held) if len(held) > 1 else 0)
        g = settings.generator
        constant = labels if g.labels == "image" else 0
        self.generator = Generator(1 + labels, 1, g.width, blocks=g.blocks, direct=g.direct, constant=constant)
        depth = stargan_depth(settings.critic.depth, size, "method.critic.depth")
        self.critic = Critic(1, places, settings.critic.width, depth, size)
        for name, network in self.named_children():
            uniform(network, key(seed, "weights", name) >> 1)

    # -- what is optimised ---------------------------------------------------------------------------------------------

    def objectives(self) -> dict[str, Objective]:
        return {
            "critic": Objective(self.critic, self.critic_loss, penalised=True),
            "generator": Objective(self.generator, self.generator_loss, self.translate),
        }

    def stages(self, train: TrainSettings) -> list[Stage]:
        return [Stage.main(train, "translation", ("critic", "generator"), self.train_both, self.compare)]

    def train_both(self, batch: Batch, step: Step) -> None:
        """Update the critic; every n_critic-th time also the generator, whose images then serve both steps."""
        if (batch.update + 1) % self.settings.n_critic:
            step.minimise("critic", batch)
        else:
            made = step.make("generator", batch)
            step.minimise("critic", batch.having(**made))
            step.minimise("generator", batch)

    # -- the losses ----------------------------------------------------------------------------------------------------

    def critic_loss(self, batch: Batch) -> tuple[Tensor, Terms]:
        drawn = self.draw(batch)
        if (fake := batch.more.get("fake")) is None:
            with torch.no_grad():
                fake = self.generate(drawn.real, drawn.group, drawn.target, batch.brain)
        parts = critic_terms(self.critic, drawn.real, fake, batch.uniform("penalty"))
        terms = {
            "d_real": -parts.real.mean() / self.critic.places,
            "d_fake": parts.fake.mean() / self.critic.places,
            "d_cls": self.classification(parts.classes, drawn.group, drawn.source),
            "d_gp": parts.penalty,
        }
        loss = terms["d_real"] + terms["d_fake"] + self.weights.cls * terms["d_cls"] + self.weights.gp * terms["d_gp"]
        return loss, {"d_loss": loss, **terms}

    def translate(self, batch: Batch) -> Made:
        """All passes of the generator: to the target contrast and back."""
        drawn = self.draw(batch)
        fake = self.generate(drawn.real, drawn.group, drawn.target, batch.brain)
        return {"fake": fake, "cycled": self.generate(fake, drawn.group, drawn.source, batch.brain)}

    def generator_loss(self, batch: Batch) -> tuple[Tensor, Terms]:
        drawn = self.draw(batch)
        with frozen(self.critic):
            value, classes = self.critic(batch.more["fake"])
        terms = {
            "g_fake": -value.mean() / self.critic.places,
            "g_cls": self.classification(classes, drawn.group, drawn.target),
            "g_rec": (drawn.real - batch.more["cycled"]).abs().mean(),
        }
        loss = terms["g_fake"] + self.weights.cls * terms["g_cls"] + self.weights.rec * terms["g_rec"]
        return loss, {"g_loss": loss, **terms}

    def classification(self, logits: Tensor, group: Tensor, modality: Tensor) -> Tensor:
        """Cross-entropy over the contrasts of each sample's own group."""
        among = logits.masked_fill(~self.own[group], -torch.inf)
        return cross_entropy(among, self.slot[group, modality])

    # -- the networks' inputs ------------------------------------------------------------------------------------------

    def draw(self, batch: Batch) -> Drawn:
        """Draw one of each sample's contrasts, and one of its group's."""
        present = present_of(batch)
        # (B, groups): which groups have all of the sample's contrasts; its own is the smallest of them.
        within = (self.held | ~present[:, None]).all(2)
        group = self.held.sum(1).expand_as(within).masked_fill(~within, len(self.modalities) + 1).argmin(1)
        source = choose(present, batch.uniform("source"))
        target = choose(self.held[group], batch.uniform("target"))
        return Drawn(images_of(batch)[torch.arange(len(batch), device=source.device), source].unsqueeze(1), group, source, target)

    def generate(self, image: Tensor, group: Tensor, modality: Tensor, brain: Tensor) -> Tensor:
        """(B, 1, H, W), which contrast of which group to make (B,), and the brain (B, 1, H, W) -> (B, 1, H, W) in [-1, 1], -1 outside the brain."""
        maps = self.label(group, modality).to(image)[:, :, None, None].expand(-1, -1, *image.shape[-2:])
        if self.settings.generator.labels == "brain":
            maps = maps * brain
        return confined(self.generator(torch.cat([image, maps], dim=1)), brain)

    def label(self, group: Tensor, modality: Tensor) -> Tensor:
        """(B,) and (B,) -> (B, labels): one-hot over the contrasts of all groups, followed by the mask vector if there is more than one group."""
        groups, places = self.own.shape
        label = one_hot(self.slot[group, modality], places)
        return torch.cat([label, one_hot(group, groups)], dim=1) if groups > 1 else label

    # -- using ---------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def synthesise(self, sources: Tensor, brain: Tensor) -> Tensor:
        source = self.modalities.index(self.variant.inputs[0])
        made = []
        for name in self.variant.outputs:
            target = self.modalities.index(name)
            group = torch.full((len(sources),), self.group_for(source, target), device=sources.device)
            made.append(self.generate(sources, group, torch.full_like(group, target), brain))
        return torch.cat(made, dim=1)

    def group_for(self, source: int, target: int) -> int:
        """A group that has both contrasts, or else one that has the target."""
        able = [number for number, has in enumerate(self.groups) if has[target]]
        return next((number for number in able if self.groups[number][source]), able[0])


def groups_of(groups: Sequence[Sequence[str]], modalities: Sequence[str]) -> list[list[bool]]:
    """For each group, which contrasts it has; one group of all contrasts if none is set. Raises SettingError."""
    for group in groups:
        if not group:
            raise SettingError("method.groups has an empty group: name its contrasts")
        for name in group:
            if name not in modalities:
                raise SettingError(f"method.groups names {name!r}: the variant's contrasts are {', '.join(modalities)}")
    held = [[name in group for name in modalities] for group in groups or [modalities]]
    if lacking := [name for name, *has in zip(modalities, *held, strict=True) if not any(has)]:
        raise SettingError(f"no group of method.groups holds {', '.join(lacking)}: add it, or choose another variant")
    return held

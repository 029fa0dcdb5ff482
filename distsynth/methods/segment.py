"""The segmentor of TC-MGAN (Xin et al., ISBI 2020) on its own: a U-Net that segments the whole tumour in one contrast at a time.

    stage "segmentor"   s_loss = Dice(S(x, c), mask)        on the segmentor's part of the patients, which no image network sees

x is one of the variant's outputs, drawn at random per sample, and c are one-hot maps that say which. This is the pre-training of `tcmgan`, which
uses the code of this file and can continue from such a run (`method=tcmgan train.init_from=RUN method.segmentor.epochs=0`). It also trains the
frozen judge that measures how much of the tumour other methods' images show (`evaluate.judge=RUN`). It makes no images itself: its score is Dice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from distsynth import metric_names
from distsynth.data.batch import Batch
from distsynth.data.randomness import key
from distsynth.methods.contract import Method, Objective, Stage, Step, Terms, in_chunks
from distsynth.methods.losses import dice_loss
from distsynth.modalities import Variant
from distsynth.networks.initialise import kaiming, uniform
from distsynth.networks.segmentor import Segmentor
from distsynth.settings import ScheduleSettings, TrainSettings
from preprocess.shared.errors import SettingError
from preprocess.shared.settings import setting

SMALLEST = 17  # pixels: below this, a norm at the innermost level has only one pixel for its statistics


class TumourFinder(Method):
    """A method with TC-MGAN's segmentor and its training on the tumour in real images."""

    tumours = True
    segmentor: Segmentor

    def __init__(self, settings: object, variant: Variant, size: tuple[int, int], seed: int) -> None:
        super().__init__(settings, variant, size, seed)
        self.outputs = len(variant.outputs)
        if max(size) < SMALLEST:
            raise SettingError(
                f"the segmentor's 4 levels need slices of {SMALLEST} x {SMALLEST} pixels, not {size[0]} x {size[1]}"
            )

    def objectives(self) -> dict[str, Objective]:
        return {"pretraining": Objective(self.segmentor, self.pretraining_loss)}

    def pretraining(self, epochs: int, batch: int, lr: float, schedule: ScheduleSettings) -> Stage:
        """The stage that trains the segmentor."""
        objectives = ("pretraining",)
        return Stage("segmentor", "segmentor", objectives, self.pretrain, self.find_tumour, epochs, batch, lr, schedule)

    def pretrain(self, batch: Batch, step: Step) -> None:
        step.minimise("pretraining", batch)

    def pretraining_loss(self, batch: Batch) -> tuple[Tensor, Terms]:
        real, target = self.draw_target(batch)
        probability = self.segment(real, target)
        loss = dice_loss(probability, batch.tumour)
        return loss, {"s_loss": loss, "s_dice": 1 - dice_loss((probability > 0.5).float(), batch.tumour)}

    def draw_target(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """One target modality per sample, drawn at random: its image (B, 1, H, W) and its one-hot label (B, outputs)."""
        index = (batch.uniform("target") * self.outputs).long()
        every = torch.arange(len(batch), device=index.device)
        return batch.targets[every, index].unsqueeze(1), one_hot(index, self.outputs).to(batch.sources)

    def segment(self, image: Tensor, target: Tensor) -> Tensor:
        """(B, 1, H, W), (B, outputs) -> (B, 1, H, W) probability of tumour."""
        probability: Tensor = self.segmentor(torch.cat([image, label_maps(target, image)], dim=1))
        return probability

    def find_tumour(self, patient: Batch) -> dict[str, float]:
        """Dice of the whole tumour over a patient's whole volume, segmented in each output modality in turn."""
        real = patient.targets.clamp(-1, 1)  # as in training
        images = {name: real[:, i : i + 1] for i, name in enumerate(self.variant.outputs)}
        return {
            metric_names.score(name, "tumour", "dice"): self.dice(image, name, patient.tumour) for name, image in images.items()
        }

    def dice(self, image: Tensor, name: str, tumour: Tensor) -> float:
        """Dice of the tumour segmented in a whole volume of one modality; image and mask (B, 1, H, W), all slices of a patient."""
        index = torch.tensor(self.variant.outputs.index(name))
        target = one_hot(index, self.outputs).to(image).expand(len(image), -1)
        predicted = in_chunks(self.segment, image, target) > 0.5
        return 1 - float(dice_loss(predicted.to(tumour)[None], tumour[None]))


def initialise(segmentor: Segmentor, seed: int) -> None:
    """Initial weights as published: Kaiming for the convolutions, torch's defaults for the transposed ones."""
    uniform(segmentor, key(seed, "weights", "segmentor", "up") >> 1)
    kaiming(segmentor, key(seed, "weights", "segmentor") >> 1)


def label_maps(target: Tensor, like: Tensor) -> Tensor:
    """One-hot labels (B, outputs) as constant maps (B, outputs, H, W)."""
    return target[:, :, None, None].expand(-1, -1, *like.shape[-2:])


@dataclass
class SegmentSettings:
    """The network. `train` sets its training, and the preset has TC-MGAN's values for pre-training."""

    name: str = setting("segment", "the method")
    width: int = setting(64, "channels at the first level", least=1)
    norm: Literal["instance", "batch"] = setting("instance", "instance: the same on any number of ranks; batch: as published")


class Segment(TumourFinder):
    """See the module docstring."""

    Settings = SegmentSettings
    images = False

    @classmethod
    def stride(cls, settings: SegmentSettings, size: tuple[int, int]) -> int:
        return 1

    def __init__(self, settings: SegmentSettings, variant: Variant, size: tuple[int, int], seed: int) -> None:
        super().__init__(settings, variant, size, seed)
        self.segmentor = Segmentor(1 + self.outputs, settings.width, settings.norm)
        initialise(self.segmentor, seed)

    def stages(self, train: TrainSettings) -> list[Stage]:
        return [self.pretraining(train.epochs, train.batch, train.lr, train.schedule)]

    def synthesise(self, sources: Tensor, brain: Tensor) -> Tensor:
        raise SettingError("method segment finds tumours and makes no images")

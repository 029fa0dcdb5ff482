"""What a method is: networks, losses and update. The engine owns devices, ranks, precision, accumulation, optimisers and checkpoints.

A method declares its networks, one objective per optimiser (a network to train and the loss that trains it), and stages, whose
`update` reads like the paper's algorithm: `step.minimise("critic", batch)`, then `step.minimise("generator", batch)`. To add one, write
`distsynth/methods/NAME.py` and `configs/method/NAME.yaml`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from distsynth import metric_names
from distsynth.data.batch import Batch
from distsynth.modalities import Variant
from distsynth.settings import ScheduleSettings, TrainSettings
from preprocess.shared.errors import SettingError

Terms = dict[str, Tensor]
Made = dict[str, Tensor]  # (B, ...) what a network has made of a batch, by name
Loss = Callable[[Batch], tuple[Tensor, Terms]]  # the scalar to minimise, and the scalars to log
Validation = Callable[[Batch], dict[str, float]]  # a held-out patient's whole stack of slices -> scores, higher is better


class Step(Protocol):
    """What the engine gives to `update`."""

    def minimise(self, name: str, batch: Batch) -> Made:
        """One optimiser step of an objective on a global batch; returns what it made on the way, without gradients."""
        ...

    def make(self, name: str, batch: Batch) -> Made:
        """What the objective's network makes of the batch, without gradients, before its `minimise` of the same batch, which need not make it
        again: so that another network can be trained on it first."""
        ...


@dataclass(frozen=True)
class Objective:
    """A loss and the one network that its gradient may move.

    `make`, where given, is the network's own forward pass; the loss then finds in `batch.more` what it made. `penalised` tells that the loss
    holds a gradient penalty, which is taken in full float32, its backward pass too.
    """

    network: nn.Module
    loss: Loss
    make: Callable[[Batch], Made] | None = None
    penalised: bool = False


@dataclass(frozen=True)
class Stage:
    """A stretch of training on one split of the patients."""

    name: str
    split: str
    objectives: tuple[str, ...]
    update: Callable[[Batch, Step], None]
    validate: Validation
    epochs: int
    batch: int
    lr: float
    schedule: ScheduleSettings

    @classmethod
    def main(
        cls,
        train: TrainSettings,
        name: str,
        objectives: tuple[str, ...],
        update: Callable[[Batch, Step], None],
        validate: Validation,
    ) -> Stage:
        """The stage that `train` describes, on the GAN's part of the patients."""
        return cls(name, "gan", objectives, update, validate, train.epochs, train.batch, train.lr, train.schedule)


class Method(nn.Module, ABC):
    """The base of all methods. Subclasses set `Settings`, a dataclass whose field `name` is the method's.

    A run is resumed from `state_dict` alone: what changes in training besides parameters (moving averages, image pools) is a buffer, or goes
    through `get_extra_state`; phases and curricula are functions of `Batch.epoch` and `Batch.update`. What is drawn at random is keyed by
    sample (`Batch.uniform`, `Batch.seeds`), so that it is the same on any number of ranks. An update may be called before the first one, on one
    slice and with a `Step` that moves no weight, to plan memory and to lay out DDP's buckets; the state is restored afterwards.
    """

    Settings: ClassVar[type[Any]]
    kinds: ClassVar[Sequence[str]] = ("siso", "simo", "miso", "mimo")
    paired: ClassVar[bool] = True  # False: targets are slices of another patient than the sources', and `target_brain` is theirs
    images: ClassVar[bool] = True  # False: it makes none, and is scored by what its last stage's `validate` says
    tumours: ClassVar[bool] = False  # True: it learns from tumour masks, and patients without a segmentation are not trained on
    any_to_any: ClassVar[bool] = False  # True: one training makes any of the variant's contrasts from any others (see `serve`)
    incomplete: ClassVar[bool] = False  # True: also trains on patients that lack contrasts, and `present` says which they have
    cycle: int = 1  # updates after which its steps repeat; the last of them has the most
    patch: int = 0  # voxels along each side of the 3-D patches that it trains on, in place of slices; 0: it takes slices
    patches: int = 0  # of them per subject and epoch

    @classmethod
    def settled(cls, settings: Any, held: Sequence[Sequence[str]]) -> Any:
        """The settings with what the method takes from the cohort itself: `held` are the sets of the variant's contrasts that training
        patients come in, the largest first. Raises SettingError if they do not fit."""
        return settings

    @classmethod
    @abstractmethod
    def stride(cls, settings: Any, size: tuple[int, int]) -> int:
        """What H and W must be multiples of, for slices of h x w pixels; the feed pads to it."""

    @classmethod
    def batches(cls, settings: Any, train: TrainSettings) -> dict[str, int]:
        """The settings that hold the global batch of each stage, and their values; all ranks share them."""
        return {"train.batch": train.batch}

    @abstractmethod
    def __init__(self, settings: Any, variant: Variant, size: tuple[int, int], seed: int) -> None:
        """Networks for slices of H x W pixels, with the initial weights of the seed."""
        super().__init__()
        self.variant = variant
        self.modalities = list(variant.modalities)  # that it is trained with

    @abstractmethod
    def objectives(self) -> dict[str, Objective]:
        """One per optimiser."""

    @abstractmethod
    def stages(self, train: TrainSettings) -> list[Stage]:
        """In order; the last one's validation chooses the best checkpoint."""

    @abstractmethod
    def synthesise(self, sources: Tensor, brain: Tensor) -> Tensor:
        """(B, inputs, H, W) in [-1, 1] and (B, 1, H, W) -> (B, outputs, H, W) in [-1, 1], -1 outside the brain; of patches likewise."""

    def serve(self, variant: Variant) -> None:
        """From now on synthesise for another variant than the trained one, of methods that are `any_to_any`. Raises SettingError if the variant
        has contrasts that were not trained with."""
        if unknown := [name for name in variant.modalities if name not in self.modalities]:
            known = ", ".join(self.modalities)
            raise SettingError(f"the run was trained with {known}, and variant {variant.name} has {', '.join(unknown)}")
        self.variant = variant

    def synthesise_volume(self, sources: Tensor, brain: Tensor) -> Tensor:
        """(z, inputs, H, W) and (z, 1, H, W), all slices of one patient in order -> (z, outputs, H, W)."""
        return in_chunks(self.synthesise, sources, brain)

    def compare(self, patient: Batch) -> dict[str, float]:
        """PSNR inside the brain over the patient's whole volume, per output modality.

        The range is the truth's own inside the brain; being a ratio, the figure is the same in network units and in z-scores.
        """
        made = self.synthesise_volume(patient.sources, patient.brain)
        inside = patient.brain[:, 0] > 0
        scores = {}
        for index, name in enumerate(self.variant.outputs):
            truth, error = patient.targets[:, index][inside], (made - patient.targets)[:, index][inside]
            scores[metric_names.score(name, "brain", "psnr")] = float(
                20 * ((truth.max() - truth.min()) / error.square().mean().sqrt()).log10()
            )
        return scores


def confined(made: Tensor, brain: Tensor) -> Tensor:
    """Images (B, C, ...) inside the brain (B, 1, ...), and -1, the background, outside."""
    return made * brain + brain - 1


def in_chunks(network: Callable[..., Tensor], *stacks: Tensor, size: int = 16) -> Tensor:
    """A network over the slices of a volume, `size` at a time, so that memory does not grow with the volume."""
    with torch.no_grad():
        return torch.cat([network(*(stack[i : i + size] for stack in stacks)) for i in range(0, len(stacks[0]), size)])


@contextmanager
def frozen(*networks: nn.Module) -> Iterator[None]:
    """Gradients flow through these networks and reach none of their parameters."""
    trained = [p for network in networks for p in network.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)

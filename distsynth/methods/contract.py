"""The interface of a method: networks, losses and update rule. The engine owns devices, ranks, precision, accumulation, optimisers and
checkpoints.

A method declares its networks, one objective per optimiser (a network and the loss that trains it), and stages. A stage's `update` reads
like the paper's algorithm: `step.minimise("critic", batch)`, then `step.minimise("generator", batch)`. To add a method, write
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
from distsynth.psnr import psnr
from distsynth.settings import ScheduleSettings, TrainSettings
from preprocess.shared.errors import SettingError

Terms = dict[str, Tensor]
Made = dict[str, Tensor]  # (B, ...) a network's outputs for a batch, by name
Loss = Callable[[Batch], tuple[Tensor, Terms]]  # the scalar to minimise, and the scalars to log
Validation = Callable[[Batch], dict[str, float]]  # a held-out patient's whole stack of slices -> scores; higher is better


class Step(Protocol):
    """What the engine passes to `update`."""

    def minimise(self, name: str, batch: Batch) -> Made:
        """One optimiser step of an objective on a global batch. Returns the outputs of the objective's `make`, without gradients."""
        ...

    def make(self, name: str, batch: Batch) -> Made:
        """The outputs of the objective's `make` for this batch, without gradients. To be called before `minimise` of the same batch, which
        can reuse them: another network can then be trained on them first."""
        ...


@dataclass(frozen=True)
class Objective:
    """A loss and the one network that its gradient may change.

    `make`, if given, is the network's own forward pass; the loss then reads its outputs from `batch.more`. `penalised` means that the loss
    contains a gradient penalty, which is computed in full float32, including its backward pass.
    """

    network: nn.Module
    loss: Loss
    make: Callable[[Batch], Made] | None = None
    penalised: bool = False


@dataclass(frozen=True)
class Stage:
    """A period of training on one split of the patients."""

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
        """The stage that `train` describes, on the GAN's split of the patients."""
        return cls(name, "gan", objectives, update, validate, train.epochs, train.batch, train.lr, train.schedule)


class Method(nn.Module, ABC):
    """The base class of all methods. Subclasses set `Settings`, a dataclass whose field `name` is the method's name.

    A run resumes from `state_dict` and nothing else: whatever changes in training besides parameters (moving averages, image pools) must be a
    buffer or go through `get_extra_state`; phases and curricula must be functions of `Batch.epoch` and `Batch.update`. Random draws are keyed by
    sample (`Batch.uniform`, `Batch.seeds`), so that they are the same on any number of ranks. `update` may be called before the first real update,
    on one slice and with a `Step` that changes no weights, to plan memory and to lay out DDP's buckets; the state is restored afterwards.
    """

    Settings: ClassVar[type[Any]]
    kinds: ClassVar[Sequence[str]] = ("siso", "simo", "miso", "mimo")
    paired: ClassVar[bool] = True  # False: targets are slices of a different patient, with their own `target_brain`
    images: ClassVar[bool] = True  # False: it makes no images; the `validate` of its last stage scores it
    tumours: ClassVar[bool] = False  # True: it learns from tumour masks, and does not train on patients without a segmentation
    any_to_any: ClassVar[bool] = False  # True: it makes any of the variant's contrasts from any others (see `serve`)
    incomplete: ClassVar[bool] = False  # True: also trains on patients that lack contrasts; `present` says which they have
    cycle: int = 1  # after so many updates the pattern of steps repeats; the last update of a cycle has the most steps
    patch: int = 0  # side length, in voxels, of the 3-D patches it trains on; 0: it trains on slices
    patches: int = 0  # patches per subject and epoch

    @classmethod
    def settled(cls, settings: Any, held: Sequence[Sequence[str]]) -> Any:
        """The settings, completed with what the method takes from the cohort. `held`: the sets of the variant's contrasts that training
        patients have, largest first. Raises SettingError if they do not fit."""
        return settings

    @classmethod
    @abstractmethod
    def stride(cls, settings: Any, size: tuple[int, int]) -> int:
        """H and W must be multiples of this, for slices of h x w pixels; the feed pads to it."""

    @classmethod
    def batches(cls, settings: Any, train: TrainSettings) -> dict[str, int]:
        """The settings that hold each stage's global batch, and their values. The ranks divide a batch among them."""
        return {"train.batch": train.batch}

    @abstractmethod
    def __init__(self, settings: Any, variant: Variant, size: tuple[int, int], seed: int) -> None:
        """Build the networks for slices of H x W pixels; the seed determines their initial weights."""
        super().__init__()
        self.variant = variant
        self.modalities = list(variant.modalities)  # those it is trained with

    @abstractmethod
    def objectives(self) -> dict[str, Objective]:
        """One per optimiser, by name."""

    @abstractmethod
    def stages(self, train: TrainSettings) -> list[Stage]:
        """In order. The validation of the last stage chooses the best checkpoint."""

    @abstractmethod
    def synthesise(self, sources: Tensor, brain: Tensor) -> Tensor:
        """(B, inputs, H, W) in [-1, 1] and (B, 1, H, W) -> (B, outputs, H, W) in [-1, 1], -1 outside the brain; for patches likewise."""

    @classmethod
    def makes_any(cls, settings: Any) -> bool:
        """Whether a model trained with these settings makes any of its contrasts from any others."""
        return cls.any_to_any

    def serve(self, variant: Variant) -> None:
        """Switch to synthesising another variant than the trained one, if the method is `any_to_any`. Raises SettingError if the variant
        has contrasts that the method was not trained with."""
        if unknown := [name for name in variant.modalities if name not in self.modalities]:
            known = ", ".join(self.modalities)
            raise SettingError(f"the run was trained with {known}, and variant {variant.name} has {', '.join(unknown)}")
        self.variant = variant

    def synthesise_volume(self, sources: Tensor, brain: Tensor) -> Tensor:
        """(z, inputs, H, W) and (z, 1, H, W), all slices of one patient in order -> (z, outputs, H, W)."""
        return in_chunks(self.synthesise, sources, brain)

    def compare(self, patient: Batch) -> dict[str, float]:
        """PSNR inside the brain over the patient's whole volume, per output modality.

        The data range is that of the ground truth inside the brain. The score is a ratio, so it is the same in network units and in z-scores.
        """
        made = self.synthesise_volume(patient.sources, patient.brain)
        inside = patient.brain[:, 0] > 0
        scores = {}
        for index, name in enumerate(self.variant.outputs):
            truth, error = patient.targets[:, index][inside], (made - patient.targets)[:, index][inside]
            squared = error.double().square().mean()
            scores[metric_names.score(name, "brain", "psnr")] = psnr(float(truth.max() - truth.min()), float(squared))
        return scores


def confined(made: Tensor, brain: Tensor) -> Tensor:
    """Images (B, C, ...) inside the brain mask (B, 1, ...), and -1, the background, outside."""
    return made * brain + brain - 1


def in_chunks(network: Callable[..., Tensor], *stacks: Tensor, size: int = 16) -> Tensor:
    """Apply a network to the slices of a volume, `size` at a time, so that memory does not grow with the volume."""
    with torch.no_grad():
        return torch.cat([network(*(stack[i : i + size] for stack in stacks)) for i in range(0, len(stacks[0]), size)])


@contextmanager
def frozen(*networks: nn.Module) -> Iterator[None]:
    """Gradients flow through these networks but do not reach their parameters."""
    trained = [p for network in networks for p in network.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)

"""The batch that a method gets: some axial slices of some patients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distsynth.data.randomness import Keys, key, splitmix, uniform


@dataclass(frozen=True)
class Batch:
    """B slices of H x W pixels, or patches of D x H x W voxels for methods that take those. Intensities are in [-1, 1]; outside the brain they
    are exactly -1, and so is a contrast that the patient does not have."""

    sources: Tensor  # (B, inputs, H, W) float32
    targets: Tensor  # (B, outputs, H, W) float32
    brain: Tensor  # (B, 1, H, W) float32, 1 inside the brain
    tumour: Tensor  # (B, 1, H, W) float32, 1 inside the whole tumour
    keys: Keys  # (B,) one random key per sample occurrence, the same for any number of ranks
    # (B, ...) tensors that only some methods need. From the feed: `present` (B, inputs + outputs), 1 for contrasts that the patient has;
    # `target_brain` (B, 1, H, W) if the targets are another patient's. From a method: what its networks made of the batch.
    more: Mapping[str, Tensor] = field(default_factory=dict)
    epoch: int = 0  # of the stage
    update: int = 0  # of the stage, from 0: for what a method does in every n-th update, or from some update on

    def __len__(self) -> int:
        return len(self.keys)

    def uniform(self, stream: str) -> Tensor:
        """(B,) numbers in [0, 1), keyed by (seed, stage, epoch, sample) and the stream's name."""
        drawn = torch.from_numpy(uniform(self.keys, stream)).to(self.sources, non_blocking=True)
        return drawn.clamp(max=1 - 2**-24)  # float32 would round up to 1

    def seeds(self, stream: str) -> Tensor:
        """(B,) int64 keys for `distsynth.networks.keyed`: dropout and noise are the same on any number of ranks."""
        mixed = splitmix(self.keys ^ np.uint64(key(stream)))
        return torch.from_numpy(mixed.view(np.int64)).to(self.sources.device, non_blocking=True)

    def having(self, **more: Tensor) -> Batch:
        """The batch with these tensors added to `more`."""
        return replace(self, more={**self.more, **more})

    def split(self, size: int) -> list[Batch]:
        """The same slices in batches of at most `size`."""
        return [self[start : start + size] for start in range(0, len(self), size)]

    def __getitem__(self, index: slice) -> Batch:
        return self.map(lambda tensor: tensor[index], self.keys[index])

    def to(self, device: torch.device) -> Batch:
        """The batch on another device."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True), self.keys)

    def map(self, change: Callable[[Tensor], Tensor], keys: Keys) -> Batch:
        """The batch with `change` applied to every tensor, and the keys of the resulting samples."""
        names = ("sources", "targets", "brain", "tumour")
        changed: dict[str, Any] = {name: change(getattr(self, name)) for name in names}
        return replace(self, **changed, keys=keys, more={name: change(tensor) for name, tensor in self.more.items()})

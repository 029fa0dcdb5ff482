"""What a method sees: some axial slices of some patients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distsynth.data.randomness import Keys, uniform


@dataclass(frozen=True)
class Batch:
    """B slices of H x W pixels. Intensities lie in [-1, 1]; outside the brain they are exactly -1."""

    sources: Tensor  # (B, inputs, H, W) float32
    targets: Tensor  # (B, outputs, H, W) float32
    brain: Tensor  # (B, 1, H, W) float32, 1 inside the brain
    tumour: Tensor  # (B, 1, H, W) float32, 1 inside the whole tumour
    keys: Keys  # (B,) one random key per sample occurrence, the same for any number of ranks

    def __len__(self) -> int:
        return len(self.keys)

    def uniform(self, stream: str) -> Tensor:
        """(B,) numbers in [0, 1), keyed by (seed, stage, epoch, sample) and the stream's name."""
        return torch.from_numpy(uniform(self.keys, stream)).to(self.sources)

    def split(self, size: int) -> list[Batch]:
        """The same slices in batches of at most `size`."""
        return [self[start : start + size] for start in range(0, len(self), size)]

    def __getitem__(self, index: slice) -> Batch:
        return Batch(self.sources[index], self.targets[index], self.brain[index], self.tumour[index], self.keys[index])

    def to(self, device: torch.device) -> Batch:
        """The batch on another device."""
        sources, targets, brain, tumour = (
            tensor.to(device, non_blocking=True) for tensor in (self.sources, self.targets, self.brain, self.tumour)
        )
        return Batch(sources, targets, brain, tumour, self.keys)

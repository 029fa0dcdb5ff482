"""Shared by the methods that treat all of a variant's contrasts alike: stacking their images, which contrasts a patient has, and drawing
one of the allowed ones."""

from __future__ import annotations

import torch
from torch import Tensor

from distsynth.data.batch import Batch


def images_of(batch: Batch) -> Tensor:
    """(B, modalities, H, W): the inputs, then the outputs, in the order of `Variant.modalities`. Contrasts that a patient lacks are -1,
    whatever the batch holds for them."""
    images = torch.cat([batch.sources, batch.targets], dim=1)
    return images.where(present_of(batch)[:, :, None, None], -1) if "present" in batch.more else images


def present_of(batch: Batch) -> Tensor:
    """(B, modalities) bool: which contrasts the patient has; all of them if the batch does not say."""
    if "present" in batch.more:
        return batch.more["present"] > 0
    count = batch.sources.shape[1] + batch.targets.shape[1]
    return torch.ones(len(batch), count, dtype=torch.bool, device=batch.sources.device)


def choose(allowed: Tensor, share: Tensor) -> Tensor:
    """(B, N) bool and (B,) in [0, 1) -> (B,): the index of one allowed entry per row; uniform shares choose each with equal probability."""
    order = allowed.cumsum(1)
    rank = (share * order[:, -1]).long()
    return (order <= rank[:, None]).sum(1)

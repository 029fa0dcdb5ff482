"""What methods share that take all of a variant's contrasts alike: the images as one stack, which of them a patient has, and drawing one of
those that will do."""

from __future__ import annotations

import torch
from torch import Tensor

from distsynth.data.batch import Batch


def images_of(batch: Batch) -> Tensor:
    """(B, modalities, H, W), the inputs, then the outputs: `Variant.modalities`. What a patient lacks is -1, whatever stands there."""
    images = torch.cat([batch.sources, batch.targets], dim=1)
    return images.where(present_of(batch)[:, :, None, None], -1) if "present" in batch.more else images


def present_of(batch: Batch) -> Tensor:
    """(B, modalities) bool: which contrasts the patient has; all of them where the batch does not say."""
    if "present" in batch.more:
        return batch.more["present"] > 0
    count = batch.sources.shape[1] + batch.targets.shape[1]
    return torch.ones(len(batch), count, dtype=torch.bool, device=batch.sources.device)


def choose(allowed: Tensor, share: Tensor) -> Tensor:
    """(B, N) bool and (B,) in [0, 1) -> (B,) the one at that share of each row's allowed ones, so that each is as likely as the others."""
    order = allowed.cumsum(1)
    rank = (share * order[:, -1]).long()
    return (order <= rank[:, None]).sum(1)

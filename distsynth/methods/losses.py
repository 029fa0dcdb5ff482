"""Losses that several methods share. Each is normalised per sample, so that the mean over ranks equals the mean over the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class CriticTerms(NamedTuple):
    """The parts of a critic's loss."""

    real: Tensor  # (B,) scores of the real images
    fake: Tensor  # (B,) scores of the fakes
    classes: Tensor  # (B, classes) class logits of the real images
    penalty: Tensor


def critic_terms(critic: Callable[[Tensor], tuple[Tensor, Tensor]], real: Tensor, fake: Tensor, epsilon: Tensor) -> CriticTerms:
    """Scores and gradient penalty of a critic (N, C, ...) -> (N,), (N, classes), on real and fake images (B, C, ...).

    Real and fake run as one batch of N = 2 B, real first; this changes nothing in a critic without batch statistics. The penalty's
    interpolated images are a separate pass, because the graph of the gradient would otherwise hold all three.
    """
    value, classes = critic(torch.cat([real, fake]))
    on_real, on_fake = value.chunk(2)
    penalty = gradient_penalty(lambda image: critic(image)[0], real, fake, epsilon)
    return CriticTerms(on_real, on_fake, classes[: len(real)], penalty)


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, epsilon: Tensor) -> Tensor:
    """E[(||grad critic(x)||_2 - 1)^2] at x between real and fake (Gulrajani et al. 2017, equation 3), in float32.

    real, fake: (B, C, ...); epsilon: (B,) in [0, 1), the weight of the real image; critic: (B, C, ...) -> (B,).
    """
    with torch.autocast(real.device.type, enabled=False):
        share = epsilon.view(-1, *[1] * (real.dim() - 1))
        gradient = input_gradient(critic, (share * real + (1 - share) * fake).detach())
        penalty: Tensor = (gradient.flatten(1).norm(dim=1) - 1).square().mean()
        return penalty


def input_gradient(critic: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """The gradient of the critic's sum with respect to the image; it can be differentiated again with respect to the critic's parameters."""
    if torch.compiler.is_compiling():  # only this form compiles; with the other the memory plan sees what autograd keeps
        gradient: Tensor = torch.func.grad(lambda x: critic(x).sum())(image)
        return gradient
    image.requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(image).sum(), image, create_graph=True)
    return gradient


def dice_loss(probability: Tensor, mask: Tensor, smooth: float = 1.0) -> Tensor:
    """1 - Dice per sample, then the mean. Both (B, 1, H, W); `smooth` keeps Dice defined for an empty mask (Milletari et al. 2016)."""
    both = (probability * mask).flatten(1).sum(1)
    each = probability.flatten(1).sum(1) + mask.flatten(1).sum(1)
    return (1 - (2 * both + smooth) / (each + smooth)).mean()


def per_sample_sum(values: Tensor) -> Tensor:
    """The sum over all dimensions except the batch, averaged over the batch."""
    return values.flatten(1).sum(1).mean()

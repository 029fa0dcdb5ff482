"""Losses that several methods share. Denominators are per sample, so that a mean over ranks equals the mean over the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class CriticTerms(NamedTuple):
    """What a critic's loss is made of."""

    real: Tensor  # (B,) the critic on real images
    fake: Tensor  # (B,)
    classes: Tensor  # (B, classes) logits of the real images
    penalty: Tensor


def critic_terms(critic: Callable[[Tensor], tuple[Tensor, Tensor]], real: Tensor, fake: Tensor, epsilon: Tensor) -> CriticTerms:
    """The critic (N, C, ...) -> (N,), (N, classes) on real and fake images (B, C, ...) of one batch, and its gradient penalty.

    Real and fake go through as one batch of N = 2 B, real first, which changes nothing in a critic without batch statistics. What lies between
    does not go with them: the gradient's own graph would then hold all three.
    """
    value, classes = critic(torch.cat([real, fake]))
    on_real, on_fake = value.chunk(2)
    penalty = gradient_penalty(lambda image: critic(image)[0], real, fake, epsilon)
    return CriticTerms(on_real, on_fake, classes[: len(real)], penalty)


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, epsilon: Tensor) -> Tensor:
    """E[(||grad critic(x)||_2 - 1)^2] at x between real and fake (Gulrajani et al. 2017, equation 3), in float32.

    real, fake: (B, C, ...); epsilon: (B,) in [0, 1), the share of the real image; critic: (B, C, ...) -> (B,).
    """
    with torch.autocast(real.device.type, enabled=False):
        share = epsilon.view(-1, *[1] * (real.dim() - 1))
        gradient = input_gradient(critic, (share * real + (1 - share) * fake).detach())
        penalty: Tensor = (gradient.flatten(1).norm(dim=1) - 1).square().mean()
        return penalty


def input_gradient(critic: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """The gradient of the critic's sum by the image, which can be differentiated again by the critic's parameters."""
    if torch.compiler.is_compiling():  # only this form compiles; the other lets the memory plan see what it keeps
        found: Tensor = torch.func.grad(lambda x: critic(x).sum())(image)
        return found
    image.requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(image).sum(), image, create_graph=True)
    return gradient


def dice_loss(probability: Tensor, mask: Tensor, smooth: float = 1.0) -> Tensor:
    """1 - Dice per sample, then the mean. Both (B, 1, H, W); `smooth` keeps an empty mask defined (Milletari et al. 2016)."""
    both = (probability * mask).flatten(1).sum(1)
    each = probability.flatten(1).sum(1) + mask.flatten(1).sum(1)
    return (1 - (2 * both + smooth) / (each + smooth)).mean()


def per_sample_sum(values: Tensor) -> Tensor:
    """The sum over everything but the batch, averaged over the batch."""
    return values.flatten(1).sum(1).mean()

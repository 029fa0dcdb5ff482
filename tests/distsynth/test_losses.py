"""Losses against closed forms."""

import pytest
import torch
from torch import nn

from distsynth.methods.losses import critic_terms, dice_loss, gradient_penalty, per_sample_sum


def test_the_penalty_of_a_linear_critic_is_its_norm_less_one_squared() -> None:
    weight = torch.randn(1, 2, 4, 4, dtype=torch.float64)
    real, fake = torch.randn(2, 3, 2, 4, 4, dtype=torch.float64)
    penalty = gradient_penalty(lambda x: (weight * x).flatten(1).sum(1), real, fake, torch.rand(3, dtype=torch.float64))
    assert float(penalty) == pytest.approx((float(weight.norm()) - 1) ** 2)


def test_the_penalty_is_taken_between_real_and_fake() -> None:
    """The gradient of sum(x^2)/2 is x itself, so the penalty shows at which x it was taken."""
    real, fake = torch.full((1, 1, 2, 2), 3.0), torch.full((1, 1, 2, 2), 1.0)
    penalty = gradient_penalty(lambda x: 0.5 * x.square().flatten(1).sum(1), real, fake, torch.tensor([0.25]))
    assert float(penalty.detach()) == pytest.approx((2 * 1.5 - 1) ** 2)  # .25 * 3 + .75 * 1 = 1.5 in four pixels: norm 3


def test_the_penalty_differentiates_twice() -> None:
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Softplus(), nn.Flatten(), nn.Linear(12, 1)).double()
    real, fake = torch.randn(2, 2, 1, 4, 4, dtype=torch.float64)
    epsilon = torch.rand(2, dtype=torch.float64)
    weight = critic[0].weight

    def penalty(value: torch.Tensor) -> torch.Tensor:
        def forward(x: torch.Tensor) -> torch.Tensor:
            return critic[3](critic[2](critic[1](nn.functional.conv2d(x, value, critic[0].bias)))).squeeze(1)

        return gradient_penalty(forward, real, fake, epsilon)

    assert torch.autograd.gradcheck(penalty, (weight.detach().clone().requires_grad_(True),))


@pytest.mark.parametrize(("overlap", "expected"), [(4, 0.0), (2, 1 - 5 / 9), (0, 1 - 1 / 9)])
def test_dice_of_known_overlaps(overlap: int, expected: float) -> None:
    mask, predicted = torch.zeros(1, 1, 1, 12), torch.zeros(1, 1, 1, 12)
    mask[..., :4] = 1
    predicted[..., 4 - overlap : 8 - overlap] = 1
    assert float(dice_loss(predicted, mask)) == pytest.approx(expected)


def test_dice_of_two_empty_masks_is_perfect() -> None:
    assert float(dice_loss(torch.zeros(2, 1, 3, 3), torch.zeros(2, 1, 3, 3))) == 0


def test_reductions_are_per_sample() -> None:
    values = torch.arange(8.0).reshape(2, 1, 2, 2)
    assert float(per_sample_sum(values)) == 14
    probability, mask = torch.rand(4, 1, 5, 5), (torch.rand(4, 1, 5, 5) > 0.5).float()
    halves = [dice_loss(probability[i : i + 2], mask[i : i + 2]) for i in (0, 2)]
    assert float(dice_loss(probability, mask)) == pytest.approx(float(sum(halves)) / 2)


def test_a_critics_scores_in_one_batch_equal_those_one_by_one() -> None:
    """Its scores, the real images' classes, the penalty, and the gradient of them all."""
    torch.manual_seed(0)
    trunk, head = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Softplus(), nn.Flatten()).double(), nn.Linear(12, 4).double()

    def critic(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        both = head(trunk(x))
        return both[:, 0], both[:, 1:]

    def gradient(of: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(of, trunk[0].weight)[0]

    real, fake = torch.randn(2, 2, 1, 4, 4, dtype=torch.float64)
    epsilon = torch.rand(2, dtype=torch.float64)
    parts = critic_terms(critic, real, fake, epsilon)
    (on_real, classes), (on_fake, _) = critic(real), critic(fake)
    penalty = gradient_penalty(lambda x: critic(x)[0], real, fake, epsilon)
    for one, other in zip(parts, (on_real, on_fake, classes, penalty), strict=True):
        assert torch.allclose(one, other, rtol=1e-12)
    weights = torch.rand(2, 3, dtype=torch.float64)
    together = parts.fake.mean() - parts.real.mean() + (parts.classes * weights).sum() + 10 * parts.penalty
    apart = on_fake.mean() - on_real.mean() + (classes * weights).sum() + 10 * penalty
    assert torch.allclose(gradient(together), gradient(apart), rtol=1e-12)

"""The critic's own layers give the same numbers as torch's, also when a gradient penalty differentiates twice."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from distsynth.methods.losses import gradient_penalty
from distsynth.networks.critic import Critic, LeakyReLU


def of_torch(critic: Critic, inputs: int, widths: list[int], final: tuple[int, int], classes: int) -> nn.ModuleList:
    """Trunk and both heads made of torch's layers, with the critic's weights."""
    trunk: list[nn.Module] = []
    for before, after in pairwise([inputs, *widths]):
        trunk += [nn.Conv2d(before, after, 4, 2, 1), nn.LeakyReLU(0.01)]
    heads = nn.Conv2d(widths[-1], 1, 3, padding=1, bias=False), nn.Conv2d(widths[-1], classes, final, bias=False)
    network = nn.ModuleList([nn.Sequential(*trunk), *heads]).double()
    with torch.no_grad():
        for own, given in zip(network.parameters(), critic.parameters(), strict=True):
            own.copy_(given)
    return network


@pytest.mark.parametrize(("size", "final"), [((32, 32), (2, 2)), ((40, 24), (2, 1)), ((48, 32), (3, 2)), ((16, 16), (1, 1))])
def test_values_and_the_penaltys_gradients_are_those_of_torchs_layers(size: tuple[int, int], final: tuple[int, int]) -> None:
    """With maps of up to 2 x 2 pixels, which are matrix products on a CPU, and with larger ones."""
    torch.manual_seed(0)
    critic = Critic(2, 3, 4, 4, size).double()
    trunk, values, classes = network = of_torch(critic, 2, [4, 8, 16, 32], final, 3)
    real, fake, epsilon = torch.randn(3, 2, *size).double(), torch.randn(3, 2, *size).double(), torch.rand(3).double()

    features = trunk(real)
    expected = values(features).flatten(1).sum(1), classes(features).flatten(1)
    for output, wanted in zip(critic(real), expected, strict=True):
        assert torch.allclose(output, wanted, rtol=0, atol=1e-12)

    gradient_penalty(lambda x: critic(x)[0], real, fake, epsilon).backward()
    gradient_penalty(lambda x: values(trunk(x)).flatten(1).sum(1), real, fake, epsilon).backward()
    for (name, own), given in zip(critic.named_parameters(), network.parameters(), strict=True):
        if own.grad is None or given.grad is None:  # the penalty does not depend on biases, nor on the classes
            assert all(grad is None or not grad.any() for grad in (own.grad, given.grad)), name
        else:
            assert torch.allclose(own.grad, given.grad, rtol=1e-9, atol=1e-12), name


def test_the_activation_is_torchs_to_the_last_bit() -> None:
    x = torch.cat([torch.randn(10_000), torch.tensor([0.0, -0.0, torch.inf, -torch.inf])])
    assert torch.equal(LeakyReLU(0.01)(x), nn.LeakyReLU(0.01)(x))

"""DiscoGAN: its networks are the published ones, and its update equals a literal transcription of the published rule."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from itertools import chain, pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from workbench import count, engine_for, leaves, losses_of, unpaired

from distsynth.config import compose
from distsynth.data.batch import Batch
from distsynth.methods.discogan import DiscoGAN
from distsynth.networks.disco import DiscoDiscriminator, DiscoGenerator
from preprocess.shared.errors import SettingError

SMALL = ["variant=siso", "method=discogan", "method.generator.width=3", "method.discriminator.width=3", "method.weights.switch=2"]
SIZE = (24, 16)
SIDES = ("target", "source")


def config_of(*words: str) -> Any:
    return compose([*SMALL, "train.lr=1e-2", *words])


def make(*words: str, size: tuple[int, int] = SIZE) -> DiscoGAN:
    config = config_of(*words)
    return DiscoGAN(config.method, config.variant, size, 0).double()


def batch_for(n: int = 4, seed: int = 0, size: tuple[int, int] = SIZE) -> Batch:
    return unpaired(n, seed, size)


# -- the published rule, written out -----------------------------------------------------------------------------------


def published_generator(width: int, depth: int, norm: type[nn.Module], channels: int = 1) -> nn.Sequential:
    widths = [width * min(2**level, 8) for level in range(depth)]
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
    for a, b in pairwise(widths):
        layers += [nn.Conv2d(a, b, 4, 2, 1, bias=False), norm(b), nn.LeakyReLU(0.2)]
    for a, b in pairwise(widths[::-1]):
        layers += [nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False), norm(b), nn.ReLU()]
    return nn.Sequential(*layers, nn.ConvTranspose2d(width, channels, 4, 2, 1, bias=False), nn.Sigmoid())


class PublishedDiscriminator(nn.Module):
    def __init__(self, width: int, depth: int, norm: type[nn.Module], size: tuple[int, int], channels: int = 1) -> None:
        super().__init__()
        widths = [channels, *(width * min(2**level, 8) for level in range(depth))]
        self.norms = nn.ModuleList([nn.Identity(), *(norm(b) for b in widths[2:])])
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1, bias=False) for a, b in pairwise(widths))
        self.last = nn.Conv2d(widths[-1], 1, (size[0] // 2**depth, size[1] // 2**depth), bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = []
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = nn.functional.leaky_relu(norm(conv(x)), 0.2)
            features.append(x)
        return torch.sigmoid(self.last(x)), features[1:]


def holding(network: nn.Module, weights: nn.Module) -> nn.Module:
    """The network with another's convolutions, in their order; scales and shifts of norms are at 1 and 0 in both."""
    given = [p for p in weights.parameters() if p.dim() == 4]
    with torch.no_grad():
        for own, value in zip((p for p in network.double().parameters() if p.dim() == 4), given, strict=True):
            own.copy_(value)
    return network


class Literal:
    """The published training, from a method's settings and initial weights. It runs on whole batches, because feature matching is over the
    batch."""

    def __init__(self, method: DiscoGAN, lr: float, betas: tuple[float, float], decay: float) -> None:
        s = self.settings = method.settings
        depth = s.depth or 2
        norm = {"instance": nn.InstanceNorm2d, "batch": nn.BatchNorm2d}[s.norm]
        self.g = {x: holding(published_generator(s.generator.width, depth, norm), method.generators[x]) for x in SIDES}
        self.d = {
            x: holding(PublishedDiscriminator(s.discriminator.width, depth, norm, SIZE), method.discriminators[x]) for x in SIDES
        }
        self.optimisers = [
            torch.optim.Adam(chain(*(net.parameters() for net in nets.values())), lr=lr, betas=betas, weight_decay=decay)
            for nets in (self.g, self.d)
        ]

    def terms(self, batch: Batch, iteration: int) -> dict[str, Tensor]:
        w, n = self.settings.weights, len(batch)
        a, b = (batch.sources + 1) / 2, (batch.targets + 1) / 2
        in_a, in_b = batch.brain, batch.more["target_brain"]
        ab, ba = self.g["target"](a) * in_a, self.g["source"](b) * in_b
        aba, bab = self.g["source"](ab) * in_a, self.g["target"](ba) * in_b
        recon = {"source": ((aba - a) ** 2).mean(), "target": ((bab - b) ** 2).mean()}
        rate = w.first if iteration < w.switch else w.later
        values: dict[str, Any] = {"g_loss": 0, "d_loss": 0}
        for side, real, fake in (("source", a, ba), ("target", b, ab)):
            on_real, features_real = self.d[side](real)
            on_fake, features_fake = self.d[side](fake)
            on_real, on_fake = on_real.view(n), on_fake.view(n)
            d_loss = -w.discriminator * (torch.log(on_real).mean() + torch.log(1 - on_fake).mean())
            g_loss = -torch.log(on_fake).mean()
            matching = sum(((r.mean(0) - f.mean(0)) ** 2).mean() for r, f in zip(features_real, features_fake, strict=True))
            values |= {f"d_{side}": d_loss, f"g_{side}": g_loss, f"g_features_{side}": matching, f"g_again_{side}": recon[side]}
            values["d_loss"] = values["d_loss"] + d_loss
            values["g_loss"] = values["g_loss"] + (g_loss * w.gan + matching * w.features) * (1 - rate) + recon[side] * rate
        return values

    def update(self, batch: Batch, iteration: int) -> None:
        terms = self.terms(batch, iteration)
        generators, discriminators = self.optimisers
        optimiser, loss = (discriminators, "d_loss") if iteration % self.settings.every == 0 else (generators, "g_loss")
        generators.zero_grad()
        discriminators.zero_grad()
        terms[loss].backward()
        optimiser.step()

    def difference(self, method: DiscoGAN) -> float:
        """Over the convolutions and, with batch norm, the scales and shifts."""
        differences = [0.0]
        for nets, others in ((self.g, method.generators), (self.d, method.discriminators)):
            for side in SIDES:
                for kind in (4, 1):
                    pairs = [[p for p in net.parameters() if p.dim() == kind] for net in (nets[side], others[side])]
                    differences += [float((mine - its).detach().abs().max()) for mine, its in zip(*pairs, strict=True)]
        return max(differences)


def trained(*words: str, updates: int = 5, parts: int = 0) -> tuple[DiscoGAN, Literal]:
    """The method and the transcription after so many updates: two of the discriminators, three of the generators, with r changed in
    between."""
    method = make(*words)
    engine = engine_for(method, config_of(*words, f"train.micro_batch={parts}").train)
    literal = Literal(method, engine.train.lr, engine.train.betas, engine.train.weight_decay)
    for update in range(updates):
        batch = replace(batch_for(seed=update), update=update)
        engine.stage.update(batch, engine)
        literal.update(batch, update)
    return method, literal


# Every setting, changed; the transcription reads the settings itself.
FLIPPED = {
    "generator.width": 4, "discriminator.width": 4, "depth": 3, "norm": "batch", "every": 2, "weights.gan": 0.5, "weights.features": 0.3,
    "weights.first": 0.3, "weights.later": 0.9, "weights.switch": 4, "weights.discriminator": 1e-6,
}  # fmt: skip


@pytest.fixture(scope="module")
def plain() -> DiscoGAN:
    return trained()[0]


def test_five_updates_equal_the_literal_rule() -> None:
    method, literal = trained()
    assert literal.difference(method) < 1e-9
    assert literal.difference(make()) > 1e-3


def test_five_updates_in_micro_batches_equal_the_literal_rule() -> None:
    """Feature matching is still over the whole batch."""
    method, literal = trained(parts=1)
    assert literal.difference(method) < 1e-9


@pytest.mark.parametrize("name", FLIPPED)
def test_each_setting_changes_the_update_as_the_literal_rule_says(name: str, plain: DiscoGAN) -> None:
    method, literal = trained(f"method.{name}={FLIPPED[name]}")
    assert literal.difference(method) < 1e-9
    before, after = (list(m.parameters()) for m in (plain, method))
    shapes = [[p.shape for p in parameters] for parameters in (before, after)]
    assert shapes[0] != shapes[1] or max(float((a - b).detach().abs().max()) for a, b in zip(before, after, strict=True)) > 1e-6


def test_no_setting_is_left_out() -> None:
    assert set(FLIPPED) == set(leaves(make().settings)) - {"name"}


def test_the_losses_equal_the_literal_rule() -> None:
    method, batch = make(), batch_for(5)
    expected = Literal(method, 1e-3, (0.5, 0.999), 0).terms(batch, 0)
    actual = {name: value for _, terms in losses_of(method, batch).values() for name, value in terms.items()}
    assert set(actual) == set(expected)
    for name, value in actual.items():
        assert value.item() == pytest.approx(expected[name].item(), rel=1e-10), name


def test_the_gradient_of_feature_matching_is_that_of_the_batch_means() -> None:
    features = torch.randn(4, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    real = torch.randn(3, 2, 2, dtype=torch.float64)
    gap = (real - features.mean(0)).detach().expand_as(features)
    (mine,) = torch.autograd.grad(DiscoGAN.matching(gap, features).mean(), features)
    (its,) = torch.autograd.grad((real - features.mean(0)).square().mean(), features)
    assert torch.allclose(mine, its, atol=1e-15)


def test_a_loss_trains_all_of_its_own_networks_and_no_others() -> None:
    for objective in ("generators", "discriminators"):
        method = make()
        losses_of(method, batch_for())[objective][0].backward()
        for name, value in method.named_parameters():
            reached = value.grad is not None and bool(value.grad.abs().sum() > 0)
            assert reached == name.startswith(objective), f"{objective} on {name}"


def test_an_update_moves_either_the_discriminators_or_the_generators() -> None:
    method = make()
    engine = engine_for(method, config_of().train)
    for update, moved in enumerate(["discriminators", "generators", "generators", "discriminators"]):
        before = deepcopy(method.state_dict())
        engine.stage.update(replace(batch_for(seed=update), update=update), engine)
        changed = {name.split(".")[0] for name, value in method.state_dict().items() if not torch.equal(value, before[name])}
        assert changed == {moved}


def test_images_are_confined_to_the_brain() -> None:
    method, batch = make(), batch_for()
    made = method.synthesise(batch.sources, batch.brain)
    assert (made[batch.brain == 0] == -1).all()
    assert made[batch.brain == 1].std() > 0
    assert made.abs().max() <= 1


# -- the published networks --------------------------------------------------------------------------------------------


def test_the_networks_have_the_published_parameters() -> None:
    """As the layers of SKTBrain/DiscoGAN's model.py add up: 64 x 64, 3 channels, batch norm."""
    convolutions = 16 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512)
    generator, discriminator = DiscoGenerator(3, 3, 64, 4, "batch"), DiscoDiscriminator(3, 64, 4, (64, 64), "batch")
    assert count(generator) == 2 * convolutions + 2 * (2 * (128 + 256) + 512 + 64) == 5_513_856
    assert count(discriminator) == convolutions + 16 * 512 + 2 * (128 + 256 + 512) == 2_765_568
    x = torch.zeros(2, 3, 64, 64)
    assert generator(x).shape == (2, 3, 64, 64)
    logits, features = discriminator(x)
    assert [logits.shape, *(f.shape for f in features)] == [(2,), (2, 128, 16, 16), (2, 256, 8, 8), (2, 512, 4, 4)]


@pytest.mark.parametrize(("pixels", "depth"), [(54, 3), (64, 4), (128, 5), (160, 5), (240, 5), (30, 2)])
def test_the_depth_follows_the_image(pixels: int, depth: int) -> None:
    settings = config_of().method
    assert DiscoGAN.stride(settings, (pixels, pixels)) == 1 << depth


def test_a_padded_image_always_fits() -> None:
    """Also where the feed makes it square for rotations."""
    settings = config_of("method.generator.width=1", "method.discriminator.width=1").method
    for height, width in [(27, 60), (54, 54), (30, 37), (100, 36)]:
        stride = DiscoGAN.stride(settings, (height, width))
        side = -(-max(height, width) // stride) * stride
        method = DiscoGAN(settings, config_of().variant, (side, side), 0)
        image = torch.zeros(1, 1, side, side)
        assert method.synthesise(image, image).shape == image.shape


# -- what is refused ---------------------------------------------------------------------------------------------------

REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: make("variant=mimo"), "method discogan serves siso and variant mimo is mimo"),
    (
        lambda: make("method.depth=4", size=(24, 24)),
        "method.depth=4 needs slices of at least 32 pixels, and multiples of 16; these are 24x24",
    ),
    (lambda: make("method.depth=1"), "method.depth=1 leaves no level for feature matching"),
    (lambda: make("method.every=1"), "method.every=1 must be at least 2"),
    (lambda: make("method.weights.first=2"), "method.weights.first=2.0 must be at least 0 and at most 1"),
]


@pytest.mark.parametrize(("attempt", "sentence"), REFUSED)
def test_invalid_settings_are_refused_in_one_sentence(attempt: Callable[[], object], sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        attempt()

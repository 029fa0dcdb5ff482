"""CycleGAN: its networks are the published ones, and its update equals a literal transcription of the published rule."""

from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from workbench import count, engine_for, leaves, losses_of, receptive_field, unpaired

from distsynth.config import compose
from distsynth.data.batch import Batch
from distsynth.methods.cyclegan import CycleGAN
from distsynth.networks.patchgan import PatchGAN
from distsynth.networks.resnet import ResNet
from preprocess.shared.errors import SettingError

SMALL = ["variant=siso", "method=cyclegan", "method.generator.width=3", "method.generator.blocks=1", "method.discriminator.width=3",
         "method.discriminator.layers=2", "method.pool=3"]  # fmt: skip
SIZE = (24, 20)
SIDES = ("target", "source")


def config_of(*words: str) -> Any:
    return compose([*SMALL, "train.lr=1e-2", *words])


def make(*words: str, size: tuple[int, int] = SIZE) -> CycleGAN:
    config = config_of(*words)
    return CycleGAN(config.method, config.variant, size, 0).double()


def batch_for(n: int = 3, seed: int = 0, size: tuple[int, int] = SIZE) -> Batch:
    return unpaired(n, seed, size)


# -- the published rule, written out -----------------------------------------------------------------------------------


def published_generator(width: int, blocks: int, channels: int = 1, bias: bool = False) -> nn.Sequential:
    """The layers of the published code in their order; `bias`: whether to include the biases before a norm, which have no effect."""

    def block(channels: int) -> nn.Module:
        return Residual(
            nn.Sequential(
                nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3, bias=bias), nn.InstanceNorm2d(channels), nn.ReLU(),
                nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3, bias=bias), nn.InstanceNorm2d(channels),
            )
        )  # fmt: skip

    w = width
    up = {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1, "bias": bias}
    return nn.Sequential(
        nn.ReflectionPad2d(3), nn.Conv2d(channels, w, 7, bias=bias), nn.InstanceNorm2d(w), nn.ReLU(),
        nn.Conv2d(w, 2 * w, 3, 2, 1, bias=bias), nn.InstanceNorm2d(2 * w), nn.ReLU(),
        nn.Conv2d(2 * w, 4 * w, 3, 2, 1, bias=bias), nn.InstanceNorm2d(4 * w), nn.ReLU(),
        *(block(4 * w) for _ in range(blocks)),
        nn.ConvTranspose2d(4 * w, 2 * w, **up), nn.InstanceNorm2d(2 * w), nn.ReLU(),
        nn.ConvTranspose2d(2 * w, w, **up), nn.InstanceNorm2d(w), nn.ReLU(),
        nn.ReflectionPad2d(3), nn.Conv2d(w, channels, 7), nn.Tanh(),
    )  # fmt: skip


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def published_discriminator(width: int, layers: int) -> nn.Sequential:
    modules: list[nn.Module] = [nn.Conv2d(1, width, 4, 2, 1), nn.LeakyReLU(0.2)]
    before = width
    for layer in range(1, layers + 1):
        after = width * min(2**layer, 8)
        modules += [
            nn.Conv2d(before, after, 4, 2 if layer < layers else 1, 1, bias=False),
            nn.InstanceNorm2d(after),
            nn.LeakyReLU(0.2),
        ]
        before = after
    return nn.Sequential(*modules, nn.Conv2d(before, 1, 4, 1, 1))


def holding(network: nn.Module, weights: nn.Module) -> nn.Module:
    """The network with another's weights, in their order."""
    with torch.no_grad():
        for own, given in zip(network.double().parameters(), weights.parameters(), strict=True):
            own.copy_(given)
    return network


class Literal:
    """The published training, sample by sample, from a method's settings and first weights."""

    def __init__(self, method: CycleGAN, lr: float, betas: tuple[float, float]) -> None:
        s = self.settings = method.settings
        blocks = s.generator.blocks or 6
        self.g = {x: holding(published_generator(s.generator.width, blocks), method.generators[x]) for x in SIDES}
        self.d = {
            x: holding(published_discriminator(s.discriminator.width, s.discriminator.layers), method.discriminators[x])
            for x in SIDES
        }
        self.optimisers = [
            torch.optim.Adam(chain(*(net.parameters() for net in nets.values())), lr=lr, betas=betas) for nets in (self.g, self.d)
        ]
        self.pools: dict[str, list[Tensor]] = {x: [] for x in SIDES}

    def confined(self, side: str, image: Tensor, brain: Tensor) -> Tensor:
        return torch.where(brain > 0, self.g[side](image), torch.tensor(-1.0, dtype=image.dtype))

    def generator_terms(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, list[Tensor]]]:
        w, n = self.settings.weights, len(batch)
        terms: dict[str, Any] = {}
        fakes: dict[str, list[Tensor]] = {x: [] for x in SIDES}
        for i in range(n):
            a, b = batch.sources[i : i + 1], batch.targets[i : i + 1]
            in_a, in_b = batch.brain[i : i + 1], batch.more["target_brain"][i : i + 1]
            fake_b, fake_a = self.confined("target", a, in_a), self.confined("source", b, in_b)
            of_sample = {
                "g_target": ((self.d["target"](fake_b) - 1) ** 2).mean(),
                "g_source": ((self.d["source"](fake_a) - 1) ** 2).mean(),
                "g_cycle_source": (self.confined("source", fake_b, in_a) - a).abs().mean(),
                "g_cycle_target": (self.confined("target", fake_a, in_b) - b).abs().mean(),
            }
            if w.identity:
                of_sample["g_same_target"] = (self.confined("target", b, in_b) - b).abs().mean()
                of_sample["g_same_source"] = (self.confined("source", a, in_a) - a).abs().mean()
            for name, value in of_sample.items():
                terms[name] = terms.get(name, 0) + value / n
            fakes["target"].append(fake_b.detach())
            fakes["source"].append(fake_a.detach())
        loss = terms["g_target"] + terms["g_source"]
        loss = loss + w.cycle_source * terms["g_cycle_source"] + w.cycle_target * terms["g_cycle_target"]
        if w.identity:
            loss = loss + w.cycle_target * w.identity * terms["g_same_target"]
            loss = loss + w.cycle_source * w.identity * terms["g_same_source"]
        return {"g_loss": loss, **terms}, fakes

    def discriminator_terms(self, batch: Batch, shown: dict[str, list[Tensor]]) -> dict[str, Tensor]:
        terms: dict[str, Any] = {}
        for side, real in (("target", batch.targets), ("source", batch.sources)):
            for i, fake in enumerate(shown[side]):
                on_real, on_fake = self.d[side](real[i : i + 1]), self.d[side](fake)
                value = (((on_real - 1) ** 2).mean() + (on_fake**2).mean()) * self.settings.weights.discriminator / len(batch)
                terms[f"d_{side}"] = terms.get(f"d_{side}", 0) + value
        return {"d_loss": terms["d_target"] + terms["d_source"], **terms}

    def through_pool(self, side: str, fakes: list[Tensor], batch: Batch) -> list[Tensor]:
        pool, size, shown = self.pools[side], self.settings.pool, []
        if size == 0:
            return fakes
        for fake, number in zip(fakes, batch.uniform(f"pool/{side}").tolist(), strict=True):
            if len(pool) < size:
                pool.append(fake)
                shown.append(fake)
            elif number < 0.5:
                shown.append(fake)
            else:
                place = int((2 * number - 1) * size)
                shown.append(pool[place])
                pool[place] = fake
        return shown

    def update(self, batch: Batch) -> None:
        generators, discriminators = self.optimisers
        terms, fakes = self.generator_terms(batch)
        generators.zero_grad()
        terms["g_loss"].backward()
        generators.step()
        shown = {side: self.through_pool(side, fakes[side], batch) for side in SIDES}
        discriminators.zero_grad()
        self.discriminator_terms(batch, shown)["d_loss"].backward()
        discriminators.step()

    def difference(self, method: CycleGAN) -> float:
        pairs = [
            (mine, its)
            for nets, others in ((self.g, method.generators), (self.d, method.discriminators))
            for side in SIDES
            for mine, its in zip(nets[side].parameters(), others[side].parameters(), strict=True)
        ]
        return max(float((mine - its).detach().abs().max()) for mine, its in pairs)


def trained(*words: str, updates: int = 3) -> tuple[CycleGAN, Literal]:
    """The method and the transcription after so many updates."""
    method = make(*words)
    engine = engine_for(method, config_of(*words).train)
    literal = Literal(method, engine.train.lr, engine.train.betas)
    for update in range(updates):
        batch = batch_for(seed=update)
        engine.stage.update(replace(batch, update=update), engine)
        literal.update(batch)
    return method, literal


# Every setting, changed; the transcription reads the settings itself.
FLIPPED = {
    "generator.width": 4, "generator.blocks": 2, "discriminator.width": 4, "discriminator.layers": 1, "pool": 0,
    "weights.cycle_source": 3, "weights.cycle_target": 3, "weights.identity": 0, "weights.discriminator": 1e-6,
}  # fmt: skip


@pytest.fixture(scope="module")
def plain() -> CycleGAN:
    return trained()[0]


def test_three_updates_equal_the_literal_rule() -> None:
    method, literal = trained()
    assert literal.difference(method) < 1e-9
    assert literal.difference(make()) > 1e-3
    for side, pool in (("target", method.target_pool), ("source", method.source_pool)):
        assert torch.cat(literal.pools[side]).sub(pool.images).abs().max() < 1e-9


@pytest.mark.parametrize("name", FLIPPED)
def test_each_setting_changes_the_update_as_the_literal_rule_says(name: str, plain: CycleGAN) -> None:
    method, literal = trained(f"method.{name}={FLIPPED[name]}")
    assert literal.difference(method) < 1e-9
    before, after = (list(m.parameters()) for m in (plain, method))
    shapes = [[p.shape for p in parameters] for parameters in (before, after)]
    assert shapes[0] != shapes[1] or max(float((a - b).detach().abs().max()) for a, b in zip(before, after, strict=True)) > 1e-6


def test_no_setting_is_left_out() -> None:
    assert set(FLIPPED) == set(leaves(make().settings)) - {"name"}


def test_the_losses_equal_the_literal_rule() -> None:
    method, batch = make("method.pool=0"), batch_for(4)
    literal = Literal(method, 1e-3, (0.5, 0.999))
    expected, fakes = literal.generator_terms(batch)
    expected |= literal.discriminator_terms(batch, fakes)
    actual = {name: value for _, terms in losses_of(method, batch).values() for name, value in terms.items()}
    assert set(actual) == set(expected)
    for name, value in actual.items():
        assert value.item() == pytest.approx(expected[name].item(), rel=1e-10), name


def test_a_loss_trains_all_of_its_own_networks_and_no_others() -> None:
    for objective in ("generators", "discriminators"):
        method = make()
        losses_of(method, batch_for())[objective][0].backward()
        for name, value in method.named_parameters():
            reached = value.grad is not None and bool(value.grad.abs().sum() > 0)
            assert reached == name.startswith(objective), f"{objective} on {name}"


def test_images_are_confined_to_the_brain() -> None:
    method, batch = make(), batch_for()
    made = method.objectives()["generators"].make
    assert made is not None
    images = made(batch)
    brains = {"target": batch.brain, "source": batch.more["target_brain"]}
    for name, brain in (("fake_target", "target"), ("cycle_source", "target"), ("same_source", "target"), ("fake_source", "source"),
                        ("cycle_target", "source"), ("same_target", "source")):  # fmt: skip
        assert (images[name][brains[brain] == 0] == -1).all(), name
        assert images[name][brains[brain] == 1].std() > 0
    assert torch.equal(method.synthesise(batch.sources, batch.brain), images["fake_target"][:3])


# -- the published networks --------------------------------------------------------------------------------------------


def test_the_generator_has_the_published_parameters() -> None:
    """11.378 M with 9 blocks, 3 channels (junyanz/pytorch-CycleGAN-and-pix2pix prints it); ours lacks the biases before a norm, which have
    no effect."""
    idle = 64 + 128 + 256 + 9 * 2 * 256 + 128 + 64
    assert count(published_generator(64, 9, 3, bias=True)) == 11_378_179
    assert count(ResNet(3, 3, 64, 9)) == 11_378_179 - idle
    assert count(ResNet(3, 3, 64, 6)) == count(ResNet(3, 3, 64, 9)) - 3 * 2 * 256 * 256 * 9


def test_the_generator_is_the_published_one() -> None:
    """The output is the same, whatever the biases before a norm."""
    network = ResNet(1, 1, 5, 2).double()
    x = torch.randn(2, 1, 16, 20, dtype=torch.float64)
    assert torch.allclose(holding(published_generator(5, 2), network)(x), network(x), atol=1e-12)
    biased = published_generator(5, 2, bias=True).double()
    weights = [p for p in biased.parameters() if p.dim() > 1] + [list(biased.parameters())[-1]]
    with torch.no_grad():
        for own, given in zip(weights, network.parameters(), strict=True):
            own.copy_(given)
    assert torch.allclose(biased(x), network(x), atol=1e-9)


def test_the_discriminator_sees_70_pixels() -> None:
    assert receptive_field(PatchGAN(1)) == 70
    assert PatchGAN(1, 2)(torch.zeros(1, 1, 160, 160)).shape == (1, 1, 18, 18)
    assert count(PatchGAN(3)) == 2_764_737 - 128 - 256 - 512  # 2.765 M as printed by the same code, less the biases before a norm


@pytest.mark.parametrize(("pixels", "blocks"), [(128, 6), (132, 9)])
def test_blocks_follow_the_image(pixels: int, blocks: int) -> None:
    method = make("method.generator.blocks=0", "method.generator.width=1", size=(pixels, pixels))
    assert sum(type(part).__name__ == "ResidualBlock" for part in method.generators["target"].modules()) == blocks


# -- what is refused ---------------------------------------------------------------------------------------------------


REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: make("variant=simo"), "method cyclegan serves siso and variant simo is simo"),
    (
        lambda: make("method.discriminator.layers=3", size=(20, 20)),
        "layers=3 needs slices of at least 24 pixels and these, padded, are 20x20: set fewer",
    ),
    (lambda: make("method.pool=-1"), "method.pool=-1 must be at least 0"),
    (lambda: make("method.generator.width=0"), "method.generator.width=0 must be at least 1"),
]


@pytest.mark.parametrize(("attempt", "sentence"), REFUSED)
def test_invalid_settings_are_refused_in_one_sentence(attempt: Callable[[], object], sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        attempt()

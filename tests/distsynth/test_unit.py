"""UNIT: its networks are the published ones, and its update equals a literal transcription of the published rule."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from workbench import count, engine_for, leaves, losses_of, unpaired

from distsynth.config import compose
from distsynth.data.batch import Batch
from distsynth.methods.unit import UNIT
from distsynth.networks import keyed
from distsynth.networks.multiscale import MultiScale, most_layers
from distsynth.networks.vae import Autoencoders, decoder, encoder
from preprocess.shared.errors import SettingError

SMALL = ["variant=siso", "method=unit", "method.generator.width=2", "method.generator.blocks=2", "method.discriminator.width=3",
         "method.discriminator.layers=2", "method.discriminator.scales=2"]  # fmt: skip
SIZE = (24, 16)
SIDES = ("source", "target")


def config_of(*words: str) -> Any:
    return compose([*SMALL, "train.lr=1e-2", *words])


def make(*words: str, size: tuple[int, int] = SIZE) -> UNIT:
    config = config_of(*words)
    return UNIT(config.method, config.variant, size, 0).double()


def batch_for(n: int = 2, seed: int = 0, size: tuple[int, int] = SIZE) -> Batch:
    return unpaired(n, seed, size)


# -- the published rule, written out -----------------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3, bias=False), nn.InstanceNorm2d(channels), nn.ReLU(),
            nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3, bias=False), nn.InstanceNorm2d(channels),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class LayerNorm(nn.Module):
    """Over channels and pixels, with a scale and a shift per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = x.mean((1, 2, 3), keepdim=True), x.var((1, 2, 3), keepdim=True, correction=0)
        return (x - mean) / (variance + 1e-5).sqrt() * self.gamma.view(1, -1, 1, 1) + self.beta.view(1, -1, 1, 1)


def down(inputs: int, outputs: int, kernel: int, stride: int, padding: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, bias=False)
    return [nn.ReflectionPad2d(padding), convolution, nn.InstanceNorm2d(outputs), nn.ReLU()]


def up(channels: int) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, channels // 2, 5)
    return [nn.Upsample(scale_factor=2), nn.ReflectionPad2d(2), convolution, LayerNorm(channels // 2), nn.ReLU()]


def published_encoder(w: int) -> nn.Sequential:
    """Without its residual blocks."""
    return nn.Sequential(*down(1, w, 7, 1, 3), *down(w, 2 * w, 4, 2, 1), *down(2 * w, 4 * w, 4, 2, 1))


def published_decoder(w: int) -> nn.Sequential:
    return nn.Sequential(*up(4 * w), *up(2 * w), nn.ReflectionPad2d(3), nn.Conv2d(w, 1, 7), nn.Tanh())


def published_scale(w: int, layers: int) -> nn.Sequential:
    modules: list[nn.Module] = []
    before = 1
    for layer in range(layers):
        modules += [nn.ReflectionPad2d(1), nn.Conv2d(before, w * 2**layer, 4, 2), nn.LeakyReLU(0.2)]
        before = w * 2**layer
    return nn.Sequential(*modules, nn.Conv2d(before, 1, 1))


def holding(network: nn.Module, weights: nn.Module) -> nn.Module:
    """The network with another's weights, in their order."""
    with torch.no_grad():
        for own, given in zip(network.double().parameters(), weights.parameters(), strict=True):
            own.copy_(given)
    return network


class Literal:
    """The published training, sample by sample, from a method's settings and first weights."""

    def __init__(self, method: UNIT, lr: float, betas: tuple[float, float], decay: float) -> None:
        s = self.settings = method.settings
        g, d, w = s.generator, s.discriminator, s.generator.width
        theirs = method.generators
        joint_last, joint_first = ([Residual(4 * w) for _ in range(g.shared)] for _ in range(2))
        for own, shared in ((joint_last, theirs.last), (joint_first, theirs.first)):
            for mine, its in zip(own, shared, strict=True):
                holding(mine, its)
        self.encoders, self.decoders, self.discriminators = {}, {}, {}
        for side in SIDES:
            blocks = [Residual(4 * w) for _ in range(g.blocks - g.shared)]
            plain = holding(nn.Sequential(published_encoder(w), *blocks), theirs.encoders[side])
            self.encoders[side] = nn.Sequential(plain, *joint_last)
            blocks = [Residual(4 * w) for _ in range(g.blocks - g.shared)]
            plain = holding(nn.Sequential(*blocks, published_decoder(w)), theirs.decoders[side])
            self.decoders[side] = nn.Sequential(*joint_first, plain)
            scales = nn.ModuleList(published_scale(d.width, d.layers) for _ in range(d.scales))
            self.discriminators[side] = holding(scales, method.discriminators[side])
        self.halve = nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False)
        self.optimisers = [torch.optim.Adam(network, lr=lr, betas=betas, weight_decay=decay) for network in self.parameters()]

    def parameters(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Those of the generators and those of the discriminators, each once."""
        generators = {p: None for side in SIDES for net in (self.encoders, self.decoders) for p in net[side].parameters()}
        return list(generators), [p for side in SIDES for p in self.discriminators[side].parameters()]

    def discriminate(self, side: str, image: Tensor) -> list[Tensor]:
        logits = []
        for scale in self.discriminators[side]:
            logits.append(scale(image))
            image = self.halve(image)
        return logits

    def against(self, logits: list[Tensor], label: float) -> Tensor:
        if self.settings.gan == "lsgan":
            return sum(((x - label) ** 2).mean() for x in logits)  # type: ignore[return-value]
        return sum(binary_cross_entropy_with_logits(x, torch.full_like(x, label)) for x in logits)  # type: ignore[return-value]

    def noise(self, batch: Batch, i: int, stream: str) -> Tensor:
        w = self.settings.generator.width
        return keyed.normal(batch.seeds(stream), (4 * w, SIZE[0] // 4, SIZE[1] // 4))[i : i + 1].double()

    def confined(self, side: str, code: Tensor, brain: Tensor) -> Tensor:
        return torch.where(brain > 0, self.decoders[side](code), torch.tensor(-1.0, dtype=code.dtype))

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        w, n = self.settings.weights, len(batch)
        sums: dict[str, Any] = {}
        for i in range(n):
            x = {"source": batch.sources[i : i + 1], "target": batch.targets[i : i + 1]}
            brain = {"source": batch.brain[i : i + 1], "target": batch.more["target_brain"][i : i + 1]}
            mean = {side: self.encoders[side](x[side]) for side in SIDES}
            code = {side: mean[side] + self.noise(batch, i, f"code/{side}") for side in SIDES}
            for side, other in (SIDES, SIDES[::-1]):
                recon = self.confined(side, code[side], brain[side])
                across = self.confined(other, code[side], brain[side])  # x[side] translated
                fake = self.confined(side, code[other], brain[other])  # x[other] translated
                again = self.encoders[other](across)
                cycle = self.confined(side, again + self.noise(batch, i, f"again/{side}"), brain[side])
                of_sample = {
                    f"g_{side}": self.against(self.discriminate(side, fake), 1),
                    f"g_recon_{side}": (recon - x[side]).abs().mean(),
                    f"g_kl_{side}": (mean[side] ** 2).mean(),
                    f"g_cycle_{side}": (cycle - x[side]).abs().mean(),
                    f"g_cycle_kl_{side}": (again**2).mean(),
                    f"d_{side}": self.against(self.discriminate(side, x[side]), 1)
                    + self.against(self.discriminate(side, fake.detach()), 0),
                }
                for name, value in of_sample.items():
                    sums[name] = sums.get(name, 0) + value / n
        weights = {"": w.gan, "recon_": w.recon, "kl_": w.kl, "cycle_": w.cycle, "cycle_kl_": w.cycle_kl}
        g_loss = sum(weight * sums[f"g_{name}{side}"] for name, weight in weights.items() for side in SIDES)
        return {"g_loss": g_loss, "d_loss": w.gan * (sums["d_source"] + sums["d_target"]), **sums}

    def update(self, batch: Batch) -> None:
        """The discriminators' step, then the generators' against the updated discriminators."""
        for optimiser, loss in zip(self.optimisers[::-1], ("d_loss", "g_loss"), strict=True):
            for other in self.optimisers:
                other.zero_grad()
            self.terms(batch)[loss].backward()
            optimiser.step()

    def difference(self, method: UNIT) -> float:
        theirs = method.generators
        mine = Literal(method, 1, (0.5, 0.9), 0)  # its weights, in this order
        assert sum(p.numel() for p in theirs.parameters()) == sum(p.numel() for p in mine.parameters()[0])  # each once
        return max(
            float((a - b).detach().abs().max())
            for own, its in zip(self.parameters(), mine.parameters(), strict=True)
            for a, b in zip(own, its, strict=True)
        )


def trained(*words: str, updates: int = 2) -> tuple[UNIT, Literal]:
    """The method and the transcription after so many updates."""
    method = make(*words)
    engine = engine_for(method, config_of(*words).train)
    literal = Literal(method, engine.train.lr, engine.train.betas, engine.train.weight_decay)
    for update in range(updates):
        batch = batch_for(seed=update)
        engine.stage.update(replace(batch, update=update), engine)
        literal.update(batch)
    return method, literal


# Every setting, flipped; the transcription reads them itself.
FLIPPED = {
    "generator.width": 3, "generator.blocks": 1, "generator.shared": 1, "discriminator.width": 4, "discriminator.layers": 1,
    "discriminator.scales": 3, "gan": "nsgan", "weights.gan": 3, "weights.recon": 4, "weights.kl": 1, "weights.cycle": 4,
    "weights.cycle_kl": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def plain() -> UNIT:
    return trained()[0]


@pytest.mark.parametrize("words", [(), ("method.generator.shared=2",), ("method.gan=nsgan", "method.generator.shared=1")])
def test_two_updates_equal_the_literal_rule(words: tuple[str, ...]) -> None:
    method, literal = trained(*words)
    assert literal.difference(method) < 1e-9
    assert literal.difference(make(*words)) > 1e-3


@pytest.mark.parametrize("name", FLIPPED)
def test_each_setting_changes_the_update_as_the_literal_rule_says(name: str, plain: UNIT) -> None:
    method, literal = trained(f"method.{name}={FLIPPED[name]}")
    assert literal.difference(method) < 1e-9
    before, after = (list(m.parameters()) for m in (plain, method))
    shapes = [[p.shape for p in parameters] for parameters in (before, after)]
    assert shapes[0] != shapes[1] or max(float((a - b).detach().abs().max()) for a, b in zip(before, after, strict=True)) > 1e-6


def test_no_setting_is_left_out() -> None:
    assert set(FLIPPED) == set(leaves(make().settings)) - {"name"}


def test_the_losses_equal_the_literal_rule() -> None:
    method, batch = make(), batch_for(3)
    expected = Literal(method, 1e-3, (0.5, 0.999), 0).terms(batch)
    actual = {name: value for _, terms in losses_of(method, batch).values() for name, value in terms.items()}
    assert set(actual) == set(expected)
    for name, value in actual.items():
        assert value.item() == pytest.approx(expected[name].item(), rel=1e-10), name


@pytest.mark.parametrize("shared", [0, 1])
def test_a_loss_trains_all_of_its_own_networks_and_no_others(shared: int) -> None:
    for objective in ("generators", "discriminators"):
        method = make(f"method.generator.shared={shared}")
        losses_of(method, batch_for())[objective][0].backward()
        for name, value in method.named_parameters():
            reached = value.grad is not None and bool(value.grad.abs().sum() > 0)
            assert reached == name.startswith(objective), f"{objective} on {name}"


def test_shared_blocks_are_trained_once_and_by_both() -> None:
    """The optimiser holds each of their parameters once, and each kind of image on its own trains them."""
    method = make("method.generator.shared=1")
    held = [p for group in engine_for(method, config_of().train).optimisers["generators"].param_groups for p in group["params"]]
    assert len(held) == len({id(p) for p in held}) == len(list(method.generators.parameters()))
    for side in SIDES:
        image = torch.randn(1, 1, *SIZE, dtype=torch.float64)
        loss = method.generators.decode(side, method.generators.encode(side, image)).square().sum()
        shared = [*method.generators.last.parameters(), *method.generators.first.parameters()]
        assert len(shared) == 4
        assert all(g.abs().sum() > 0 for g in torch.autograd.grad(loss, shared))


def test_translations_lie_inside_the_brain_that_was_encoded() -> None:
    method, batch = make(), batch_for()
    made = method.translate(batch)
    target_brain = batch.more["target_brain"]
    for name, brain in (("fake_target", batch.brain), ("fake_source", target_brain), ("recon_target", target_brain),
                        ("cycle_source", batch.brain)):  # fmt: skip
        assert (made[name][brain == 0] == -1).all(), name
        assert made[name][brain == 1].std() > 0
    code = method.generators.encode("source", batch.sources)
    plain = torch.where(batch.brain > 0, method.generators.decode("target", code), -1.0)
    assert torch.allclose(method.synthesise(batch.sources, batch.brain), plain)  # without noise


# -- the published networks --------------------------------------------------------------------------------------------


def test_the_networks_have_the_published_parameters() -> None:
    """The sum over the published layers, with one channel; the encoder and the residual blocks lack the biases before a norm, which have no
    effect."""
    blocks = 4 * 2 * 9 * 256**2
    assert count(encoder(1, 64, 4)) == 49 * 64 + 16 * 64 * 128 + 16 * 128 * 256 + blocks
    assert count(decoder(1, 64, 4)) == blocks + 25 * 256 * 128 + 3 * 128 + 25 * 128 * 64 + 3 * 64 + 49 * 64 + 1
    one_scale = 16 * (64 + 64 * 128 + 128 * 256 + 256 * 512) + 64 + 128 + 256 + 512 + 512 + 1
    assert count(MultiScale(1, 64, 4, 3)) == 3 * one_scale
    networks = Autoencoders(64, 4, 0)
    assert count(networks) == 2 * (count(encoder(1, 64, 4)) + count(decoder(1, 64, 4)))
    assert count(networks) - count(Autoencoders(64, 4, 1)) == 2 * blocks / 4  # one encoder's block and one decoder's
    x = torch.zeros(1, 1, 64, 64)
    assert networks.encode("source", x).shape == (1, 256, 16, 16)
    assert networks.decode("target", networks.encode("source", x)).shape == x.shape
    assert [tuple(logits.shape) for logits in MultiScale(1)(x)] == [(1, 1, 4, 4), (1, 1, 2, 2), (1, 1, 1, 1)]


@pytest.mark.parametrize(("pixels", "scales", "layers"), [(160, 3, 5), (64, 3, 4), (56, 3, 3), (56, 1, 5), (8, 3, 1), (4, 3, 0)])
def test_the_discriminators_have_as_many_layers_as_fit(pixels: int, scales: int, layers: int) -> None:
    assert most_layers((pixels, 2 * pixels), scales) == layers
    if layers:
        MultiScale(1, 1, layers, scales)(torch.zeros(1, 1, pixels, 2 * pixels))
    with pytest.raises(RuntimeError):
        MultiScale(1, 1, layers + 1, scales)(torch.zeros(1, 1, pixels, 2 * pixels))


# -- what is refused ---------------------------------------------------------------------------------------------------

REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: make("variant=miso_flair"), "method unit serves siso and variant miso_flair is miso"),
    (
        lambda: make("method.discriminator.layers=4", "method.discriminator.scales=3", size=(56, 56)),
        r"layers=4 and method.discriminator.scales=3 are too many for slices of 56x56: at most 3 layers at 3 scales, 5 at 1",
    ),
    (lambda: make("method.generator.shared=3"), "method.generator.shared=3 is more than method.generator.blocks=2"),
    (lambda: make("method.discriminator.scales=0"), "method.discriminator.scales=0 must be at least 1"),
]


@pytest.mark.parametrize(("attempt", "sentence"), REFUSED)
def test_invalid_settings_are_refused_in_one_sentence(attempt: Callable[[], object], sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        attempt()

"""Unified GAN: networks, losses and updates against literal transcriptions."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from workbench import CPU, count, leaves, losses_of

from distsynth.config import Config, compose
from distsynth.data.batch import Batch
from distsynth.data.intensity_map import IntensityMap
from distsynth.data.randomness import sample_keys
from distsynth.methods import registry
from distsynth.methods.unified_gan import UnifiedGAN
from distsynth.modalities import Variant
from distsynth.networks.critic import Critic
from distsynth.training.engine import Engine
from distsynth.training.model import Model
from preprocess.cohort import Cohort
from preprocess.shared.errors import SettingError

N = 8
TINY = ["method=unified_gan", f"method.patch={N}", "method.core=4", "method.n_critic=2", "method.generator.width=2",
        "method.generator.blocks=1", "method.generator.kernel=3", "method.critic.width=2", "train.lr=1e-3"]  # fmt: skip


def config_of(*words: str) -> Config:
    return compose([*TINY, "variant=simo", *words])


def make(config: Config) -> UnifiedGAN:
    return UnifiedGAN(config.method, config.variant, (20, 20), 0).double()


def batch_for(config: Config, n: int = 3, seed: int = 0, side: int = N) -> Batch:
    g = torch.Generator().manual_seed(seed)
    brain = torch.zeros(n, 1, side, side, side)
    brain[..., 1:, 1:-1, 2:] = 1
    images = torch.rand(n, len(config.variant.modalities), side, side, side, generator=g) * 2 * brain - 1
    parts = (images[:, :1], images[:, 1:], brain, torch.zeros_like(brain))
    return Batch(*(part.double() for part in parts), sample_keys(np.arange(n), seed))


# -- networks ------------------------------------------------------------------------------------------------------------


def test_full_size_networks() -> None:
    """By hand: kernels of k^3 in place of k^2; 5 levels leave 2 x 2 x 2 of 72, as StarGAN's 6 leave 2 x 2 of 128."""
    config = compose(["method=unified_gan"])
    with torch.device("meta"):
        method = UnifiedGAN(config.method, config.variant, (72, 72), 0)
        generator, critic = method.generator, method.critic
        patches = torch.empty(2, 1, 72, 72, 72)
        made, (value, classes) = generator(torch.empty(2, 5, 72, 72, 72)), critic(patches)
        real = critic.map(critic.trunk(patches))
    ends, norms = 343 * 64 * (5 + 1), 2 * (2 * 64 + 2 * 128 + 256 + 12 * 256)
    assert count(generator) == ends + 2 * 64 * (64 * 128 + 128 * 256) + 12 * 27 * 256**2 + norms
    channels = [1, 64, 128, 256, 512, 1024]
    trunk = sum(64 * a * b + b for a, b in pairwise(channels))
    assert count(critic) == trunk + 1024 * 27 + 1024 * 4 * 8
    assert (made.shape, real.shape, classes.shape) == ((2, 1, 72, 72, 72), (2, 1, 2, 2, 2), (2, 4))
    assert (value.shape, critic.places) == ((2,), 8)


def test_a_value_of_the_critics_map_sees_most_of_the_patch() -> None:
    """Computed from a gradient: what a corner of the map sees, at 5 levels of a patch of 72."""
    critic = Critic(1, 4, 1, 5, (72, 72, 72))
    for parameter in critic.parameters():
        nn.init.constant_(parameter, 0.01)
    image = torch.ones(1, 1, 72, 72, 72, requires_grad=True)
    critic.trunk(image)[0, 0, 0, 0, 0].backward()
    assert image.grad is not None
    seen = image.grad[0, 0].nonzero()
    assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [63, 63, 63]  # of 94, 31 lie in the padding before the image


# -- the literal rule ----------------------------------------------------------------------------------------------------


def literal_norm(x: Tensor, p: Iterator[Tensor]) -> Tensor:
    mean, variance = x.mean((2, 3, 4), keepdim=True), x.var((2, 3, 4), keepdim=True, unbiased=False)
    scale, shift = (next(p).view(1, -1, 1, 1, 1) for _ in range(2))
    return (x - mean) / torch.sqrt(variance + 1e-5) * scale + shift


def literal_generator(network: nn.Module, g: Any, x: Tensor) -> Tensor:
    p, half = iter(network.parameters()), g.kernel // 2
    h = F.relu(literal_norm(F.conv3d(x, next(p), padding=half), p))
    for _ in range(g.downs):
        h = F.relu(literal_norm(F.conv3d(h, next(p), stride=2, padding=1), p))
    for _ in range(g.blocks):
        inner = F.relu(literal_norm(F.conv3d(h, next(p), padding=1), p))
        h = h + literal_norm(F.conv3d(inner, next(p), padding=1), p)
    for _ in range(g.downs):
        h = F.relu(literal_norm(F.conv_transpose3d(h, next(p), stride=2, padding=1), p))
    if g.direct:
        h = torch.cat([h, F.leaky_relu(F.conv3d(x, next(p), next(p)), 0.2)], 1)
        h = F.conv3d(F.leaky_relu(F.conv3d(h, next(p), next(p)), 0.2), next(p), next(p))
    else:
        h = F.conv3d(h, next(p), padding=half)
    assert next(p, None) is None
    return torch.tanh(h)


def literal_critic(network: nn.Module, depth: int, x: Tensor) -> tuple[Tensor, Tensor]:
    p = iter(network.parameters())
    for _ in range(depth):
        x = F.leaky_relu(F.conv3d(x, next(p), next(p), stride=2, padding=1), 0.01)
    scores = F.conv3d(x, next(p), padding=1), F.conv3d(x, next(p))[:, :, 0, 0, 0]
    assert next(p, None) is None
    return scores


class Literal:
    """The rule of the paper and of StarGAN, written out sample by sample; it reads the settings itself."""

    def __init__(self, method: UnifiedGAN, config: Config) -> None:
        self.m, self.s, self.train = deepcopy(method), config.method, config.train
        self.depth = self.s.critic.depth or {8: 2}[self.s.patch]
        self.optimisers = {
            name: torch.optim.Adam(net.parameters(), config.train.lr, config.train.betas) for name, net in self.m.named_children()
        }

    def generate(self, image: Tensor, number: int, brain: Tensor) -> Tensor:
        maps = torch.zeros(1, self.m.classes, *image.shape[2:], dtype=image.dtype)
        maps[:, number] = 1
        made = literal_generator(self.m.generator, self.s.generator, torch.cat([image, maps], 1))
        return torch.where(brain > 0, made, torch.tensor(-1.0, dtype=image.dtype))

    def samples(self, batch: Batch) -> Iterator[tuple[Tensor, int, Tensor, int, Tensor, float]]:
        """x, its label, y, its label, brain, share of the penalty."""
        images = torch.cat([batch.sources, batch.targets], 1)
        draws = [batch.uniform(stream).tolist() for stream in ("source", "target", "penalty")]
        for i, (source, target, share) in enumerate(zip(*draws, strict=True)):
            modalities = list(range(self.m.classes))
            a = 0 if self.s.directions == "given" else modalities[int(source * len(modalities))]
            others = modalities[a + 1 :] + modalities[:a]
            c = others[int(target * len(others))]
            yield images[i, a][None, None], a, images[i, c][None, None], c, batch.brain[i : i + 1], share

    def critic_terms(self, batch: Batch) -> dict[str, Tensor]:
        sums: dict[str, Any] = dict.fromkeys(["d_real", "d_fake", "d_cls", "d_gp"], 0.0)
        for x, _, y, c, brain, share in self.samples(batch):
            fake = self.generate(x, c, brain).detach()
            (real_map, real_class), (fake_map, _) = (literal_critic(self.m.critic, self.depth, v) for v in (y, fake))
            between = (share * y + (1 - share) * fake).requires_grad_()
            total = literal_critic(self.m.critic, self.depth, between)[0].sum()
            (slope,) = torch.autograd.grad(total, between, create_graph=True)
            sums["d_real"] = sums["d_real"] - real_map.mean() / len(batch)
            sums["d_fake"] = sums["d_fake"] + fake_map.mean() / len(batch)
            sums["d_cls"] = sums["d_cls"] - torch.log(real_class.exp()[0, c] / real_class.exp().sum()) / len(batch)
            sums["d_gp"] = sums["d_gp"] + (slope.square().sum().sqrt() - 1) ** 2 / len(batch)
        w = self.s.weights
        sums["d_loss"] = w.delta * sums["d_real"] + w.delta * sums["d_fake"] + w.alpha * sums["d_cls"] + w.gp * sums["d_gp"]
        return sums

    def generator_terms(self, batch: Batch) -> dict[str, Tensor]:
        sums: dict[str, Any] = dict.fromkeys(["g_fake", "g_cls", "g_syn", "g_cyc"], 0.0)
        for x, a, y, c, brain, _ in self.samples(batch):
            fake = self.generate(x, c, brain)
            fake_map, classes = literal_critic(self.m.critic, self.depth, fake)
            sums["g_fake"] = sums["g_fake"] - fake_map.mean() / len(batch)
            sums["g_cls"] = sums["g_cls"] - torch.log(classes.exp()[0, c] / classes.exp().sum()) / len(batch)
            sums["g_syn"] = sums["g_syn"] + (y - fake).abs().sum() / y.numel() / len(batch)
            sums["g_cyc"] = sums["g_cyc"] + (x - self.generate(fake, a, brain)).abs().sum() / x.numel() / len(batch)
        w = self.s.weights
        sums["g_loss"] = w.mu * sums["g_fake"] + w.alpha * sums["g_cls"] + w.beta * sums["g_syn"] + w.gamma * sums["g_cyc"]
        return sums

    def update(self, batch: Batch, number: int) -> None:
        self.step("critic", self.critic_terms(batch)["d_loss"])
        if (number + 1) % self.s.n_critic == 0:
            self.step("generator", self.generator_terms(batch)["g_loss"])

    def step(self, name: str, loss: Tensor) -> None:
        self.m.zero_grad(set_to_none=True)
        loss.backward()
        self.optimisers[name].step()


def updated(method: UnifiedGAN, config: Config, updates: int = 2) -> dict[str, Tensor]:
    stage = method.stages(config.train)[0]
    engine = Engine(method, stage, config.train, CPU)
    for number in range(updates):
        stage.update(replace(batch_for(config, seed=number), update=number), engine)
    return {name: value.clone() for name, value in method.state_dict().items()}


def differ(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in a)


FLIPPED = ["weights.alpha=0.7", "weights.beta=1.5", "weights.gamma=3", "weights.delta=0.4", "weights.mu=2", "weights.gp=4", "n_critic=1",
           "n_critic=3", "directions=given", "generator.width=3", "generator.downs=1", "generator.blocks=2", "generator.kernel=5",
           "generator.direct=true", "critic.width=3", "critic.depth=1"]  # fmt: skip


@pytest.mark.parametrize("setting", ["", *FLIPPED])
def test_two_updates_equal_the_literal_rule_at_every_setting(setting: str) -> None:
    words = [f"method.{setting}"] if setting else []
    config = config_of(*words)
    method = make(config)
    literal = Literal(method, config)
    start = {name: value.clone() for name, value in method.state_dict().items()}
    for number in range(2):
        literal.update(batch_for(config, seed=number), number)
    actual = updated(method, config)
    assert differ(actual, start) > 5e-4
    # Adam divides by a gradient's own size: one of 1e-9 is rounded in its first digits.
    assert differ(actual, literal.m.state_dict()) < 1e-9
    base = updated(make(config_of()), config_of())
    same_networks = {name: v.shape for name, v in actual.items()} == {name: v.shape for name, v in base.items()}
    assert not setting or not same_networks or differ(actual, base) > 1e-6


def test_no_setting_is_left_out(store: Path) -> None:
    """Settings that do not affect the update belong to the feed (`patch` and `patches`) or to the assembly."""
    flipped = {setting.partition("=")[0] for setting in FLIPPED}
    assert set(leaves(make(config_of()).settings)) - {"name"} == flipped | {"patch", "patches", "assembly", "core"}
    config = config_of("method.patch=12", "method.core=4", "method.patches=3")
    cohort = Cohort.open(store)
    subjects, mapping = cohort.split("gan"), IntensityMap.of(cohort, cohort.split("gan"))
    feed = Model(make(config), config.variant, mapping, (40, 40)).feed(cohort, subjects, config.data, CPU.share)
    assert len(feed) == 3 * len(subjects)
    assert next(feed.batches("joint", 0, 0, 2, range(1), 0, 1)).sources.shape == (2, 1, 12, 12, 12)


@pytest.mark.parametrize("variant", ["siso", "simo", "simo_t1"])
def test_the_terms_equal_the_literal_ones(variant: str) -> None:
    config = config_of(f"variant={variant}")
    method, batch = make(config), batch_for(config)
    literal = Literal(method, config)
    expected = literal.critic_terms(batch) | literal.generator_terms(batch)
    actual = {name: value for _, terms in losses_of(method, batch).values() for name, value in terms.items()}
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        assert value.item() == pytest.approx(expected[name].item(), rel=1e-9), name


def test_the_published_weights_are_the_defaults() -> None:
    w = compose(["method=unified_gan"]).method.weights
    assert (w.alpha, w.beta, w.gamma, w.delta, w.mu, w.gp) == (2, 5, 10, 2, 0.1, 10)
    assert (compose(["method=unified_gan"]).method.patch, compose(["method=unified_gan"]).method.core) == (72, 48)


@pytest.mark.parametrize("objective", ["critic", "generator"])
def test_a_loss_trains_all_of_its_own_network_and_no_other(objective: str) -> None:
    config = config_of("method.generator.direct=true")
    method = make(config)
    losses_of(method, batch_for(config))[objective][0].backward()
    for name, child in method.named_children():
        for parameter, value in child.named_parameters():
            reached = value.grad is not None and bool(value.grad.abs().sum() > 0)
            assert reached == (name == objective), f"{objective} on {name}.{parameter}"


def test_micro_batches_and_channels_last_are_only_a_way_to_compute() -> None:
    from distsynth.training.precision import lay_out

    config, parts = config_of(), config_of("train.micro_batch=1")
    whole = updated(make(config), config)
    assert differ(whole, updated(make(parts), parts)) < 1e-9
    last = make(config)
    lay_out(last, True)
    assert last.critic.trunk[0].weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert differ(whole, updated(last, config)) < 1e-9


def test_weights_that_the_norm_makes_idle_stay_where_they_are() -> None:
    """The middle tap of each label map: it changes no output, and its gradient is exactly zero, without rounding."""
    config = config_of()
    method = make(config)
    batch = batch_for(config)
    before, first = method.synthesise(batch.sources, batch.brain), method.generator.first.weight
    losses_of(method, batch)["generator"][0].backward()
    assert first.grad is not None
    assert (first.grad[:, 1:, 1, 1, 1] == 0).all()
    assert (first.grad[:, 0] != 0).all()
    with torch.no_grad():
        first[:, 1:, 1, 1, 1] += 3
    assert torch.allclose(method.synthesise(batch.sources, batch.brain), before)


def test_the_generator_runs_once_for_both_losses() -> None:
    config = config_of("method.n_critic=1")
    method = make(config)
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    method.generator.register_forward_hook(count)
    updated(method, config, 1)
    assert passes == 2  # the patch and its cycle


def test_every_pair_is_drawn_alike_and_none_of_one_modality() -> None:
    config = config_of()
    method, batch = make(config), batch_for(config, 1)
    many = replace(batch.map(lambda t: t.expand(6000, *t.shape[1:]), batch.keys), keys=sample_keys(np.arange(6000), 3))
    (_, a), (_, c) = method.draw(many)
    counts = torch.zeros(4, 4).index_put((a, c), torch.ones(6000), accumulate=True)
    assert counts.diagonal().sum() == 0
    assert counts[~torch.eye(4, dtype=torch.bool)].sub(500).abs().max() < 100


# -- whole volumes, presets, refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "keep", "stride"), [(["core=4"], 4, 4), (["assembly=average", "core=5"], 8, 3)])
def test_a_volume_is_assembled_as_the_settings_say(words: list[str], keep: int, stride: int) -> None:
    """Against a plain loop: each patch on its own, keeping the middle or averaging overlaps."""
    config = config_of(*(f"method.{word}" for word in words))
    method = make(config)
    volume = torch.rand(11, 1, 9, 14, dtype=torch.float64) * 2 - 1
    brain = torch.ones_like(volume)
    brain[:2] = 0
    volume[:2] = -1
    made = method.synthesise_volume(volume, brain)
    assert made.shape == (11, 3, 9, 14)
    assert (made[:2] == -1).all()
    margin, far = (N - keep) // 2, 20
    wide = F.pad(volume[:, 0], [far] * 6, value=-1)
    mask = F.pad(brain[:, 0], [far] * 6)
    total, count = torch.zeros(3, *wide.shape, dtype=torch.float64), torch.zeros(wide.shape)
    steps = [max(0, -(-(n - keep) // stride)) for n in (11, 9, 14)]
    first = [far - (keep + more * stride - n) // 2 for more, n in zip(steps, (11, 9, 14), strict=True)]
    for index in np.ndindex(*(more + 1 for more in steps)):
        corner = [f + i * stride - margin for f, i in zip(first, index, strict=True)]
        box = tuple(slice(c, c + N) for c in corner)
        kept = tuple(slice(c + margin, c + margin + keep) for c in corner)
        patch = method.synthesise(wide[box][None, None], mask[box][None, None])[0]
        total[(slice(None), *kept)] += patch[(slice(None), *[slice(margin, margin + keep)] * 3)]
        count[kept] += 1
    inside = (slice(far, far + 11), slice(far, far + 9), slice(far, far + 14))
    assert torch.allclose(made.transpose(0, 1), (total / count)[(slice(None), *inside)])


def test_outputs_follow_their_labels() -> None:
    config = config_of()
    method, batch = make(config), batch_for(config)
    made = method.synthesise(batch.sources, batch.brain)
    for i in range(3):
        assert torch.equal(made[:, i : i + 1], method.generate(batch.sources, torch.full((3,), i + 1), batch.brain))
    assert (made[(batch.brain == 0).expand_as(made)] == -1).all()
    assert made.abs().max() <= 1


def test_any_pair_of_its_contrasts_is_served_by_the_same_networks() -> None:
    config = config_of()
    method, batch = make(config), batch_for(config)
    assert method.modalities == ["t2", "t1", "t1c", "flair"]
    method.serve(Variant("back", ["t1c"], ["flair", "t2"]))
    made = method.synthesise(batch.sources, batch.brain)
    for i, number in enumerate((3, 0)):
        assert torch.equal(made[:, i : i + 1], method.generate(batch.sources, torch.full((3,), number), batch.brain))
    with pytest.raises(SettingError, match="method unified_gan serves siso, simo and variant two is miso"):
        registry.check_serves(method, Variant("two", ["t1", "t2"], ["flair"]))
    one_way = make(config_of("method.directions=given"))
    with pytest.raises(SettingError, match=r"was trained only for variant simo \(method\.directions=given\)"):
        one_way.serve(Variant("back", ["t1c"], ["flair"]))


def test_the_average_preset_differs_only_in_its_assembly() -> None:
    one, other = (compose([f"method={preset}"]) for preset in ("unified_gan", "unified_gan_average"))
    assert replace(other.method, assembly="centre") == one.method
    assert (one.train, one.method.assembly) == (other.train, "centre")


def test_initial_weights_depend_only_on_the_seed() -> None:
    torch.manual_seed(1)
    first = make(config_of()).state_dict()
    torch.manual_seed(2)
    second = make(config_of()).state_dict()
    assert differ(first, second) == 0


@pytest.mark.parametrize(("words", "sentence"), [
    (["variant=mimo"], "method unified_gan serves siso, simo and variant mimo is mimo"),
    (["variant=miso_t1c"], "method unified_gan serves siso, simo and variant miso_t1c is miso"),
    (["method.patch=70"], "method.patch=70 must be a multiple of 4, at least 8, for generator.downs=2: 68 or 72"),
    (["method.patch=4"], "method.patch=4 must be a multiple of 4, at least 8"),
    (["method.core=9"], "method.core=9 must be at most 8 for patches of 8 and assembly=centre"),
    (["method.core=8", "method.assembly=average"], "method.core=8 must be at most 7"),
    (["method.generator.kernel=4"], "method.generator.kernel=4 must be odd: 3 or 5"),
    (["method.n_critic=0"], "method.n_critic=0 must be at least 1"),
])  # fmt: skip
def test_settings_that_do_not_fit_are_refused_naming_ones_that_do(words: list[str], sentence: str) -> None:
    with pytest.raises(SettingError) as refused:
        config_of(*words)
    assert sentence in str(refused.value)


def test_too_deep_a_critic_is_refused() -> None:
    with pytest.raises(SettingError, match=r"method\.critic\.depth=4 is too deep for patches of 8: at most 3"):
        make(config_of("method.critic.depth=4"))

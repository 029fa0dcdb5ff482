"""StarGAN: each loss moves its own network, and its updates equal a literal transcription of the published rule, for every setting."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from workbench import CPU, count, losses_of

from distsynth.config import compose
from distsynth.data.batch import Batch
from distsynth.data.randomness import sample_keys
from distsynth.methods.stargan import StarGAN, StarGANSettings
from distsynth.networks.critic import Critic, stargan_depth
from distsynth.networks.stargan import Generator
from distsynth.training.engine import Engine
from preprocess.shared.errors import SettingError
from preprocess.shared.settings import describe

SIZE = (32, 32)
SMALL = ["method=stargan", "method.generator.width=3", "method.generator.blocks=1", "method.critic.width=3", "method.critic.depth=3",
         "method.n_critic=2", "train.lr=1e-3"]  # fmt: skip
TWO = "method.groups=[[t2,t1,t1c],[t2,flair]]"


def make(*words: str) -> StarGAN:
    config = compose([*SMALL, *words])
    return StarGAN(config.method, config.variant, SIZE, 0).double()


def batch_for(method: StarGAN, n: int = 6, seed: int = 0, present: list[list[float]] | None = None) -> Batch:
    g = torch.Generator().manual_seed(seed)
    brain = torch.zeros(n, 1, *SIZE, dtype=torch.float64)
    brain[..., 6:26, 6:26] = 1
    images = torch.rand(n, len(method.modalities), *SIZE, generator=g, dtype=torch.float64) * 2 - 1
    images = images * brain + brain - 1
    batch = Batch(images[:, :1], images[:, 1:], brain, torch.zeros_like(brain), sample_keys(np.arange(n), seed))
    if present is None:
        return batch
    rows = torch.tensor(present, dtype=torch.float64)
    return batch.having(present=rows.repeat(n // len(rows) + 1, 1)[:n])


LACKING = [
    [1.0, 1, 1, 0],
    [1, 0, 0, 1],
    [1, 0, 1, 0],
]  # of t2, t1, t1c, flair: the first group, the second, and a part of the first


# -- the networks ------------------------------------------------------------------------------------------------------


def test_full_size_networks_have_the_published_parameters() -> None:
    """Counted from the published code's layers (yunjey/stargan, model.py, which prints them): with RGB and CelebA's 5 attributes G has
    8,430,528 and D 44,762,048; RaFD's 8 expressions make that 44,786,624."""
    assert count(Generator(3 + 5, 3)) == 8_430_528
    assert count(Critic(3, 5, 64, 6, (128, 128))) == 44_762_048
    assert count(Critic(3, 8, 64, 6, (128, 128))) == 44_786_624
    config = compose(["method=stargan", "variant=simo"])
    method = StarGAN(config.method, config.variant, (128, 128), 0)
    # One channel of 3 in and out, and four labels for five.
    assert count(method.generator) == 8_430_528 - 64 * 49 * (2 + 1) - 64 * 49 * 2
    assert count(method.critic) == 44_762_048 - 2 * 64 * 16 - 2048 * 4
    assert method.generator(torch.zeros(1, 5, 32, 40)).shape == (1, 1, 32, 40)


@pytest.mark.parametrize(("size", "depth"), [((256, 256), 6), ((128, 128), 6), ((160, 160), 6), ((56, 56), 4), ((32, 64), 4)])
def test_the_critics_depth_follows_the_image(size: tuple[int, int], depth: int) -> None:
    assert stargan_depth(0, size, "method.critic.depth") == depth


@pytest.mark.parametrize("variant", ["siso", "simo", "simo_t1"])
def test_every_output_is_confined_to_the_brain(variant: str) -> None:
    method = make(f"variant={variant}")
    batch = batch_for(method)
    made = method.synthesise(batch.sources, batch.brain)
    assert made.shape == (6, len(method.variant.outputs), *SIZE)
    assert (made[(batch.brain == 0).expand_as(made)] == -1).all()
    assert made[(batch.brain == 1).expand_as(made)].std() > 0
    if len(method.variant.outputs) > 1:
        assert not torch.equal(made[:, 0], made[:, 1])  # the label tells


def test_initial_weights_depend_only_on_the_seed_and_are_torchs_defaults() -> None:
    torch.manual_seed(1)
    first = make()
    torch.manual_seed(2)
    second = make()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    weight = first.critic.trunk[2].weight
    torch.nn.Conv2d(3, 6, 4)  # uniform within 1 / sqrt(3 * 16)
    assert weight.abs().max() <= 48**-0.5
    assert weight.std().item() == pytest.approx((48 * 3) ** -0.5, rel=0.1)


# -- the losses and the update -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("objective", "network"), [("critic", "critic"), ("generator", "generator")])
def test_a_loss_trains_all_of_its_own_network_and_no_other(objective: str, network: str) -> None:
    method = make(TWO)
    loss, _ = losses_of(method, batch_for(method, present=LACKING))[objective]
    loss.backward()
    for name, child in method.named_children():
        for parameter, value in child.named_parameters():
            reached = value.grad is not None and bool(value.grad.abs().sum() > 0)
            assert reached == (name == network), f"{objective} on {name}.{parameter}"


def literal(method: StarGAN, batch: Batch, settings: StarGANSettings) -> dict[str, Tensor]:
    """The published rule, sample by sample, labels and masks written out."""
    modalities, n = method.modalities, len(batch)
    groups = [[m for m in modalities if m in group] for group in settings.groups] or [modalities]
    places = [(g, m) for g, group in enumerate(groups) for m in group]
    has = batch.more["present"].tolist() if "present" in batch.more else [[1] * len(modalities)] * n
    at = {stream: batch.uniform(stream).tolist() for stream in ("source", "target", "penalty")}
    sums = dict.fromkeys(["d_real", "d_fake", "d_cls", "d_gp", "g_fake", "g_cls", "g_rec"], torch.zeros((), dtype=torch.float64))
    for i in range(n):
        held = [m for m, there in zip(modalities, has[i], strict=True) if there]
        group = min((g for g in range(len(groups)) if set(held) <= set(groups[g])), key=lambda g: len(groups[g]))
        source, target = held[int(at["source"][i] * len(held))], groups[group][int(at["target"][i] * len(groups[group]))]
        brain = batch.brain[i : i + 1]
        x = torch.cat([batch.sources, batch.targets], 1)[i, modalities.index(source)][None, None]

        def translate(image: Tensor, modality: str, group: int = group, brain: Tensor = brain) -> Tensor:
            label = [float(place == (group, modality)) for place in places]
            mask = [float(g == group) for g in range(len(groups))] if len(groups) > 1 else []
            maps = torch.tensor(label + mask, dtype=torch.float64).view(1, -1, 1, 1) * torch.ones(1, 1, *SIZE)
            maps = maps * brain if settings.generator.labels == "brain" else maps
            return torch.where(brain > 0, method.generator(torch.cat([image, maps], 1)), torch.tensor(-1.0).double())

        def criticise(image: Tensor) -> tuple[Tensor, Tensor]:
            features = method.critic.trunk(image)
            return method.critic.map(features), method.critic.classifier(features)[0, :, 0, 0]

        def cross(logits: Tensor, modality: str, group: int = group) -> Tensor:
            own = {m: logits[p] for p, (g, m) in enumerate(places) if g == group}
            return -(own[modality] - torch.logsumexp(torch.stack(list(own.values())), 0))

        fake = translate(x, target)
        back = translate(fake, source)
        (on_real, class_real), (on_fake, _) = criticise(x), criticise(fake.detach())
        between = (at["penalty"][i] * x + (1 - at["penalty"][i]) * fake).detach().requires_grad_()
        (slope,) = torch.autograd.grad(criticise(between)[0].sum(), between, create_graph=True)
        on_moved, class_moved = criticise(fake)
        of_sample = {
            "d_real": -on_real.mean(), "d_fake": on_fake.mean(), "d_cls": cross(class_real, source), "d_gp": (slope.norm() - 1) ** 2,
            "g_fake": -on_moved.mean(), "g_cls": cross(class_moved, target), "g_rec": (x - back).abs().mean(),
        }  # fmt: skip
        sums = {name: sums[name] + value / n for name, value in of_sample.items()}
    w = settings.weights
    sums["d_loss"] = sums["d_real"] + sums["d_fake"] + w.cls * sums["d_cls"] + w.gp * sums["d_gp"]
    sums["g_loss"] = sums["g_fake"] + w.cls * sums["g_cls"] + w.rec * sums["g_rec"]
    return sums


def trained_literally(method: StarGAN, batches: list[Batch]) -> StarGAN:
    settings = method.settings
    d, g = (torch.optim.Adam(net.parameters(), 1e-3, (0.5, 0.999)) for net in (method.critic, method.generator))
    for number, batch in enumerate(batches):
        d.zero_grad()
        literal(method, batch, settings)["d_loss"].backward()
        d.step()
        if (number + 1) % settings.n_critic == 0:
            g.zero_grad()
            literal(method, batch, settings)["g_loss"].backward()
            g.step()
    return method


def trained(method: StarGAN, batches: list[Batch]) -> StarGAN:
    train = compose(SMALL).train
    stage = method.stages(train)[-1]
    engine = Engine(method, stage, train, CPU)
    for number, batch in enumerate(batches):
        stage.update(replace(batch, update=number), engine)
    return method


@pytest.mark.parametrize("words", [[], [TWO], ["variant=siso"], ["method.generator.labels=brain", TWO]])
def test_the_losses_equal_the_literal_rule(words: list[str]) -> None:
    method = make(*words)
    batch = batch_for(method, present=LACKING if TWO in words else None)
    expected = literal(method, batch, method.settings)
    for name in ("critic", "generator"):
        _, terms = losses_of(method, batch)[name]
        for term, value in terms.items():
            assert value.item() == pytest.approx(expected[term].item(), rel=1e-9), term


SETTINGS = {
    "weights.cls": "3", "weights.rec": "4", "weights.gp": "2", "n_critic": "1", "generator.labels": "brain", "generator.direct": "true",
    "groups": TWO.partition("=")[2], "generator.width": "4", "generator.blocks": "2", "critic.width": "4", "critic.depth": "2",
}  # fmt: skip


def test_no_setting_goes_untested() -> None:
    assert {line.split("=")[0].strip() for line in describe(StarGANSettings)} == {*SETTINGS, "name"}


@pytest.fixture(scope="module")
def default() -> dict[str, Tensor]:
    """The weights that two updates make with the settings as they are."""
    method = make()
    return trained(method, [batch_for(method, seed=seed, present=LACKING[1:]) for seed in (0, 1)]).state_dict()


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_changes_two_updates_as_it_changes_the_literal_rule(setting: str, default: dict[str, Tensor]) -> None:
    method = make(f"method.{setting}={SETTINGS[setting]}")
    batches = [batch_for(method, seed=seed, present=LACKING[1:]) for seed in (0, 1)]
    expected = trained_literally(deepcopy(method), batches).state_dict()
    actual = trained(method, batches).state_dict()
    for name, value in expected.items():
        assert torch.allclose(actual[name], value, rtol=1e-7, atol=1e-9), name
    if {name: value.shape for name, value in actual.items()} == {name: value.shape for name, value in default.items()}:
        assert not all(torch.allclose(actual[name], value, atol=1e-6) for name, value in default.items())


def test_the_generators_images_are_made_once_for_both_steps() -> None:
    method = make()
    calls = []
    method.generator.register_forward_hook(lambda *_: calls.append(1))
    trained(method, [batch_for(method)] * 2)
    assert len(calls) == 1 + 2  # for the critic only; then there and back, for both


# -- patients who lack contrasts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [[TWO], ["method.groups=[[t2,t1,t1c,flair]]"]])
def test_the_values_of_a_missing_contrast_have_no_effect(words: list[str]) -> None:
    method = make(*words)
    batch = batch_for(method, present=LACKING)
    missing = batch.more["present"][:, :, None, None] == 0
    images = torch.cat([batch.sources, batch.targets], 1)
    other = images.where(~missing, torch.rand_like(images))
    disturbed = replace(batch, sources=other[:, :1], targets=other[:, 1:])
    first, second = (trained(deepcopy(method), [b, b]).state_dict() for b in (batch, disturbed))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_patient_belongs_to_the_smallest_group_that_has_all_its_contrasts() -> None:
    method = make("method.groups=[[t2,t1,t1c,flair],[t2,t1c],[t2,flair]]")
    rows = [[1.0, 1, 1, 1], [1, 0, 1, 0], [1, 0, 0, 1], [1, 1, 0, 0]]
    drawn = method.draw(batch_for(method, 40, present=rows))
    assert drawn.group.tolist() == [0, 1, 2, 0] * 10
    for i, (source, target) in enumerate(zip(drawn.source.tolist(), drawn.target.tolist(), strict=True)):
        assert rows[i % 4][source] == 1
        assert method.held[drawn.group[i], target]
    assert set(drawn.target[3::4].tolist()) > {0, 1}  # missing ones are asked for too where the group has them


def test_the_mask_vector_marks_the_group_and_its_part_of_the_label() -> None:
    method = make(TWO)
    at = {name: i for i, name in enumerate(method.modalities)}
    label = method.label(torch.tensor([0, 1, 1]), torch.tensor([at["t1c"], at["t2"], at["flair"]]))
    assert label.tolist() == [[0, 0, 1, 0, 0, 1, 0], [0, 0, 0, 1, 0, 0, 1], [0, 0, 0, 0, 1, 0, 1]]
    assert make().label(torch.tensor([0]), torch.tensor([2])).tolist() == [[0, 0, 1, 0]]


def test_the_classification_loss_covers_only_the_samples_own_group() -> None:
    method = make(TWO)
    logits = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    method.classification(logits, torch.tensor([0, 1]), torch.tensor([1, 3])).backward()
    assert logits.grad is not None
    assert (logits.grad != 0).tolist() == [[True, True, True, False, False], [False, False, False, True, True]]


def test_synthesis_uses_a_group_that_has_both_contrasts_or_the_target() -> None:
    method = make("method.groups=[[t1,t1c],[t2,t1],[t2,flair]]")
    at = {name: i for i, name in enumerate(method.modalities)}
    assert [method.group_for(at["t2"], at[target]) for target in ("t1", "t1c", "flair")] == [1, 0, 2]


@pytest.mark.parametrize(("words", "sentence"), [
    (["variant=mimo"], "method stargan serves siso, simo and variant mimo is mimo"),
    (["variant=miso_t1c"], "serves siso, simo and variant miso_t1c is miso"),
    (["method.groups=[[t2,t1],[t2,t1c]]"], "no group of method.groups holds flair"),
    (["method.groups=[[t2,t1,t1c,flair],[pd]]"], "method.groups names 'pd': the variant's contrasts are t2, t1, t1c, flair"),
    (["method.groups=[[t2,t1,t1c,flair],[]]"], "method.groups has an empty group"),
    (["method.critic.depth=6"], "method.critic.depth=6 is too deep for slices of 32x32: at most 5"),
    (["method.n_critic=0"], "method.n_critic=0 must be at least 1"),
])  # fmt: skip
def test_invalid_settings_are_refused_in_one_sentence(words: list[str], sentence: str) -> None:
    with pytest.raises(SettingError) as refused:
        make(*words)
    assert sentence in str(refused.value)


def test_groups_come_from_the_cohort_unless_they_are_set() -> None:
    held = [["t2", "t1", "t1c", "flair"], ["t2", "flair"]]
    settings = StarGAN.settled(compose(SMALL).method, held)
    assert settings.groups == held
    one = StarGAN.settled(compose([*SMALL, "method.groups=[[t2,t1,t1c,flair]]"]).method, held)
    assert one.groups == held[:1]
    with pytest.raises(SettingError, match=r"training patients with t2, flair, which no group of method\.groups holds"):
        StarGAN.settled(compose([*SMALL, "method.groups=[[t2,t1,t1c],[t1,flair]]"]).method, held[1:])

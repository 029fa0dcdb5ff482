"""MM-GAN: each loss moves its own network, its updates equal a literal transcription of the published rule for every setting, and its scenarios
are those of the curriculum."""

from collections import Counter
from copy import deepcopy
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor
from workbench import CPU, losses_of, receptive_field

from distsynth.config import compose
from distsynth.data.batch import Batch
from distsynth.data.randomness import sample_keys
from distsynth.methods.mmgan import MMGAN, MMGANSettings
from distsynth.modalities import Variant
from distsynth.networks.patchgan import PatchGAN
from distsynth.training.engine import Engine
from preprocess.shared.errors import SettingError
from preprocess.shared.settings import describe

SIZE = (32, 32)
SMALL = ["method=mmgan", "method.generator.width=2", "method.generator.depth=3", "method.discriminator.width=2",
         "method.discriminator.layers=2", "train.lr=1e-3"]  # fmt: skip
LACKING = [[1.0, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 1]]


def make(*words: str) -> MMGAN:
    config = compose([*SMALL, *words])
    return MMGAN(config.method, config.variant, SIZE, 0).double()


def batch_for(
    method: MMGAN, n: int = 6, seed: int = 0, present: list[list[float]] | None = None, size: tuple[int, int] = SIZE
) -> Batch:
    g = torch.Generator().manual_seed(seed)
    brain = torch.zeros(n, 1, *size, dtype=torch.float64)
    brain[..., 6:26, 6:26] = 1
    images = torch.rand(n, len(method.modalities), *size, generator=g, dtype=torch.float64) * 2 - 1
    images = images * brain + brain - 1
    inputs = len(method.variant.inputs)
    batch = Batch(images[:, :inputs], images[:, inputs:], brain, torch.zeros_like(brain), sample_keys(np.arange(n), seed))
    if present is None:
        return batch
    rows = torch.tensor(present, dtype=torch.float64)
    return batch.having(present=rows.repeat(n // len(rows) + 1, 1)[:n])


# -- the networks ------------------------------------------------------------------------------------------------------


def test_full_size_networks_have_the_published_parameters() -> None:
    """Counted from the layers of the published code (trane293/mm-gan, advanced_gans/models.py), all but one of whose convolutions in G have
    no bias and all but one in D do: G 54,407,172, D 2,794,432. Ours has biases only where no norm follows."""
    config = compose(["method=mmgan", "variant=simo"])
    method = MMGAN(config.method, config.variant, (256, 256), 0)
    millions = {name: sum(p.numel() for p in net.parameters()) for name, net in method.named_children()}
    assert millions["generator"] == 54_407_172 + 64 + 512
    assert millions["discriminator"] == 2_794_432 - (128 + 256 + 512) + 4
    assert method.synthesise(torch.zeros(1, 1, 256, 256), torch.ones(1, 1, 256, 256)).shape == (1, 3, 256, 256)


def test_a_patch_is_of_70_pixels() -> None:
    assert receptive_field(PatchGAN(8, 4, outputs=4)) == 70


@pytest.mark.parametrize(("size", "depth"), [((256, 256), 8), ((128, 128), 7), ((160, 160), 5), ((54, 54), 3)])
def test_the_depth_follows_the_image(size: tuple[int, int], depth: int) -> None:
    assert MMGAN.stride(compose(["method=mmgan"]).method, size) == 1 << depth


@pytest.mark.parametrize("variant", ["siso", "simo", "mimo", "miso_flair", "miso_t1c"])
def test_every_output_is_confined_to_the_brain(variant: str) -> None:
    method = make(f"variant={variant}")
    batch = batch_for(method)
    made = method.synthesise(batch.sources, batch.brain)
    assert made.shape == (6, len(method.variant.outputs), *SIZE)
    assert (made[(batch.brain == 0).expand_as(made)] == -1).all()
    assert made[(batch.brain == 1).expand_as(made)].std() > 0


def test_another_variant_is_served_by_the_same_networks() -> None:
    """Whatever the order of the names, each contrast keeps the channel it was trained with."""
    method = make("variant=simo")  # t2 -> t1, t1c, flair
    batch = batch_for(method)
    images = {
        name: image[:, None]
        for name, image in zip(method.modalities, torch.cat([batch.sources, batch.targets], 1).unbind(1), strict=True)
    }
    given = torch.tensor([[False, True, False, True]]).expand(6, -1)
    with torch.no_grad():
        expected = method.fill(torch.cat(list(images.values()), 1), given, batch.brain)
    method.serve(Variant("other", ["flair", "t1"], ["t1c", "t2"]))
    made = method.synthesise(torch.cat([images["flair"], images["t1"]], 1), batch.brain)
    assert torch.equal(made, expected[:, [2, 0]])
    two = make("variant=siso")
    with pytest.raises(SettingError, match="the run was trained with t1, t2, and variant more has flair"):
        two.serve(Variant("more", ["t1"], ["flair"]))


# -- the scenarios -----------------------------------------------------------------------------------------------------


def given_in(method: MMGAN, epoch: int, n: int = 4000, present: list[list[float]] | None = None) -> list[tuple[bool, ...]]:
    seen: list[tuple[bool, ...]] = []

    class Watch:
        def minimise(self, name: str, batch: Batch) -> dict[str, Tensor]:
            if name == "generator":
                seen.extend(tuple(row) for row in method.draw(batch).tolist())
            return {}

    method.train_both(replace(batch_for(method, n, present=present, size=(2, 2)), epoch=epoch), Watch())  # type: ignore[arg-type]
    return seen


@pytest.mark.parametrize(("epoch", "missing"), [(0, {1}), (10, {1}), (11, {2}), (20, {2}), (21, {3}), (30, {3}), (31, {1, 2, 3})])
def test_the_curriculum(epoch: int, missing: set[int]) -> None:
    seen = Counter(given_in(make(), epoch))
    wanted = [given for given in product([False, True], repeat=4) if given.count(False) in missing]
    assert set(seen) == set(wanted)
    assert max(abs(count / 4000 - 1 / len(wanted)) for count in seen.values()) < 0.03
    easier = set(given_in(make("method.curriculum.easier=true"), epoch))
    assert {given.count(False) for given in easier} == set(range(1, max(missing) + 1))


def test_without_a_curriculum_every_subset_from_the_start() -> None:
    assert len(set(given_in(make("method.curriculum.epochs=[]"), 0))) == 14


def test_a_scenario_only_uses_contrasts_that_the_patient_has() -> None:
    method = make()
    rows = [[1.0, 1, 0, 0], [1, 0, 1, 1]]
    for epoch, missing in ((0, (1, 1)), (15, (1, 2)), (40, (1, 2))):
        for i, given in enumerate(given_in(method, epoch, 400, rows)):
            held = [bool(there) for there in rows[i % 2]]
            assert all(there or not got for there, got in zip(held, given, strict=True))
            assert any(given)
            assert 1 <= sum(held) - sum(given) <= missing[i % 2]
            assert epoch or sum(held) - sum(given) == 1


# -- the losses and the update -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("objective", "network"), [("generator", "generator"), ("discriminator", "discriminator")])
def test_a_loss_trains_all_of_its_own_network_and_no_other(objective: str, network: str) -> None:
    method = make()
    loss, _ = losses_of(method, batch_for(method))[objective]
    loss.backward()
    for name, child in method.named_children():
        for parameter, value in child.named_parameters():
            reached = value.grad is not None and bool(value.grad.abs().sum() > 0)
            assert reached == (name == network), f"{objective} on {name}.{parameter}"


def literal(method: MMGAN, batch: Batch, settings: MMGANSettings) -> dict[str, Tensor]:
    """The published rule, sample by sample and channel by channel."""
    count, n = len(method.modalities), len(batch)
    has = batch.more["present"].tolist() if "present" in batch.more else [[1] * count] * n
    share, seeds = batch.uniform("scenario").tolist(), batch.seeds("dropout")
    limits = settings.curriculum.epochs
    phase = next((number for number, last in enumerate(limits, 1) if batch.epoch <= last), None)
    sums = dict.fromkeys(["g_gan", "g_l1", "d_real", "d_fake"], torch.zeros((), dtype=torch.float64))
    for i in range(n):
        held = [m for m in range(count) if has[i][m]]
        most = len(held) - 1 if phase is None else min(phase, len(held) - 1)
        fewest = 1 if phase is None or settings.curriculum.easier else most
        scenarios = [
            [m for m in range(count) if given[m]]
            for given in product([0, 1], repeat=count)
            if all(m in held for m in range(count) if given[m]) and any(given) and fewest <= len(held) - sum(given) <= most
        ]
        given = scenarios[int(share[i] * len(scenarios))]
        x = torch.cat([batch.sources, batch.targets], 1)[i]
        x = torch.stack([x[m] if m in held else torch.full_like(x[m], -1) for m in range(count)])
        x_z = torch.stack([x[m] if m in given else torch.full_like(x[m], -1) for m in range(count)])
        made = method.generator(x_z[None], seeds[i : i + 1])[0]
        made = torch.where(batch.brain[i] > 0, made, torch.tensor(-1.0).double())
        x_i = torch.stack([x[m] if m in given else made[m] if m in held else torch.full_like(x[m], -1) for m in range(count)])

        def discriminate(image: Tensor, x: Tensor = x) -> Tensor:
            return method.discriminator(torch.cat([image, x])[None] if settings.discriminator.sees_real else image[None])[0]  # type: ignore[no-any-return]

        for_generator, on_real, on_fake = discriminate(x_i), discriminate(x), discriminate(x_i.detach())
        of_sample = {
            "g_gan": torch.stack([((for_generator[m] - 1) ** 2).mean() for m in held]).mean(),
            "g_l1": torch.stack([(x[m] - x_i[m]).abs().mean() for m in held if m not in given]).mean(),
            "d_real": torch.stack([((on_real[m] - 1) ** 2).mean() for m in held]).mean(),
            "d_fake": torch.stack([((on_fake[m] - float(m in given)) ** 2).mean() for m in held]).mean(),
        }
        sums = {name: sums[name] + value / n for name, value in of_sample.items()}
    sums["g_loss"] = (1 - settings.weights.l1) * sums["g_gan"] + settings.weights.l1 * sums["g_l1"]
    sums["d_loss"] = settings.weights.discriminator * (sums["d_real"] + sums["d_fake"])
    return sums


def trained_literally(method: MMGAN, batches: list[Batch]) -> MMGAN:
    g, d = (torch.optim.Adam(net.parameters(), 1e-3, (0.5, 0.999)) for net in (method.generator, method.discriminator))
    for batch in batches:
        for optimiser, loss in ((g, "g_loss"), (d, "d_loss")):
            optimiser.zero_grad()
            literal(method, batch, method.settings)[loss].backward()
            optimiser.step()
    return method


def trained(method: MMGAN, batches: list[Batch]) -> MMGAN:
    train = compose(SMALL).train
    stage = method.stages(train)[-1]
    engine = Engine(method, stage, train, CPU)
    for batch in batches:
        stage.update(batch, engine)
    return method


@pytest.mark.parametrize("variant", ["siso", "simo", "miso_t1c"])
@pytest.mark.parametrize("epoch", [0, 12, 50])
def test_the_losses_equal_the_literal_rule(variant: str, epoch: int) -> None:
    method = make(f"variant={variant}")
    batch = replace(batch_for(method, present=LACKING if variant == "simo" else None), epoch=epoch)
    expected = literal(method, batch, method.settings)
    for _, terms in losses_of(method, batch).values():
        for term, value in terms.items():
            assert value.item() == pytest.approx(expected[term].item(), rel=1e-9), term


SETTINGS = {
    "weights.l1": "0.5", "curriculum.epochs": "[1]", "curriculum.easier": "true", "generator.dropout": "0.6", "generator.direct": "true",
    "generator.width": "3", "generator.depth": "2", "discriminator.width": "3", "discriminator.layers": "1",
    "discriminator.sees_real": "false", "weights.discriminator": "1e-6",
}  # fmt: skip


def batches_for(method: MMGAN) -> list[Batch]:
    """Of the second phase of the curriculum, where `easier` has an effect."""
    return [replace(batch_for(method, 3, seed, LACKING), epoch=15) for seed in (0, 1)]


def test_no_setting_goes_untested() -> None:
    assert {line.split("=")[0].strip() for line in describe(MMGANSettings)} == {*SETTINGS, "name"}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_changes_two_updates_as_it_changes_the_literal_rule(setting: str) -> None:
    method, default = make(f"method.{setting}={SETTINGS[setting]}"), make()
    batches = batches_for(method)
    expected = trained_literally(deepcopy(method), batches).state_dict()
    actual = trained(method, batches).state_dict()
    for name, value in expected.items():
        assert torch.allclose(actual[name], value, rtol=1e-7, atol=1e-9), name
    other = trained(default, batches).state_dict()
    if {name: value.shape for name, value in actual.items()} == {name: value.shape for name, value in other.items()}:
        assert not all(torch.allclose(actual[name], value, atol=1e-6) for name, value in other.items())


def test_the_values_of_a_missing_contrast_have_no_effect() -> None:
    method = make()
    batch = batch_for(method, present=LACKING)
    missing = batch.more["present"][:, :, None, None] == 0
    images = torch.cat([batch.sources, batch.targets], 1)
    other = images.where(~missing, torch.rand_like(images))
    disturbed = replace(batch, sources=other[:, :1], targets=other[:, 1:])
    first, second = (trained(deepcopy(method), [b, b]).state_dict() for b in (batch, disturbed))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("words", "sentence"), [
    (["method.discriminator.layers=4"], "method.discriminator.layers=4 needs slices of at least 48 pixels and these, padded, are 32x32: set fewer"),
    (["method.generator.dropout=1"], "method.generator.dropout=1.0 must be at least 0 and below 1"),
    (["method.weights.l1=1.5"], "method.weights.l1=1.5 must be at least 0 and at most 1"),
    (["method.curriculum.epochs=[20,10]"], "method.curriculum.epochs=[20, 10] must ascend"),
])  # fmt: skip
def test_invalid_settings_are_refused_in_one_sentence(words: list[str], sentence: str) -> None:
    with pytest.raises(SettingError) as refused:
        make(*words)
    assert sentence in str(refused.value)

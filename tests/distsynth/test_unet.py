"""The U-Net, and `unet`, which trains it on only the L1 distance."""

from copy import deepcopy
from dataclasses import fields
from itertools import product

import pytest
import torch
from torch import Tensor
from workbench import CPU, losses_of, paired

from distsynth.config import compose
from distsynth.data.batch import Batch
from distsynth.data.slices import padded_size
from distsynth.methods.unet import UNetRegression, UNetSettings
from distsynth.networks import keyed
from distsynth.networks.unet import UNet, depth_of, stride_of
from distsynth.training.engine import Engine
from preprocess.shared.errors import SettingError

SIZE = (32, 32)
SMALL = ["method=unet", "method.width=4", "method.depth=3", "train.lr=0.01"]
FLIPS = {"width": 6, "depth": 2, "norm": "batch", "direct": True}


def make(*words: str) -> UNetRegression:
    config = compose([*SMALL, *words])
    return UNetRegression(config.method, config.variant, SIZE, 0).double().train()


def trained(method: UNetRegression, batches: list[Batch], *words: str) -> dict[str, Tensor]:
    train = compose([*SMALL, *words]).train
    (stage,) = method.stages(train)
    engine = Engine(method, stage, train, CPU)
    for batch in batches:
        stage.update(batch, engine)
    return method.state_dict()


@pytest.mark.parametrize("words", [(), *((f"method.{key}={value}",) for key, value in FLIPS.items()), ("variant=mimo",)])
def test_two_updates_equal_the_literal_rule(words: tuple[str, ...]) -> None:
    """Sample by sample, on a network built from the settings; with batch norm, one sample."""
    method = make(*words)
    batches = [paired(method, 1 if "method.norm=batch" in words else 3, seed) for seed in (0, 1)]
    config = compose([*SMALL, *words])
    s, inputs, outputs = config.method, len(config.variant.inputs), len(config.variant.outputs)
    network = UNet(inputs, outputs, s.width, s.depth, s.direct, s.norm).double()
    network.load_state_dict(method.generator.state_dict())
    adam = torch.optim.Adam(network.parameters(), config.train.lr, config.train.betas)
    for batch in batches:
        loss = torch.tensor(0.0, dtype=torch.float64)
        for i in range(len(batch)):
            made = torch.where(batch.brain[i : i + 1] > 0, network(batch.sources[i : i + 1]), torch.tensor(-1.0))
            loss = loss + (made - batch.targets[i : i + 1]).abs().sum() / (outputs * 32 * 32) / len(batch)
        adam.zero_grad()
        loss.backward()
        adam.step()
    weights = trained(method, batches, *words)
    for name, value in network.state_dict().items():
        assert torch.allclose(weights[f"generator.{name}"].double(), value.double(), rtol=0, atol=1e-9), name


def test_every_setting_has_an_effect() -> None:
    assert {field.name for field in fields(UNetSettings)} - {"name"} == FLIPS.keys()
    before = make()
    plain = trained(deepcopy(before), [paired(before, 1)])
    for key, value in FLIPS.items():
        changed = trained(make(f"method.{key}={value}"), [paired(before, 1)])
        assert not (changed.keys() == plain.keys() and all(torch.equal(changed[name], plain[name]) for name in plain)), key


def test_the_loss_reaches_every_weight() -> None:
    method = make("method.direct=true")
    losses_of(method, paired(method))["generator"][0].backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in method.parameters())


def test_the_background_enters_no_loss() -> None:
    method = make("method.direct=true")
    batch = paired(method)
    loss, _ = method.loss(batch)
    assert float(loss.detach()) > 0
    empty = Batch(batch.sources, torch.full_like(batch.targets, -1), torch.zeros_like(batch.brain), batch.tumour, batch.keys)
    assert float(method.loss(empty)[0].detach()) == 0


@pytest.mark.parametrize("variant", ["siso", "simo", "simo_t1", "mimo", "miso_flair", "miso_t1c"])
def test_every_variant_makes_all_outputs_at_once_confined_to_the_brain(variant: str) -> None:
    method = make(f"variant={variant}").eval()
    batch = paired(method)
    made = method.synthesise(batch.sources, batch.brain)
    assert made.shape == batch.targets.shape
    assert (made[(batch.brain == 0).expand_as(made)] == -1).all()
    assert made[(batch.brain == 1).expand_as(made)].std() > 0


def test_a_width_of_zero_is_refused() -> None:
    with pytest.raises(SettingError, match=r"method\.width=0 must be at least 1"):
        compose(["method=unet", "method.width=0"])


# -- the network -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "dropped"), [(8, [1, 2, 3]), (7, [1, 2]), (6, [1]), (5, [1]), (3, [1]), (2, []), (1, [])])
def test_dropout_is_where_pix2pix_has_it_and_at_one_level_of_shallow_networks(depth: int, dropped: list[int]) -> None:
    assert list(UNet(1, 1, 2, depth, dropout=0.5).dropped) == dropped


@pytest.mark.parametrize("depth", [3, 7])
def test_dropout_is_taken_behind_the_norm_keyed_by_sample_and_level(depth: int) -> None:
    """The network's layers applied one by one."""
    torch.manual_seed(0)
    network = UNet(1, 1, 2, depth, dropout=0.4).double()
    x, seeds = torch.rand(2, 1, 128, 128, dtype=torch.float64), torch.tensor([5, -7])
    skips = [x]
    for down in network.down:
        skips.append(down(skips[-1]))
    y = skips.pop()
    for index, up in enumerate(network.up):
        y = up(y if index == 0 else torch.cat([y, skips.pop()], 1))
        if index in network.dropped:
            kept = torch.stack([keyed.uniform(seeds[i : i + 1] + index, y.shape[1:])[0] for i in range(2)]) >= 0.4
            assert 0.4 < kept.double().mean() < 0.8
            y = torch.where(kept, y / 0.6, 0)
    assert torch.allclose(network(x, seeds), torch.tanh(y), rtol=0, atol=1e-12)
    assert not torch.allclose(network(x), network(x, seeds), atol=1e-6)


@pytest.mark.parametrize(("size", "most", "depth"), [((256, 256), 8, 8), ((256, 256), 7, 7), ((128, 128), 8, 7), ((160, 160), 8, 5),
                                                     ((54, 54), 8, 3), ((3, 3), 8, 1)])  # fmt: skip
def test_as_many_levels_as_fit(size: tuple[int, int], most: int, depth: int) -> None:
    assert stride_of(0, size, most, "depth") == 1 << depth


def test_a_padded_slice_has_as_many_levels_as_it_was_padded_for() -> None:
    """Or more, if rotations made a rectangle square."""
    for height, width in product(range(8, 300), (0, 16, 58, 240)):
        raw = (height, width or height)
        padded = padded_size(raw, stride := stride_of(0, raw, 8, "depth"))
        assert 1 << depth_of(0, padded, 8) == stride, raw
        square = (max(padded), max(padded))
        assert square[0] % (1 << depth_of(0, square, 8)) == 0, raw
        assert 1 << depth_of(0, square, 8) >= stride, raw


@pytest.mark.parametrize(("depth", "most"), [(12, 6), (7, 6), (-1, 6)])
def test_levels_that_see_only_padding_are_refused(depth: int, most: int) -> None:
    with pytest.raises(
        SettingError, match=f"method.depth={depth} does not suit slices of 54x54: 1 to {most}, or 0 for as many as fit"
    ):
        stride_of(depth, (54, 54), 8, "method.depth")
    assert stride_of(most, (54, 54), 8, "method.depth") == 64


def test_the_published_unet_128() -> None:
    """U-Net-128 of pix2pix with 4 channels in and 1 out: 41.82 M parameters, as measured on the published code."""
    network = UNet(4, 1, 64, 7, norm="batch")
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(41.82, abs=0.01)
    assert network(torch.zeros(1, 4, 128, 128)).shape == (1, 1, 128, 128)

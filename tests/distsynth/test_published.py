"""Each published full-size configuration, at the published image size, has the published networks and makes one real step of each of its stages."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from torch import nn
from workbench import CPU, count

from distsynth.bench.synthetic import method_of, noise, shipped
from distsynth.networks.resnet import ResidualBlock
from distsynth.networks.stargan import Residual
from distsynth.run_directory import CONFIGS
from distsynth.training.engine import Engine

# -- the weights of the published layers, less biases before a norm ----------------------------------------------------


def products(*widths: int) -> int:
    """Weights of 1x1 convolutions from each width to the next."""
    return sum(a * b for a, b in pairwise(widths))


def unet(inputs: int, outputs: int, depth: int, norms: bool = False) -> int:
    """`norms` with a scale and a shift for each channel; biases of the outermost down, the innermost down and the outermost up."""
    widths: list[int] = [64 * min(2**level, 8) for level in range(depth)]
    joined = 2 * products(*widths) - products(*widths[-2:])  # on the way up, skips beside all but the innermost
    learnt = 2 * (sum(widths[1:-1]) + sum(widths[:-1])) if norms else 0
    return 16 * (products(inputs, *widths) + joined + 128 * outputs) + 64 + widths[-1] + outputs + learnt


def patchgan(inputs: int, outputs: int = 1, norms: bool = False) -> int:
    return 16 * products(inputs, 64, 128, 256, 512, outputs) + 64 + outputs + 2 * (128 + 256 + 512) * norms


def critic(inputs: int, classes: int, depth: int, final: int, axes: int = 2) -> int:
    widths: list[int] = [64 << level for level in range(depth)]
    heads: int = widths[-1] * (3**axes + classes * final**axes)
    return int(4**axes) * products(inputs, *widths) + sum(widths) + heads


def segmentor(inputs: int, norms_on: int) -> int:
    """`norms_on`: how many channels have a norm."""
    up = 512 * 512 + (512 + 256) * 256 + (256 + 128) * 128 + (128 + 64)
    return 9 * (products(inputs, 64, 128, 256, 512) + up) + 64 + 1 + 2 * norms_on


def stargan(inputs: int, axes: int = 2) -> int:
    wide, strided, inner = (int(side**axes) for side in (7, 4, 3))
    norms = 2 * (2 * 64 + 2 * 128 + 256 + 12 * 256)
    return wide * 64 * (inputs + 1) + strided * 2 * products(64, 128, 256) + inner * 12 * 256**2 + norms


def resnet(blocks: int) -> int:
    return 49 * 64 * 2 + 1 + 9 * (2 * products(64, 128, 256) + 2 * blocks * 256**2)


def unit(blocks: int) -> int:
    """Both autoencoders, with so many residual blocks in all."""
    ends = 49 * 64 + 16 * products(64, 128, 256) + 25 * products(256, 128, 64) + 3 * (128 + 64) + 49 * 64 + 1
    return 2 * ends + blocks * 2 * 9 * 256**2


def test_the_formulas_give_the_figures_that_the_published_codes_print() -> None:
    """For colour pictures (TC-MGAN: 4 contrasts and labels in), with the biases before a norm that the published networks have, less those
    that they lack."""
    millions = {
        "54.414": unet(3, 3, 8, norms=True) - 64 - 512,
        "2.769": patchgan(6, norms=True),
        "41.82": unet(4, 1, 7) + (128 + 256 + 3 * 512) + (64 + 128 + 256 + 3 * 512),
        "11.20": critic(2, 3, 5, 4),
        "6.13": segmentor(4, 64 + NORMED) + NORMED,
    }
    for printed, weights in millions.items():
        assert f"{weights / 1e6:.{len(printed.partition('.')[2])}f}" == printed
    assert resnet(9) + 4 * 49 * 64 + 2 + (2 * 64 + 2 * 128 + 256 + 9 * 2 * 256) == 11_378_179
    assert stargan(3 + 5) + 2 * 49 * 64 == 8_430_528
    assert critic(3, 5, 6, 2) == 44_762_048


# -- the presets -------------------------------------------------------------------------------------------------------

FULL = pytest.mark.full
NORMED = 128 + 256 + 512 + 512 + 256 + 128  # channels behind a norm in the segmentor
TCMGAN = {"generator": (7, 0, unet(4, 1, 7)), "critic": (5, 0, critic(2, 3, 5, 4))}
DOWN = 16 * products(1, 64, 128, 256, 512)
DISCOGAN = {"generators": (2 * 4, 0, 2 * 2 * DOWN), "discriminators": (2 * 4, 0, 2 * (DOWN + 16 * 512))}
CYCLEGAN = {"discriminators": (2 * 3, 0, 2 * patchgan(1))}
UNIT = {"discriminators": (2 * 3 * 4, 0, 2 * 3 * (DOWN + 64 + 128 + 256 + 512 + 512 + 1))}
UNIFIED = {"generator": (2, 6, stargan(1 + 4, 3)), "critic": (5, 0, critic(1, 4, 5, 2, 3))}
# Pixels, and of each network how many convolutions of stride 2, residual blocks and weights; of an unpaired method's both sides together.
PUBLISHED = [
    pytest.param("unet", 256, {"generator": (8, 0, unet(1, 3, 8))}),
    pytest.param("pix2pix", 256, {"generator": (8, 0, unet(1, 3, 8)), "discriminator": (3, 0, patchgan(4))}),
    pytest.param(
        "pix2pix_published",
        256,
        {"generator": (8, 0, unet(1, 3, 8, True)), "discriminator": (3, 0, patchgan(4, 1, True))},
        marks=FULL,
    ),
    pytest.param("mmgan", 256, {"generator": (8, 0, unet(4, 4, 8)), "discriminator": (3, 0, patchgan(8, 4))}, marks=FULL),
    pytest.param("segment", 128, {"segmentor": (4, 0, segmentor(4, NORMED))}),
    pytest.param("tcmgan", 128, {**TCMGAN, "segmentor": (4, 0, segmentor(4, NORMED))}),
    pytest.param("tcmgan_authors", 128, {**TCMGAN, "segmentor": (4, 0, segmentor(4, 64 + NORMED))}, marks=FULL),
    pytest.param("stargan", 128, {"generator": (2, 6, stargan(1 + 4)), "critic": (6, 0, critic(1, 4, 6, 2))}, marks=FULL),
    pytest.param("cyclegan", 128, {"generators": (2 * 2, 2 * 6, 2 * resnet(6)), **CYCLEGAN}, marks=FULL),
    pytest.param("cyclegan", 256, {"generators": (2 * 2, 2 * 9, 2 * resnet(9)), **CYCLEGAN}, marks=FULL),
    pytest.param("discogan", 64, DISCOGAN),
    pytest.param("discogan_report", 64, DISCOGAN),
    pytest.param("unit", 256, {"generators": (2 * 2, 16, unit(16)), **UNIT}, marks=FULL),
    pytest.param("unit_paper", 256, {"generators": (2 * 2, 14, unit(14)), **UNIT}, marks=FULL),
    pytest.param("unified_gan", 72, UNIFIED, marks=FULL),
    pytest.param("unified_gan_average", 72, UNIFIED, marks=FULL),
]


def test_every_preset_but_the_small_ones_is_here() -> None:
    shipped_ones = {path.stem for path in (CONFIGS / "method").glob("*.yaml") if not path.stem.endswith("_small")}
    assert shipped_ones == {case.values[0] for case in PUBLISHED}


def described(network: nn.Module) -> tuple[int, int, int]:
    modules = list(network.modules())
    strided = sum(isinstance(m, nn.Conv2d | nn.Conv3d) and m.stride[0] == 2 for m in modules)
    return strided, sum(isinstance(m, ResidualBlock | Residual) for m in modules), count(network)


@pytest.mark.parametrize(("preset", "pixels", "networks"), PUBLISHED, ids=[f"{c.values[0]}-{c.values[1]}" for c in PUBLISHED])
def test_the_networks_are_the_published_ones_and_a_step_moves_all_of_their_weights(
    preset: str, pixels: int, networks: dict[str, tuple[int, int, int]]
) -> None:
    config = shipped(preset)
    method, size = method_of(config, pixels)
    assert ((method.patch, method.patch) if method.patch else size) == (pixels, pixels)
    assert {name: described(child) for name, child in method.named_children() if count(child)} == networks
    for stage in method.stages(config.train):
        engine = Engine(method, stage, config.train, CPU)
        trained = {f"{key}.{name}": p for key, o in engine.objectives.items() for name, p in o.network.named_parameters()}
        before = {name: parameter.detach().clone() for name, parameter in trained.items()}
        for update in (0, 1) if "discogan" in preset else (method.cycle - 1,):
            engine.update(replace(noise(config.variant, 1, size, kind=method), update=update))
        losses = engine.losses_since_last(1)
        assert losses
        assert np.isfinite(list(losses.values())).all()
        for name, parameter in trained.items():
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name  # decay alone would move it too
            assert parameter.isfinite().all(), name
            assert not parameter.equal(before[name]), name

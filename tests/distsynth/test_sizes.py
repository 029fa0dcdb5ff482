"""Slices of any size: what the networks cannot take is padded and cropped back, or refused with what would do."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from workbench import engine_for, leaves

from distsynth.bench.synthetic import noise, shipped
from distsynth.config import Config
from distsynth.data.intensity_map import IntensityMap
from distsynth.methods import registry
from distsynth.training.model import Model, networks_size
from preprocess.shared.errors import SettingError

# 58 is padded to 60, 113 to 116, and a rotation's square of 54 x 97 is 100 x 100
SHAPES = [(58, 58), (113, 113), (54, 97), (33, 60), (120, 77)]


def narrow(method: str, *words: str) -> Config:
    """The published preset with networks as deep as published and as few channels as go."""
    preset = shipped(method)
    widths = [name for name in leaves(preset.method) if name.split(".")[-1] == "width"]
    small = ["method.patch=16", "method.core=8"] if method == "unified_gan" else []
    return shipped(method, *(f"method.{name}=2" for name in widths), *small, "train.batch=2", *words)


@pytest.mark.parametrize(("method", "rotate"), list(product(registry.names(), ["true", "false"])))
def test_slices_of_any_size_are_trained_on_and_synthesised(method: str, rotate: str) -> None:
    config = narrow(method, f"data.rotate={rotate}")
    for shape in SHAPES[:1] if method == "unified_gan" else SHAPES:  # whose patches are of one size
        size = networks_size(config, shape)
        assert size[0] >= shape[0], shape
        assert size[1] >= shape[1], shape
        assert max(size) <= 1.1 * max(shape), "more padding than image"
        built = registry.method(method)(config.method, config.variant, size, 0)
        engine = engine_for(built, config.train)
        engine.stage.update(noise(config.variant, 2, size, kind=built), engine)
        engine.running_losses.updates += 1
        assert all(np.isfinite(value) for value in engine.losses_since_last(1).values()), shape
        if built.images:
            names = config.variant.modalities
            mapping = IntensityMap(dict.fromkeys(names, -3.0), dict.fromkeys(names, 3.0))
            volume = np.random.default_rng(0).normal(size=(len(config.variant.inputs), 20, *shape)).astype(np.float32)
            made = Model(built, config.variant, mapping, size).synthesise(volume, np.ones(volume.shape[1:], bool))
            assert made.shape == (len(config.variant.outputs), *volume.shape[1:])
            assert np.isfinite(made).all()


@pytest.mark.parametrize(("method", "words"), [
    *((name, []) for name in registry.names()), ("pix2pix", ["method.discriminator.layers=1"]), ("mmgan", ["method.discriminator.layers=1"]),
    ("cyclegan", ["method.discriminator.layers=1"]), ("unit", ["method.discriminator.scales=1", "method.discriminator.layers=1"]),
])  # fmt: skip
def test_slices_of_a_few_pixels_are_taken_or_refused_in_a_sentence(method: str, words: list[str]) -> None:
    config = narrow(method, "data.rotate=false", *words)
    for shape in [(1, 1), (3, 3), (4, 4), (4, 8), (12, 4), (6, 6), (9, 12)]:
        size = networks_size(config, shape)
        try:
            built = registry.method(method)(config.method, config.variant, size, 0)
        except SettingError:
            continue
        engine = engine_for(built, config.train)
        for number in range(built.cycle):
            engine.stage.update(replace(noise(config.variant, 2, size, kind=built), update=number), engine)
            engine.running_losses.updates += 1
        assert all(np.isfinite(value) for value in engine.losses_since_last(1).values()), shape


@pytest.mark.parametrize("word", [
    "tcmgan method.generator.depth=8", "tcmgan method.critic.depth=6", "unet method.depth=9", "pix2pix method.discriminator.layers=5",
    "mmgan method.discriminator.layers=5", "stargan method.critic.depth=6", "cyclegan method.discriminator.layers=5", "discogan method.depth=6",
    "unit method.discriminator.layers=5",
])  # fmt: skip
def test_networks_too_deep_for_the_slices_are_refused_with_what_would_do(word: str) -> None:
    method, deep = word.split()
    config = narrow(method, deep)
    with pytest.raises(SettingError, match=rf"{deep} .*\d"):
        registry.method(method)(config.method, config.variant, networks_size(config, (58, 58)), 0)

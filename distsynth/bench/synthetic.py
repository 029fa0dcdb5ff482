"""A method without a cohort: networks for slices of a given size, and batches of noise, which cost as much as real slices."""

from __future__ import annotations

import numpy as np
import torch

from distsynth.config import Config, compose, fragment, read_yaml
from distsynth.data.batch import Batch
from distsynth.data.randomness import sample_keys
from distsynth.methods import registry
from distsynth.methods.contract import Method
from distsynth.modalities import Variant
from distsynth.run_directory import CONFIGS
from distsynth.training.model import networks_size


def shipped(preset: str, *words: str) -> Config:
    """A method's preset with these settings; the variant is the default one or, if the method does not serve it, the first that it does."""
    kind = registry.method(fragment("method", preset)["method"]["name"])
    default = read_yaml(CONFIGS / "train.yaml")["groups"]["variant"]
    names = [default, *sorted(path.stem for path in (CONFIGS / "variant").glob("*.yaml"))]
    serving = [name for name in names if Variant(**fragment("variant", name)["variant"]).kind in kind.kinds]
    return compose([f"variant={serving[0]}", f"method={preset}", *words])


def method_of(config: Config, pixels: int) -> tuple[Method, tuple[int, int]]:
    """The untrained method of a configuration, for slices of pixels x pixels, and the size that they are padded to."""
    size = networks_size(config, (pixels, pixels))
    return registry.method(config.method.name)(config.method, config.variant, size, config.seed), size


def noise(variant: Variant, slices: int, size: tuple[int, int], seed: int = 0, kind: Method | type[Method] = Method) -> Batch:
    """A batch of uniform noise inside a brain that fills the middle half, with a tumour in it, and what else the feed gives to a method of this
    kind; cubes of `kind.patch` voxels if it takes those instead of slices."""
    shape = (kind.patch,) * 3 if kind.patch else size
    generator = torch.Generator().manual_seed(seed)
    brain, tumour = (torch.zeros(slices, 1, *shape) for _ in range(2))
    for mask, part in ((brain, 4), (tumour, 3)):
        inside: list[slice] = [slice(side // part, -side // part) for side in shape]
        mask[(slice(None), slice(None), *inside)] = 1
    images = torch.rand(slices, len(variant.inputs) + len(variant.outputs), *shape, generator=generator) * 2 - 1
    images = images * brain + brain - 1
    inputs = len(variant.inputs)
    keys = sample_keys(np.arange(slices), seed)
    batch = Batch(images[:, :inputs], images[:, inputs:], brain, tumour, keys, update=kind.cycle - 1)
    if kind.incomplete:
        batch = batch.having(present=torch.ones(images.shape[:2]))
    return batch if kind.paired else batch.having(target_brain=brain.clone())

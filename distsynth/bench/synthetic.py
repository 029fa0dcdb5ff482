"""A method without a cohort: networks for slices of a given size, and batches of noise, which cost what real slices do."""

from __future__ import annotations

import numpy as np
import torch

from distsynth.config import Config
from distsynth.data.batch import Batch
from distsynth.data.feed import padded_size
from distsynth.data.randomness import sample_keys
from distsynth.methods import registry
from distsynth.methods.method import Method
from distsynth.modalities import Variant


def method_of(config: Config, pixels: int) -> tuple[Method, tuple[int, int]]:
    """The untrained method of a configuration for slices of pixels x pixels, and the size they are padded to."""
    kind = registry.method(config.method.name)
    size = padded_size((pixels, pixels), kind.stride(config.method, (pixels, pixels)))
    return kind(config.method, config.variant, size, config.seed), size


def noise(variant: Variant, slices: int, size: tuple[int, int], seed: int = 0, patch: int = 0) -> Batch:
    """Slices of uniform noise inside a brain that fills the middle half, with a tumour in it; or cubes of `patch` voxels a side (`Method.patch`)."""
    shape = (patch,) * 3 if patch else size
    generator = torch.Generator().manual_seed(seed)
    brain, tumour = (torch.zeros(slices, 1, *shape) for _ in range(2))
    for mask, part in ((brain, 4), (tumour, 3)):
        inside: list[slice] = [slice(side // part, -side // part) for side in shape]
        mask[(slice(None), slice(None), *inside)] = 1
    images = torch.rand(slices, len(variant.inputs) + len(variant.outputs), *shape, generator=generator) * 2 - 1
    images = images * brain + brain - 1
    inputs = len(variant.inputs)
    return Batch(images[:, :inputs], images[:, inputs:], brain, tumour, sample_keys(np.arange(slices), seed))

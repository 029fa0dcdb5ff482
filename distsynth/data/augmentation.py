"""Augmentation: flips and rotations, drawn from each sample's key (the report's augmentation)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from distsynth.data.randomness import Keys, uniform
from distsynth.settings import DataSettings


def augment(slices: npt.NDArray[np.float32], keys: Keys, settings: DataSettings) -> npt.NDArray[np.float32]:
    """Each slice flipped left-right or not, and rotated by 0, 90 or 180 degrees, as its key says."""
    flips = uniform(keys, "flip") < 0.5 if settings.flip else np.zeros(len(keys), bool)
    turns = (uniform(keys, "rotate") * 3).astype(int) if settings.rotate else np.zeros(len(keys), int)
    moves = zip(slices, flips, turns, strict=True)
    return np.stack([np.rot90(s[..., ::-1] if flip else s, turn, axes=(-2, -1)) for s, flip, turn in moves])

"""Predictions without deep learning, fitted only on the training patients, which a network has to beat.

    copy           the input modality that is nearest to the output, unchanged
    mean           the mean training image: volumes are centred on the brain, so it is a blurred average brain
    linear         a least-squares fit of a voxel's input intensities
    voxelwise      boosted trees on a voxel's input intensities, fitted to the squared error, which PSNR measures
    voxelwise_l1   the same, fitted to the absolute error, on which most methods are trained and which NMAE measures

Also scored, but not a baseline: `lesion_erased`, the truth with its tumour replaced by the mean of the brain around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from distsynth.data.cohorts import read_image
from distsynth.data.randomness import key
from distsynth.modalities import Variant
from preprocess.cohort import BACKGROUND, Cohort

Volume = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

TREES = {"voxelwise": "squared_error", "voxelwise_l1": "absolute_error"}  # and the loss that each is fitted to
BASELINES = ("copy", "mean", "linear", *TREES)
VOXELS = 200_000


@dataclass
class Baselines:
    """The fitted baselines of a variant; every prediction is (outputs, z, y, x) z-scores."""

    variant: Variant
    nearest: list[int]  # for each output, the input that `copy` takes
    mean: Volume | None  # (outputs, z, y, x); None if the training subjects' volumes differ in size
    weights: Volume  # (inputs + 1, outputs)
    trees: dict[str, list[Any]] = field(default_factory=dict)  # by baseline, one per output

    @property
    def copied(self) -> dict[str, str]:
        """For each output, the input that `copy` takes."""
        return {output: self.variant.inputs[i] for output, i in zip(self.variant.outputs, self.nearest, strict=True)}

    def predict(self, sources: Volume, brain: Mask) -> dict[str, Volume]:
        """The baselines of a subject, from its (inputs, z, y, x) z-scores; `mean` only for volumes of the training cohort's size."""
        inside = sources[:, brain].T
        predictions = {
            "copy": sources[self.nearest],
            "linear": fill(with_constant(inside) @ self.weights, brain),
        }
        for name, trees in self.trees.items():
            predictions[name] = fill(np.stack([tree.predict(inside) for tree in trees], axis=1), brain)
        return predictions | ({} if self.mean is None or self.mean.shape[1:] != brain.shape else {"mean": self.mean})


def fit(cohort: Cohort, subjects: Sequence[str], variant: Variant, clip: bool, seed: int) -> Baselines:
    """Fit to at most 200,000 voxels of the training subjects, which are read one at a time."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    inputs = len(variant.inputs)
    sampled = []
    shapes = {tuple(cohort.record(subject).shape) for subject in subjects}
    total, count = (np.zeros(size, np.float64) for size in ((len(variant.outputs), *max(shapes)), max(shapes)))
    for subject in subjects:
        image = read_image(cohort, subject, variant.modalities, clip)
        brain = image[0] != BACKGROUND
        voxels = image[:, brain].T
        rng = np.random.default_rng(key(seed, "floors", subject))  # the word of version 0.1: another would draw other voxels
        sampled.append(voxels[rng.choice(len(voxels), min(len(voxels), VOXELS // len(subjects)), replace=False)])
        if len(shapes) == 1:
            total += np.where(brain, image[inputs:], 0)
            count += brain
    voxels = np.concatenate(sampled)
    sources, targets = voxels[:, :inputs], voxels[:, inputs:]
    nearest = [int(((sources - column[:, None]) ** 2).mean(axis=0).argmin()) for column in targets.T]
    overall = targets.mean(axis=0)[:, None, None, None]
    mean = np.where(count > 0, total / np.maximum(count, 1), overall).astype(np.float32)
    weights, *_ = np.linalg.lstsq(with_constant(sources), targets, rcond=None)
    boosted = partial(HistGradientBoostingRegressor, max_iter=40, learning_rate=0.2, early_stopping=False, random_state=0)
    trees = {name: [boosted(loss=loss).fit(sources, column) for column in targets.T] for name, loss in TREES.items()}
    return Baselines(variant, nearest, mean if len(shapes) == 1 else None, weights.astype(np.float32), trees)


def lesion_erased(truth: Volume, brain: Mask, tumour: Mask) -> Volume:
    """The truth (outputs, z, y, x) with its tumour replaced by the mean of the rest of the brain."""
    erased = truth.copy()
    for channel in erased:
        channel[tumour & brain] = channel[brain & ~tumour].mean()
    return erased


def fill(values: npt.NDArray[Any], brain: Mask) -> Volume:
    """(voxels, outputs) values as a volume (outputs, z, y, x), background elsewhere."""
    out = np.full((values.shape[1], *brain.shape), BACKGROUND, np.float32)
    out[:, brain] = values.T
    return out


def with_constant(inputs: Volume) -> Volume:
    return np.concatenate([inputs, np.ones((len(inputs), 1), np.float32)], axis=1)

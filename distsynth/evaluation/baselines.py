"""What a network has to beat: predictions that took no deep learning, made from the training patients alone.

    copy           the input modality that is nearest to the output, as it is
    mean           the mean training image: volumes are centred on the brain, so it is a blurred average brain
    linear         a least-squares fit on a voxel's input intensities
    voxelwise      boosted trees on a voxel's input intensities, fitted on the squared error, which is what PSNR measures
    voxelwise_l1   the same on the absolute error, which is what most methods are trained on and NMAE measures

Beside them, never beaten against, `lesion_erased`: the truth with its tumour filled by the mean of the brain around it.
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

TREES = {"voxelwise": "squared_error", "voxelwise_l1": "absolute_error"}  # the loss of each
BASELINES = ("copy", "mean", "linear", *TREES)
VOXELS = 200_000


@dataclass
class Baselines:
    """The baselines of a variant, fitted; every prediction is (outputs, z, y, x) z-scores."""

    variant: Variant
    nearest: list[int]  # for each output, the input that `copy` takes
    mean: Volume | None  # (outputs, z, y, x); None where the training subjects' volumes are not all of one size
    weights: Volume  # (inputs + 1, outputs)
    trees: dict[str, list[Any]] = field(default_factory=dict)  # by baseline, one per output

    @property
    def copied(self) -> dict[str, str]:
        """Which input stands in for each output."""
        return {output: self.variant.inputs[i] for output, i in zip(self.variant.outputs, self.nearest, strict=True)}

    def predict(self, sources: Volume, brain: Mask) -> dict[str, Volume]:
        """The baselines of a subject from its (inputs, z, y, x) z-scores; `mean` only on the training cohort's grid."""
        inside = sources[:, brain].T
        made = {
            "copy": sources[self.nearest],
            "linear": fill(with_one(inside) @ self.weights, brain),
        }
        for name, trees in self.trees.items():
            made[name] = fill(np.stack([tree.predict(inside) for tree in trees], axis=1), brain)
        return made | ({} if self.mean is None or self.mean.shape[1:] != brain.shape else {"mean": self.mean})


def fit(cohort: Cohort, subjects: Sequence[str], variant: Variant, clip: bool, seed: int) -> Baselines:
    """Fit on at most 200,000 voxels of the training subjects, read one at a time."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    inputs = len(variant.inputs)
    sampled = []
    shapes = {tuple(cohort.record(subject).shape) for subject in subjects}
    total, count = (np.zeros(size, np.float64) for size in ((len(variant.outputs), *max(shapes)), max(shapes)))
    for subject in subjects:
        image = read_image(cohort, subject, variant.modalities, clip)
        brain = image[0] != BACKGROUND
        voxels = image[:, brain].T
        rng = np.random.default_rng(
            key(seed, "floors", subject)
        )  # the word that version 0.1 drew by: another would draw other voxels
        sampled.append(voxels[rng.choice(len(voxels), min(len(voxels), VOXELS // len(subjects)), replace=False)])
        if len(shapes) == 1:
            total += np.where(brain, image[inputs:], 0)
            count += brain
    voxels = np.concatenate(sampled)
    given, wanted = voxels[:, :inputs], voxels[:, inputs:]
    nearest = [int(((given - column[:, None]) ** 2).mean(axis=0).argmin()) for column in wanted.T]
    overall = wanted.mean(axis=0)[:, None, None, None]
    mean = np.where(count > 0, total / np.maximum(count, 1), overall).astype(np.float32)
    weights, *_ = np.linalg.lstsq(with_one(given), wanted, rcond=None)
    boosted = partial(HistGradientBoostingRegressor, max_iter=40, learning_rate=0.2, early_stopping=False, random_state=0)
    trees = {name: [boosted(loss=loss).fit(given, column) for column in wanted.T] for name, loss in TREES.items()}
    return Baselines(variant, nearest, mean if len(shapes) == 1 else None, weights.astype(np.float32), trees)


def lesion_erased(truth: Volume, brain: Mask, tumour: Mask) -> Volume:
    """The truth (outputs, z, y, x) with its tumour filled by the mean of the rest of the brain."""
    erased = truth.copy()
    for channel in erased:
        channel[tumour & brain] = channel[brain & ~tumour].mean()
    return erased


def fill(values: npt.NDArray[Any], brain: Mask) -> Volume:
    """(voxels, outputs) values put back into a volume."""
    out = np.full((values.shape[1], *brain.shape), BACKGROUND, np.float32)
    out[:, brain] = values.T
    return out


def with_one(inputs: Volume) -> Volume:
    return np.concatenate([inputs, np.ones((len(inputs), 1), np.float32)], axis=1)

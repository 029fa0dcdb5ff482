"""The base of the feeds: batches in a deterministic order.

Which samples are in a global batch is a pure function of (seed, stage, epoch, position); each rank takes its share of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from distsynth.data.batch import Batch
from distsynth.data.randomness import Keys, permutation, sample_keys
from preprocess.shared.errors import SettingError


class Feed(ABC):
    """The training samples of some subjects, held in the node's memory."""

    unit: ClassVar[str]

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples in an epoch."""

    @abstractmethod
    def cut(self, indices: npt.NDArray[np.int64], keys: Keys) -> Batch:
        """The samples `indices`, augmented as their keys say."""

    def steps(self, batch: int, limit: int = 0) -> int:
        """Updates per epoch at a global batch size; the last incomplete batch is dropped. At most `limit` if that is above 0.

        Raises SettingError if there are fewer samples than one batch."""
        if len(self) < batch:
            raise SettingError(
                f"a batch of {batch} {self.unit} is more than the {len(self)} training {self.unit} of this cohort: lower it"
            )
        return min(len(self) // batch, limit or len(self))

    def batches(self, stage: str, epoch: int, seed: int, batch: int, steps: range, rank: int, world: int) -> Iterator[Batch]:
        """This rank's share of the global batches numbered `steps` of an epoch."""
        order = permutation(len(self), seed, stage, "order", epoch)
        share = batch // world
        for step in steps:
            positions = np.arange(step * batch + rank * share, step * batch + (rank + 1) * share)
            yield self.cut(order[positions], sample_keys(positions, seed, stage, epoch))

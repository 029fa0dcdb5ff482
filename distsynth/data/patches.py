"""3-D patches: the feed of methods that train on them, and volumes assembled from a network's output patches.

    subjects of a split -> whole volumes (sum of z, modality + 2, H, W) float16 in shared memory -> batch of an (epoch, position)
    -> flips, rotations

As with slices, what is in a global batch is a pure function of (seed, stage, epoch, position): the position in the epoch's order selects the
subject, the sample's key the place in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad as pad_sides

from distsynth.data.augmentation import augment
from distsynth.data.batch import Batch
from distsynth.data.feed import Feed
from distsynth.data.intensity_map import IntensityMap
from distsynth.data.randomness import Keys, uniform
from distsynth.data.shared_memory import Share, open_shared, write_shared
from distsynth.data.slices import as_batch, read_stack
from distsynth.modalities import Variant
from distsynth.settings import DataSettings
from preprocess.cohort import Cohort
from preprocess.shared.errors import StoreError

AT_ONCE = 4  # patches per call of the network when a volume is assembled


class PatchFeed(Feed):
    """Cubes from the training volumes of some subjects, held in the node's memory: the same number of each subject in an epoch, each centred on
    a voxel of the brain, but moved to lie inside the volume if that is large enough."""

    unit: ClassVar[str] = "patches"

    def __init__(self, cohort: Cohort, subjects: Sequence[str], variant: Variant, mapping: IntensityMap, settings: DataSettings,
                 patch: int, per_subject: int, share: Share) -> None:  # fmt: skip
        """`patch` voxels along each side, `per_subject` patches of each subject in an epoch; `share` is `World.share`. `data.min_brain` is for
        slices and has no effect.

        Raises StoreError if an array is damaged or a subject has no brain voxel."""
        self.variant, self.settings, self.patch, self.per_subject = variant, settings, patch, per_subject
        heights: list[int] = []

        def write() -> str:
            stacks = [volume_of(cohort, subject, variant.modalities, mapping, settings) for subject in subjects]
            heights.extend(len(stack) for stack in stacks)
            return write_shared(np.concatenate(stacks))

        self.volumes = share(write, open_shared)
        self.starts = share(lambda: write_shared(np.cumsum([0, *heights])), open_shared)  # the first slice of each subject
        # Number of brain voxels before each slice: to find the n-th brain voxel, one slice is read.
        self.before = share(lambda: write_shared(np.cumsum([0, *map(brain_voxels, self.volumes)])), open_shared)

    def __len__(self) -> int:
        return (len(self.starts) - 1) * self.per_subject

    def cut(self, indices: npt.NDArray[np.int64], keys: Keys) -> Batch:
        """For each i of `indices` a patch of subject i // per_subject, placed, flipped and rotated as its key says."""
        pairs = zip(indices // self.per_subject, uniform(keys, "place"), strict=True)
        patches = np.stack([self.patch_at(int(subject), *self.brain_voxel(int(subject), share)) for subject, share in pairs])
        return as_batch(augment(patches, keys, self.settings), len(self.variant.inputs), keys)

    def brain_voxel(self, subject: int, share: float) -> tuple[int, int, int]:
        """z, y, x of one of the subject's brain voxels: the one at `share` (0 to 1) of their order."""
        first, end = self.starts[subject], self.starts[subject + 1]
        number = self.before[first] + int(share * (self.before[end] - self.before[first]))
        z = int(np.searchsorted(self.before, number, "right")) - 1
        brain = self.volumes[z, -2]
        y, x = divmod(int(np.flatnonzero(brain)[number - self.before[z]]), brain.shape[1])
        return z - int(first), y, x

    def patch_at(self, subject: int, *centre: int) -> npt.NDArray[np.float32]:
        """(modality + 2, patch, patch, patch) around a voxel of the subject."""
        volume = self.volumes[self.starts[subject] : self.starts[subject + 1]].swapaxes(0, 1)
        out = np.full((len(volume), *[self.patch] * 3), -1, np.float32)
        out[-2:] = 0
        taken, put = [], []
        for middle, side in zip(centre, volume.shape[1:], strict=True):
            start = first_voxel(middle, side, self.patch)
            taken.append(slice(max(start, 0), start + self.patch))
            put.append(slice(max(-start, 0), max(-start, 0) + min(side, self.patch)))
        out[(slice(None), *put)] = volume[(slice(None), *taken)]
        return out


def volume_of(
    cohort: Cohort, subject: str, modalities: Sequence[str], mapping: IntensityMap, settings: DataSettings
) -> npt.NDArray[np.float16]:
    """The subject's `read_stack`. Raises StoreError if it has no brain voxel."""
    stack = read_stack(cohort, subject, modalities, mapping, settings.clip)
    if not stack[:, -2].any():
        raise StoreError(f"subject {subject} of cohort {cohort.path} has no brain voxel")
    return stack


def brain_voxels(slice_: npt.NDArray[np.float16]) -> int:
    """Number of brain voxels in a (modality + 2, y, x) slice."""
    return int(np.count_nonzero(slice_[-2]))


def first_voxel(middle: int, side: int, patch: int) -> int:
    """Where a patch around `middle` begins on an axis of `side` voxels: inside the axis, or if that is shorter, centred on it (then below 0)."""
    return min(max(middle - patch // 2, 0), side - patch) if side >= patch else -((patch - side) // 2)


def assembled(
    network: Callable[..., Tensor], stacks: Sequence[Tensor], fill: Sequence[float], patch: int, keep: int, stride: int
) -> Tensor:
    """Apply a network to the patches of a volume and assemble its outputs: of each patch of `patch` voxels the middle `keep` are kept; these are
    `stride` apart and averaged where they overlap. With stride = keep they touch; with keep = patch whole patches overlap by patch - stride.

    stacks: (C, D, H, W), each padded with its `fill`; network: (B, C, patch, patch, patch) each -> (B, outputs, patch, patch, patch); result:
    (outputs, D, H, W) of any size. Memory grows with the volume only by the volume itself. The sums are in float64, so that the mean of equal
    values is exactly that value.
    """
    sides = stacks[0].shape[1:]
    margin = (patch - keep) // 2
    axes = [tiles(side, keep, stride) for side in sides]
    padding = []  # before and after each axis, last axis first as pad_sides expects
    for side, starts in zip(sides[::-1], axes[::-1], strict=True):
        padding += [margin - starts[0], starts[-1] - margin + patch - side]
    padded = [pad_sides(stack, padding, value=value) for stack, value in zip(stacks, fill, strict=True)]
    total, count = None, stacks[0].new_zeros([extent(axis, keep) for axis in axes], dtype=torch.float64)
    places = [[slice(s - axis[0], s - axis[0] + patch) for s in axis] for axis in axes]
    corners = list(product(*places))
    middle = (slice(margin, margin + keep),) * 3
    with torch.no_grad():
        for first in range(0, len(corners), AT_ONCE):
            group = corners[first : first + AT_ONCE]
            outputs = network(*(torch.stack([stack[(slice(None), *corner)] for corner in group]) for stack in padded))
            if total is None:
                total = outputs.new_zeros([outputs.shape[1], *count.shape], dtype=torch.float64)
            for corner, output in zip(group, outputs, strict=True):
                kept = tuple(slice(s.start, s.start + keep) for s in corner)
                total[(slice(None), *kept)] += output[(slice(None), *middle)]
                count[kept] += 1
    assert total is not None
    inside = tuple(slice(-starts[0], side - starts[0]) for side, starts in zip(sides, axes, strict=True))
    return (total[(slice(None), *inside)] / count[inside]).to(stacks[0].dtype)


def tiles(side: int, keep: int, stride: int) -> list[int]:
    """The starts of intervals of `keep` voxels, `stride` apart, that together cover an axis of `side` voxels and are centred on it."""
    more = max(0, -(-(side - keep) // stride))
    first = -((keep + more * stride - side) // 2)
    return [first + i * stride for i in range(more + 1)]


def extent(starts: Sequence[int], keep: int) -> int:
    """Number of voxels from the start of the first interval to the end of the last."""
    return starts[-1] - starts[0] + keep

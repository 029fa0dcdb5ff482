"""3-D patches: the feed of methods that train on them, and volumes assembled of what a network makes of them.

    subjects of a split -> whole volumes (sum of z, modality, H, W) float16 in shared memory -> batch of an (epoch, position) -> flips, rotations

As with slices, what a global batch holds is a pure function of (seed, stage, epoch, position): the position in the epoch's order says which
subject, the sample's key says where in it.
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
from distsynth.data.cohorts import read_image
from distsynth.data.feed import Feed
from distsynth.data.intensity_map import IntensityMap
from distsynth.data.randomness import Keys, uniform
from distsynth.data.shared_memory import Share, open_shared, write_shared
from distsynth.data.slices import as_batch, with_masks
from distsynth.modalities import Variant
from distsynth.settings import DataSettings
from preprocess.cohort import Cohort
from preprocess.shared.errors import StoreError

AT_ONCE = 4  # patches that go through a network at a time when a volume is assembled


class PatchFeed(Feed):
    """Cubes from the training volumes of some subjects, which are resident in the node's memory: so many of each subject in an epoch, each
    centred on a voxel of the brain, but inside the volume where that is large enough."""

    unit: ClassVar[str] = "patches"

    def __init__(self, cohort: Cohort, subjects: Sequence[str], variant: Variant, mapping: IntensityMap, settings: DataSettings,
                 patch: int, per_subject: int, share: Share) -> None:  # fmt: skip
        """`patch` voxels along each side, `per_subject` of them in an epoch; `share` is `World.share`.

        Raises StoreError if an array is damaged or holds no brain. `data.min_brain` speaks of slices and is not asked."""
        self.variant, self.settings, self.patch, self.per_subject = variant, settings, patch, per_subject
        heights: list[int] = []

        def write() -> str:
            stacks = [volume_of(cohort, subject, variant.modalities, mapping, settings) for subject in subjects]
            heights.extend(len(stack) for stack in stacks)
            return write_shared(np.concatenate(stacks))

        self.volumes = share(write, open_shared)
        self.starts = share(lambda: write_shared(np.cumsum([0, *heights])), open_shared)  # of each subject's slices
        # Brain voxels before each slice: the n-th one is found by looking into one slice.
        self.before = share(lambda: write_shared(np.cumsum([0, *map(brain_voxels, self.volumes)])), open_shared)

    def __len__(self) -> int:
        return (len(self.starts) - 1) * self.per_subject

    def cut(self, indices: npt.NDArray[np.int64], keys: Keys) -> Batch:
        """A patch of subject i // per_subject for each of `indices`, placed, flipped and turned as its key says."""
        pairs = zip(indices // self.per_subject, uniform(keys, "place"), strict=True)
        patches = np.stack([self.patch_at(int(subject), *self.brain_voxel(int(subject), share)) for subject, share in pairs])
        return as_batch(augment(patches, keys, self.settings), len(self.variant.inputs), keys)

    def brain_voxel(self, subject: int, share: float) -> tuple[int, int, int]:
        """z, y, x of the subject's brain voxel at `share` (0 to 1) of all of them in their order."""
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
    """(z, modality + 2, y, x): network intensities, brain and tumour. Raises StoreError if there is no brain."""
    image = read_image(cohort, subject, modalities, settings.clip)
    stack = with_masks(image, cohort.labels(subject), mapping.to_network(image, modalities))
    if not stack[:, -2].any():
        raise StoreError(f"subject {subject} of cohort {cohort.path} holds no brain")
    return stack


def brain_voxels(slice_: npt.NDArray[np.float16]) -> int:
    """Of a (modality + 2, y, x) slice."""
    return int(np.count_nonzero(slice_[-2]))


def first_voxel(middle: int, side: int, patch: int) -> int:
    """Where a patch around `middle` begins on an axis of `side` voxels: inside it, or centred on it where it is the shorter (then below 0)."""
    return min(max(middle - patch // 2, 0), side - patch) if side >= patch else -((patch - side) // 2)


def assembled(
    network: Callable[..., Tensor], stacks: Sequence[Tensor], fill: Sequence[float], patch: int, keep: int, stride: int
) -> Tensor:
    """What a network makes of the patches of a volume, put together: the middle `keep` of each `patch` voxels are kept, `stride` apart, and
    averaged where they overlap. With stride = keep they abut; with keep = patch whole patches overlap by patch - stride.

    stacks: (C, D, H, W), each surrounded by its `fill`; network: (B, C, patch, patch, patch) each -> (B, outputs, patch, patch, patch); result:
    (outputs, D, H, W) of any size. Memory does not grow with the volume but for the volume itself. The sums are kept in float64, so that the
    mean of equal values is that value.
    """
    sides = stacks[0].shape[1:]
    margin = (patch - keep) // 2
    axes = [tiles(side, keep, stride) for side in sides]
    wide = []  # of nothing around the volume, on either side of each axis, last axis first as pad_sides has it
    for side, starts in zip(sides[::-1], axes[::-1], strict=True):
        wide += [margin - starts[0], starts[-1] - margin + patch - side]
    wider = [pad_sides(stack, wide, value=value) for stack, value in zip(stacks, fill, strict=True)]
    total, count = None, stacks[0].new_zeros([end(axis, keep) for axis in axes], dtype=torch.float64)
    places = [[slice(s - axis[0], s - axis[0] + patch) for s in axis] for axis in axes]
    corners = list(product(*places))
    middle = (slice(margin, margin + keep),) * 3
    with torch.no_grad():
        for first in range(0, len(corners), AT_ONCE):
            group = corners[first : first + AT_ONCE]
            made = network(*(torch.stack([stack[(slice(None), *corner)] for corner in group]) for stack in wider))
            if total is None:
                total = made.new_zeros([made.shape[1], *count.shape], dtype=torch.float64)
            for corner, found in zip(group, made, strict=True):
                kept = tuple(slice(s.start, s.start + keep) for s in corner)
                total[(slice(None), *kept)] += found[(slice(None), *middle)]
                count[kept] += 1
    assert total is not None
    inside = tuple(slice(-starts[0], side - starts[0]) for side, starts in zip(sides, axes, strict=True))
    return (total[(slice(None), *inside)] / count[inside]).to(stacks[0].dtype)


def tiles(side: int, keep: int, stride: int) -> list[int]:
    """Where stretches of `keep` voxels begin, `stride` apart, that together cover an axis of `side` voxels and are centred on it."""
    more = max(0, -(-(side - keep) // stride))
    first = -((keep + more * stride - side) // 2)
    return [first + i * stride for i in range(more + 1)]


def end(starts: Sequence[int], keep: int) -> int:
    """Voxels from the first stretch's beginning to the last one's end."""
    return starts[-1] - starts[0] + keep

"""The feed of axial slices: a split's subjects are held once per node.

subjects of a split -> slices (N, modality + 2, H, W) float16 in shared memory -> batch of an (epoch, position) -> flips, rotations
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from distsynth.data.augmentation import augment
from distsynth.data.batch import Batch
from distsynth.data.cohorts import read_image
from distsynth.data.feed import Feed
from distsynth.data.intensity_map import IntensityMap
from distsynth.data.randomness import Keys, splitmix, uniform
from distsynth.data.shared_memory import Share, open_shared, write_shared
from distsynth.modalities import Variant
from distsynth.settings import DataSettings
from preprocess.cohort import BACKGROUND, Cohort
from preprocess.shared.errors import SettingError


class SliceFeed(Feed):
    """The training slices of some subjects, held in the node's memory."""

    unit: ClassVar[str] = "slices"

    def __init__(self, cohort: Cohort, subjects: Sequence[str], variant: Variant, mapping: IntensityMap, settings: DataSettings,
                 size: tuple[int, int], share: Share, paired: bool = True, incomplete: bool = False) -> None:  # fmt: skip
        """`size` is the H x W that the slices are padded to; `share` is `World.share`; `paired` and `incomplete` are explained in `Method`.

        Raises StoreError if an array is damaged, SettingError if no slice has enough brain or an unpaired method gets only one patient."""
        self.variant, self.settings, self.size = variant, settings, size
        patients = [cohort.record(subject).patient for subject in subjects]
        if not paired:
            if len(set(patients)) < 2:
                raise SettingError("an unpaired method needs slices of at least two patients, and this split has one")
            pairs = sorted(zip(patients, subjects, strict=True))
            patients, subjects = [patient for patient, _ in pairs], [subject for _, subject in pairs]
        counts: list[int] = []

        def write() -> str:
            stacks = [slices_of(cohort, s, variant.modalities, mapping, settings, incomplete) for s in subjects]
            counts.extend(len(stack) for stack in stacks)
            if not any(counts):
                raise SettingError(
                    f"no training slice of {len(subjects)} subjects has data.min_brain={settings.min_brain} of brain: lower it"
                )
            return write_shared(np.concatenate(stacks))

        self.slices = share(write, open_shared)
        present = [[name in cohort.record(subject).modalities for name in variant.modalities] for subject in subjects]
        self.present = (
            share(lambda: write_shared(np.repeat(np.array(present, np.float32), counts, axis=0)), open_shared)
            if incomplete
            else None
        )
        numbers = np.unique(patients, return_inverse=True)[1]

        def write_patients() -> str:
            of_slices = np.repeat(numbers, counts)
            if of_slices[0] == of_slices[-1]:
                raise SettingError(
                    f"an unpaired method needs slices of at least two patients, and data.min_brain={settings.min_brain} leaves one: lower it"
                )
            return write_shared(of_slices)

        self.patients = None if paired else share(write_patients, open_shared)

    def __len__(self) -> int:
        return len(self.slices)

    def cut(self, indices: npt.NDArray[np.int64], keys: Keys) -> Batch:
        """The slices `indices`, padded to the networks' size, flipped and rotated as their keys say."""
        inputs = len(self.variant.inputs)
        batch = as_batch(self.augmented(indices, keys), inputs, keys)
        if self.present is not None:
            batch = batch.having(present=torch.from_numpy(self.present[indices]))
        if self.patients is None:
            return batch
        others = partners(self.patients, indices, uniform(keys, "partner"))
        other = as_batch(self.augmented(others, splitmix(keys)), inputs, keys)
        return replace(batch, targets=other.targets).having(target_brain=other.brain)

    def augmented(self, indices: npt.NDArray[np.int64], keys: Keys) -> npt.NDArray[np.float32]:
        return augment(pad(np.asarray(self.slices[indices], np.float32), self.size), keys, self.settings)


def partners(patients: npt.NDArray[Any], indices: npt.NDArray[np.int64], share: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """For each slice one of another patient: the one at `share` (0 to 1) of all slices of other patients. `patients` is ascending."""
    first = np.searchsorted(patients, patients[indices], "left")
    own = np.searchsorted(patients, patients[indices], "right") - first
    place = (share * (len(patients) - own)).astype(np.int64)
    return np.asarray(np.where(place < first, place, place + own), np.int64)


def slices_of(
    cohort: Cohort,
    subject: str,
    modalities: Sequence[str],
    mapping: IntensityMap,
    settings: DataSettings,
    incomplete: bool = False,
) -> npt.NDArray[np.float16]:
    """(N, modality + 2, H, W): the slices of `read_stack` that have enough brain."""
    stack = read_stack(cohort, subject, modalities, mapping, settings.clip, incomplete)
    enough = stack[:, -2].mean(axis=(1, 2)) >= settings.min_brain
    return np.asarray(stack[enough])


def read_stack(
    cohort: Cohort, subject: str, modalities: Sequence[str], mapping: IntensityMap, clip: bool, incomplete: bool = False
) -> npt.NDArray[np.float16]:
    """(z, modality + 2, y, x): the network intensities, brain and tumour of a subject. For the rest see `read_image`."""
    image = read_image(cohort, subject, modalities, clip, incomplete)
    return with_masks(image, cohort.labels(subject), mapping.to_network(image, modalities))


def with_masks(
    image: npt.NDArray[np.float32], labels: npt.NDArray[np.uint8], values: npt.NDArray[np.float32]
) -> npt.NDArray[np.float16]:
    """(z, modality + 2, y, x): the values, then brain and whole tumour as 0 and 1."""
    masks = np.stack([(image != BACKGROUND).any(axis=0), labels > 0])
    return np.concatenate([values, masks]).swapaxes(0, 1).astype(np.float16)


def as_batch(slices: npt.NDArray[np.float32], inputs: int, keys: Keys) -> Batch:
    """(B, modality + 2, H, W) slices, inputs first, as a Batch."""
    tensor = torch.from_numpy(np.ascontiguousarray(slices))
    return Batch(tensor[:, :inputs], tensor[:, inputs:-2], tensor[:, -2:-1], tensor[:, -1:], keys)


def padded_size(shape: Sequence[int], stride: int) -> tuple[int, int]:
    """The smallest multiples of `stride` that are at least H x W."""
    height, width = (-(-n // stride) * stride for n in shape)
    return height, width


def pad(slices: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[Any]:
    """(B, modality + 2, h, w) slices centred in H x W: intensities padded with -1, masks with 0."""
    offsets = centre(slices.shape[-2:], size)
    out = np.full((*slices.shape[:2], *size), -1, slices.dtype)
    out[:, -2:] = 0
    out[(..., *offsets)] = slices
    return out


def centre(shape: Sequence[int], size: tuple[int, int]) -> tuple[slice, slice]:
    """The position of h x w centred in H x W: `padded[..., *centre(...)]` undoes `pad`."""
    top, left = (size[0] - shape[0]) // 2, (size[1] - shape[1]) // 2
    return slice(top, top + shape[0]), slice(left, left + shape[1])

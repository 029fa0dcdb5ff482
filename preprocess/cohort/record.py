"""What the store knows about one subject."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from preprocess.cohort.files import REMEDY, record_path
from preprocess.shared.errors import StoreError
from preprocess.shared.files import read_bytes


@dataclass
class Record:
    """One subject: enough to return a volume to the patient's own grid, type and units, and to detect odd cases without their images.

    The dictionaries have one entry for each modality of the subject; `source`, `dtypes` and `scaling` also for `seg` and `mask` where they exist.
    """

    subject: str
    patient: str
    grade: str
    modalities: list[str]  # those that exist, in the order of the image's channels
    shape: list[int]  # (z, y, x) as stored
    spacing: list[float]  # (z, y, x) in mm as stored
    affine: list[list[float]]  # of the stored grid: voxel (x, y, z) -> mm
    source: dict[str, dict[str, str]]  # file name, its sha256
    dtypes: dict[str, str]  # of the source's voxels as stored
    scaling: dict[str, list[float]]  # slope and intercept that turn them into intensities
    content: dict[str, str]  # sha256 of the stored channel: equal ones are the same image under two names
    original_shape: list[int]  # (x, y, z) of the files
    original_affine: list[list[float]]
    original_orientation: str
    canonical_shape: list[int]  # (z, y, x) before the crop
    crop_offset: list[int]  # (z, y, x) where the crop begins in the canonical grid
    brain_size: list[int]  # (z, y, x) voxels of the brain's bounding box before the crop
    brain_voxels: int
    brain_voxels_lost: int
    intensity: dict[str, dict[str, float]]  # see preprocess.intensity.Statistics.record
    quality: dict[str, dict[str, float]]  # see preprocess.intensity.quality
    clip_share: dict[str, dict[str, float]]  # by modality and label
    label_voxels: dict[str, int]  # by label, before the crop
    has_labels: bool
    noted: list[tuple[str, str]] = field(default_factory=list)  # what is odd: kind of file, or empty for all, and a sentence

    def stored(self) -> dict[str, Any]:
        """The record as JSON holds it; without an empty `noted`, which version 0.1 lacked."""
        return {name: value for name, value in asdict(self).items() if name != "noted" or value}

    @property
    def brain_share_lost(self) -> float:
        """Share of the brain's voxels that lie outside the crop."""
        return self.brain_voxels_lost / (self.brain_voxels + self.brain_voxels_lost)


def read_record(store: Path, subject: str, digest: str) -> Record:
    """Raises StoreError if the record's file is missing or its sha256 is not `digest`."""
    path = record_path(store, subject)
    try:
        written = read_bytes(path)
        if hashlib.sha256(written).hexdigest() != digest:
            raise StoreError(f"{path} has changed since it was written: {REMEDY}")
        return Record(**json.loads(written)["record"])
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror}): {REMEDY}") from error
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"{path} is not a record of this version: remove it and run to_zarr again") from error

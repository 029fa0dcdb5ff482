"""The reading side of a cohort: it reads only what the manifest names."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from preprocess.cohort.arrays import REMEDY, array_digest, open_array, read_array
from preprocess.cohort.files import IMAGE, SCHEMA, SEG, json_digest, read_json, read_sealed, refuse_foreign, subject_path
from preprocess.cohort.record import Record, read_record
from preprocess.shared.errors import StoreError
from preprocess.splits import SPLITS


class Cohort:
    """The subjects of a store, of one fold of it, or of those that have certain contrasts (see `having`).

    The manifest and each record are read once: other folds and the cohorts that `having` returns share them. A pickled cohort includes
    what has been read.
    """

    def __init__(self, path: Path, manifest: dict[str, Any], fold: int = 0) -> None:
        """Raises StoreError if the manifest has no such fold."""
        if not 0 <= fold < len(manifest["folds"]):
            raise StoreError(f"cohort {path} has no fold {fold}: its folds are 0 to {len(manifest['folds']) - 1}")
        self.path = path
        self.manifest = manifest
        self.fold = fold
        self.recipe: dict[str, Any] = manifest["recipe"]
        self.modalities: list[str] = manifest["modalities"]
        self.whole = self  # the cohort of this fold with all its subjects
        self._folds = {fold: self}
        self._records: dict[str, Record] = {}  # those that have been read
        self._hold(sorted(manifest["subjects"]), manifest["folds"][fold])

    def _hold(self, subjects: list[str], split: dict[str, list[str]]) -> None:
        self.subjects, self._split = subjects, split
        self._members = frozenset(subjects)
        self._narrowed: dict[tuple[frozenset[str], int], Cohort] = {}
        self._digest = ""

    @classmethod
    def open(cls, path: str | Path, fold: int = 0) -> Cohort:
        """Raises StoreError if there is no finished cohort at `path`, its manifest is damaged, another version of distsynth made it, or it
        has no such fold."""
        folder = Path(path)
        manifest_file = folder / "manifest.json"
        if not manifest_file.is_file():
            what = "is not finished or is not a cohort" if folder.is_dir() else "does not exist"
            scans = folder.is_dir() and not (folder / "zarr.json").exists() and any(folder.iterdir())
            words = f"source={folder} store=…" if scans else f"source=… store={folder}"
            raise StoreError(f"cohort {folder} {what}: run python -m preprocess.to_zarr {words}")
        manifest = read_json(manifest_file)
        if manifest.get("schema") != SCHEMA:
            schema = manifest.get("schema")
            raise StoreError(f"cohort {folder} has schema {schema}, and this version reads {SCHEMA}: make it again with to_zarr")
        sealed = read_sealed(manifest_file)
        refuse_foreign(manifest_file, sealed)
        return cls(folder, sealed, fold)

    @property
    def digest(self) -> str:
        """Identifies the data: a hash of the manifest, which contains that of every array, and of the split."""
        self._digest = self._digest or json_digest([self.manifest, self._split])
        return self._digest

    def in_fold(self, fold: int) -> Cohort:
        """All subjects of the store, split as in another fold. Raises StoreError if there is no such fold."""
        if fold not in self._folds:
            other = Cohort(self.path, self.manifest, fold)
            other._folds, other._records = self._folds, self._records
            self._folds[fold] = other
        return self._folds[fold]

    def having(self, modalities: Iterable[str], at_least: int | None = None) -> Cohort:
        """The same cohort without the subjects that lack one of the contrasts, or have fewer than `at_least` of them."""
        wanted = frozenset(modalities)
        enough = len(wanted) if at_least is None else at_least
        if (wanted, enough) not in self._narrowed:
            kept = [s for s, record in self.records.items() if len(wanted.intersection(record.modalities)) >= enough]
            self._narrowed[wanted, enough] = self if len(kept) == len(self.subjects) else self._only(kept)
        return self._narrowed[wanted, enough]

    def _only(self, subjects: list[str]) -> Cohort:
        fewer, kept = copy.copy(self), frozenset(subjects)
        fewer._hold(subjects, {name: [s for s in members if s in kept] for name, members in self._split.items()})
        return fewer

    def split(self, name: str) -> list[str]:
        """The subjects of `segmentor`, `gan`, `val` or `test`."""
        if name not in SPLITS:
            raise StoreError(f"split {name!r} is not known: choose from {', '.join(SPLITS)}")
        return list(self._split[name])

    @property
    def rejected(self) -> dict[str, str]:
        """The cases that were set aside, with the reason."""
        return read_json(self.path / "rejected.json")

    @property
    def records(self) -> dict[str, Record]:
        """Every subject's record."""
        return {subject: self.record(subject) for subject in self.subjects}

    def record(self, subject: str) -> Record:
        """Raises StoreError if the cohort does not hold the subject, or its record is damaged."""
        if subject not in self._members:
            raise StoreError(f"{subject} is not in the manifest of {self.path}")
        if subject not in self._records:
            self._records[subject] = read_record(self.path, subject, self.manifest["subjects"][subject]["record"])
        return self._records[subject]

    def image(self, subject: str) -> npt.NDArray[np.float32]:
        """(modality, z, y, x) z-scores of the contrasts in the subject's record, unclipped; background exactly -9.

        Raises StoreError if the array is damaged.
        """
        return self._array(subject, IMAGE).astype(np.float32, copy=False)

    def labels(self, subject: str) -> npt.NDArray[np.uint8]:
        """(z, y, x) BRATS labels, all 0 if the case has no segmentation. Raises StoreError if the array is damaged."""
        return self._array(subject, SEG)

    def lazy_image(self, subject: str) -> Any:
        """The zarr array of `image`, to read parts of it; each chunk is checked as it is read. Raises StoreError."""
        return open_array(subject_path(self.path, subject), IMAGE, self._shape(subject, IMAGE))

    def lazy_labels(self, subject: str) -> Any:
        """The zarr array of `labels`, likewise."""
        return open_array(subject_path(self.path, subject), SEG, self._shape(subject, SEG))

    def _array(self, subject: str, name: str) -> npt.NDArray[Any]:
        folder = subject_path(self.path, subject)
        array = read_array(folder, name, self._shape(subject, name))
        if array_digest(array) != self.manifest["subjects"][subject][name]:
            raise StoreError(f"{folder / name} is not the array that the manifest names: {REMEDY}")
        return array

    def _shape(self, subject: str, name: str) -> list[int]:
        record = self.record(subject)
        return record.shape if name == SEG else [len(record.modalities), *record.shape]

"""The cohort: a Zarr store of preprocessed subjects. This module alone knows its layout.

    COHORT.zarr/zarr.json                    Zarr v3 group; attributes: schema, recipe, modalities
    COHORT.zarr/subjects/NAME/image          (modality, z, y, x) float16 or float32 z-scores, unclipped, background exactly -9
    COHORT.zarr/subjects/NAME/labels/seg     (z, y, x) uint8, BRATS labels
    COHORT.zarr/records/NAME.json            commits the subject: its record and the sha256 of its arrays
    COHORT.zarr/manifest.json                what training reads: recipe, modalities, split, committed subjects with their sha256
    COHORT.zarr/rejected.json                cases set aside, with the reason

A subject is staged in COHORT.zarr.partial, read back, renamed into the store and then committed by its record, so that a kill
at any moment leaves only whole subjects. Each array is one shard file of axial slices behind crc32c: without it a flipped bit
reads back silently wrong. An absent or empty shard file reads as the fill value, so whole arrays are also held against the
sha256 in the manifest. No clock times, so equal input gives equal bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from preprocess.errors import StoreError
from preprocess.intensity import BACKGROUND as BACKGROUND
from preprocess.locks import only_one
from preprocess.splits import SPLITS

SCHEMA = 1
ARRAYS = ("image", "labels/seg")
REMEDY = "restore it, or remove the subject's file in records/ and run to_zarr again"


@dataclass
class Record:
    """What is known of one subject; enough to take a volume back to the patient's own grid and header."""

    subject: str
    patient: str
    grade: str
    modalities: list[str]
    shape: list[int]  # (z, y, x) as stored
    spacing: list[float]  # (z, y, x) in mm as stored
    affine: list[list[float]]  # of the stored grid: voxel (x, y, z) -> mm
    source: dict[str, dict[str, str]]  # by modality and seg: file name, sha256
    original_shape: list[int]  # (x, y, z) of the files
    original_affine: list[list[float]]
    original_orientation: str
    canonical_shape: list[int]  # (z, y, x) before the crop
    crop_offset: list[int]  # (z, y, x) of the crop in the canonical grid
    brain_voxels: int
    brain_voxels_lost: int
    intensity: dict[str, dict[str, float]]  # by modality: see preprocess.intensity.Statistics.record
    clip_share: dict[str, dict[str, float]]  # by modality and label
    has_labels: bool


class Cohort:
    """The reading side: only what the manifest names."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self.recipe: dict[str, Any] = manifest["recipe"]
        self.modalities: list[str] = manifest["modalities"]
        self.subjects: list[str] = sorted(manifest["subjects"])

    @classmethod
    def open(cls, path: str | Path) -> Cohort:
        """Raises StoreError if there is no finished cohort at `path` or another version of distsynth made it."""
        folder = Path(path)
        manifest_file = folder / "manifest.json"
        if not manifest_file.is_file():
            what = "is not finished, or no cohort" if folder.is_dir() else "does not exist"
            raise StoreError(f"cohort {folder} {what}: run python -m preprocess.to_zarr source=… store={folder}")
        manifest = read_json(manifest_file)
        if manifest.get("schema") != SCHEMA:
            found = manifest.get("schema")
            raise StoreError(f"cohort {folder} has schema {found} and this version reads {SCHEMA}: make it again with to_zarr")
        if missing := sorted({"recipe", "modalities", "split", "subjects"} - set(manifest)):
            raise StoreError(f"{manifest_file} lacks {', '.join(missing)}: run to_zarr again")
        return cls(folder, manifest)

    @property
    def digest(self) -> str:
        """Names the data: a hash of the manifest, which holds every array's own."""
        return hashlib.sha256(json.dumps(self.manifest, sort_keys=True).encode()).hexdigest()

    def split(self, name: str) -> list[str]:
        """The subjects of `segmentor`, `gan`, `val` or `test`."""
        if name not in SPLITS:
            raise StoreError(f"split {name!r} is not known: choose from {', '.join(SPLITS)}")
        return list(self.manifest["split"][name])

    @cached_property
    def records(self) -> dict[str, Record]:
        """Every subject's record."""
        return {subject: read_record(self.path, subject) for subject in self.subjects}

    def record(self, subject: str) -> Record:
        """Raises StoreError if the manifest does not name the subject."""
        if subject not in self.manifest["subjects"]:
            raise StoreError(f"{subject} is not in the manifest of {self.path}")
        return self.records[subject]

    def image(self, subject: str) -> npt.NDArray[np.float32]:
        """(modality, z, y, x) z-scores, unclipped; background exactly -9. Raises StoreError if the array is damaged."""
        return self._array(subject, "image").astype(np.float32, copy=False)

    def labels(self, subject: str) -> npt.NDArray[np.uint8]:
        """(z, y, x) BRATS labels, all 0 where the case had no segmentation. Raises StoreError if the array is damaged."""
        return self._array(subject, "labels/seg")

    def _array(self, subject: str, name: str) -> npt.NDArray[Any]:
        shape = self.record(subject).shape
        array = read_array(self.path / "subjects" / subject, name, shape if name != "image" else [len(self.modalities), *shape])
        if sha256(array) != self.manifest["subjects"][subject][name]:
            raise StoreError(f"{self.path / 'subjects' / subject / name} is not the array that the manifest names: {REMEDY}")
        return array


def read_array(folder: Path, name: str, shape: Sequence[int]) -> npt.NDArray[Any]:
    """A subject's whole array, checked. Raises StoreError naming the file."""
    import zarr

    shard = folder / name / "c" / "/".join("0" * len(shape))
    if not shard.is_file():
        raise StoreError(f"{shard} is missing: {REMEDY}")
    if not shard.stat().st_size:  # zarr would read it as the fill value; a power cut can leave one
        raise StoreError(f"{shard} is empty: {REMEDY}")
    try:
        array = np.asarray(zarr.open_array(folder / name, mode="r")[...])
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise StoreError(f"{shard} is damaged ({reason}): {REMEDY}") from error
    if list(array.shape) != list(shape):
        raise StoreError(f"{folder / name} has shape {list(array.shape)} and its record says {list(shape)}")
    return array


class CohortWriter:
    """The writing side. `lock` it, `write` subjects from any process, then `finish`."""

    def __init__(self, path: str | Path, recipe: dict[str, Any], modalities: Sequence[str]) -> None:
        self.path = Path(path)
        if not self.path.name or self.path.is_file():
            raise StoreError(f"store={path} cannot be a cohort: give the path of a folder to make, for example data/brats.zarr")
        self.staging = self.path.with_name(self.path.name + ".partial")
        self.recipe, self.modalities = recipe, list(modalities)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only writer; clear what a killed one left. Raises StoreError if another is at work or the recipe differs."""
        self.staging.mkdir(parents=True, exist_ok=True)
        with only_one(self.staging / ".lock", f"another to_zarr is writing {self.path}: wait for it, or give another store="):
            for leftover in self.staging.iterdir():
                if leftover.is_dir():
                    shutil.rmtree(leftover)
            try:
                self._create()
                yield
            finally:  # on a full disk above all, what is half-written must not stay
                shutil.rmtree(self.staging, ignore_errors=True)

    def _create(self) -> None:
        import zarr

        if not (self.path / "zarr.json").is_file():
            if self.path.is_dir() and any(self.path.iterdir()):
                raise StoreError(f"store={self.path} exists and is no cohort: give another path")
            attributes = {"schema": SCHEMA, "recipe": self.recipe, "modalities": self.modalities}
            zarr.create_group(self.path, attributes=attributes)  # in one write: a kill must not leave a store without a recipe
        attributes = read_json(self.path / "zarr.json").get("attributes", {})
        if attributes.get("schema") != SCHEMA:
            raise StoreError(f"store={self.path} is no cohort of this version (schema {SCHEMA}): give another store=")
        if differing := differences(attributes["recipe"], self.recipe, "recipe."):
            what = "; ".join(differing)
            raise StoreError(f"store={self.path} was made by another recipe ({what}): give another store=, or the old settings")
        zarr.open_group(self.path, mode="a").require_group("subjects")
        (self.path / "records").mkdir(exist_ok=True)

    def committed(self) -> set[str]:
        """The subjects that are finished."""
        return {path.stem for path in (self.path / "records").glob("*.json")}

    def write(self, record: Record, image: npt.NDArray[Any], labels: npt.NDArray[np.uint8]) -> None:
        """Stage, read back, rename and commit one subject; image (modality, z, y, x), labels (z, y, x).

        Raises StoreError if the name is no plain file name or an array does not read back, OSError on a full disk.
        """
        import zarr

        commit = record_path(self.path, record.subject)  # first: it refuses names that lead out, and what is staged gets removed
        staged = self.staging / record.subject
        shutil.rmtree(staged, ignore_errors=True)
        group = zarr.open_group(staged, mode="w")
        group.require_group("labels")
        hashes = {}
        for name, array in zip(ARRAYS, (image, labels), strict=True):
            write_array(staged / name, array)
            if read_array(staged, name, array.shape).tobytes() != array.tobytes():
                raise StoreError(f"{staged / name} does not read back as it was written: the disk is not to be trusted")
            hashes[name] = sha256(array)
        target = self.path / "subjects" / record.subject
        shutil.rmtree(target, ignore_errors=True)  # of a run killed between renaming and committing
        staged.replace(target)
        write_json(commit, {"record": dataclasses.asdict(record), "sha256": hashes})

    def finish(self, split: Mapping[str, Sequence[str]], rejected: Mapping[str, str]) -> None:
        """Write the manifest from the committed subjects, and the cases set aside. `split` holds subjects by split."""
        hashes = {subject: read_json(record_path(self.path, subject))["sha256"] for subject in sorted(self.committed())}
        manifest = {"schema": SCHEMA, "recipe": self.recipe, "modalities": self.modalities, "split": split, "subjects": hashes}
        write_json(self.path / "rejected.json", dict(sorted(rejected.items())))
        write_json(self.path / "manifest.json", manifest)


def write_array(path: Path, array: npt.NDArray[Any]) -> None:
    """One shard file; inner chunks are axial slices, of all modalities together."""
    import zarr
    from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec

    chunks = (*array.shape[:-3], 1, *array.shape[-2:])
    codecs = (BloscCodec(cname="lz4", clevel=5, typesize=array.itemsize), Crc32cCodec())
    made = zarr.create_array(
        path, shape=array.shape, dtype=array.dtype, chunks=chunks, shards=array.shape,
        serializer=BytesCodec(), compressors=codecs,
        config={"write_empty_chunks": True},  # else labels that are 0 throughout have no shard file, as if it were lost
    )  # fmt: skip
    made[...] = array


def sha256(array: npt.NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def record_path(store: Path, subject: str) -> Path:
    """Raises StoreError for a name that would lead out of its folder."""
    if subject in ("", ".", "..") or Path(subject).name != subject:
        raise StoreError(f"{subject!r} cannot name a subject: it is no plain file name")
    return store / "records" / f"{subject}.json"


def read_record(store: Path, subject: str) -> Record:
    """Raises StoreError if the record is absent or damaged."""
    path = record_path(store, subject)
    try:
        return Record(**read_json(path)["record"])
    except (KeyError, TypeError) as error:
        raise StoreError(f"{path} is no record of this version: remove it and run to_zarr again") from error


def read_json(path: Path) -> dict[str, Any]:
    """Raises StoreError if the file is absent or holds no JSON object."""
    try:
        loaded = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read ({str(error).splitlines()[0]}): run to_zarr again") from error
    if not isinstance(loaded, dict):
        raise StoreError(f"{path} holds no JSON object: run to_zarr again")
    return loaded


def write_json(path: Path, value: Any) -> None:
    """Atomically and durably."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w") as file:
        file.write(json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The settings that differ between two recipes: `recipe.n4.spacing: 6.0 there, 4.0 here`."""
    found = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key}: {a} there, {b} here")
    return found

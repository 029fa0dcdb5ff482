"""The writing side of a cohort: subjects are staged, read back, renamed into the store and committed."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from preprocess.cohort import consolidated, ome
from preprocess.cohort.arrays import array_digest, read_array, write_array
from preprocess.cohort.files import (
    IMAGE,
    METADATA,
    SCHEMA,
    SEG,
    STORE_FILES,
    file_digest,
    naming_of,
    read_json,
    read_sealed,
    record_path,
    store_above,
    subject_path,
    write_sealed,
)
from preprocess.cohort.record import Record
from preprocess.shared.errors import StoreError
from preprocess.shared.files import write_atomically, write_json
from preprocess.shared.locks import only_one
from preprocess.shared.settings import differences


class CohortWriter:
    """Writes a cohort: `lock` it, `write` subjects from any process, then `finish`."""

    def __init__(
        self, path: str | Path, recipe: dict[str, Any], modalities: Sequence[str], naming: Mapping[str, Any] | None = None
    ) -> None:
        """`naming`: the settings by which the source's files were named, where they are not the defaults (see `files.naming_of`)."""
        self.path = Path(path)
        if not self.path.name or self.path.is_file():
            raise StoreError(f"store={path} cannot be a cohort: give the path of a folder to make, for example data/brats.zarr")
        if store := store_above(self.path):
            raise StoreError(f"store={path} lies inside the cohort {store}: give a path beside it")
        self.recipe, self.modalities, self.naming = recipe, list(modalities), dict(naming or {})
        if self.path.is_symlink():
            self.path = self.path.resolve()  # every writer must lock the same file, and a rename needs one file system
        self.partial = self.path.with_name(self.path.name + ".partial")
        self.staging = self.partial / "staged" / "whole"
        self.reasons = self.partial / "rejected"

    @contextmanager
    def lock(self, part: str = "") -> Iterator[None]:
        """Be the only writer or, with the name of a `part`, the only writer of this part, beside those of other parts.

        Removes what a killed writer left, and at its end a store without a subject, which only a part leaves for `finish`. Raises StoreError
        if another one is at work or the recipe differs.
        """
        busy = f"another to_zarr is writing {self.path}: wait for it, or give another store="
        self.staging = self.partial / "staged" / (part or "whole")
        mine = self.staging if part else self.staging.parent
        lock = self.path.with_name(self.path.name + ".lock")
        if part and self._can_be_taken_over():
            with suppress(StoreError), only_one(lock, busy):
                self._take_over()
        with ExitStack() as held:
            held.enter_context(only_one(lock, busy, shared=bool(part)))
            if part:
                held.enter_context(only_one(self.partial / "locks" / part, busy))
            shutil.rmtree(mine, ignore_errors=True)
            try:
                if not part and self._can_be_taken_over():
                    self._take_over()
                self.staging.mkdir(parents=True)
                self._create()
                yield
            finally:  # above all on a full disk, nothing half-written may stay
                shutil.rmtree(mine, ignore_errors=True)
                if not part:
                    if self._is_empty():
                        shutil.rmtree(self.path, ignore_errors=True)
                    shutil.rmtree(self.partial / "locks", ignore_errors=True)
                    with suppress(OSError):
                        self.partial.rmdir()  # stays while it holds parts' reasons, until a manifest is written
                    lock.unlink(missing_ok=True)  # last: the next writer must not see files that are still being removed

    def _create(self) -> None:
        """Make an empty store by one rename, so that a kill leaves none without a recipe; or check that the existing one has this recipe."""
        import zarr

        expected = {"schema": SCHEMA, "recipe": self.recipe, "modalities": self.modalities}
        if self.naming:
            expected["naming"] = self.naming
        if not self.path.is_dir() or not any(self.path.iterdir()):
            empty = self.staging / "empty"
            zarr.create_group(empty, attributes=expected).create_group("subjects")
            (empty / "records").mkdir()
            try:
                empty.replace(self.path)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another part was first
                    raise
        self.check()

    def check(self) -> None:
        """Raise StoreError if the store exists and is no cohort of this recipe. Writes nothing."""
        if not self.path.is_dir() or not any(self.path.iterdir()):
            return
        if not (self.path / "zarr.json").is_file():
            raise StoreError(f"store={self.path} exists and is not a cohort: give another path")
        attributes = read_json(self.path / "zarr.json").get("attributes", {})
        if attributes.get("schema") != SCHEMA:
            raise StoreError(f"store={self.path} is not a cohort of this version (schema {SCHEMA}): give another store=")
        if differing := differences(attributes["recipe"], self.recipe, "recipe."):
            settings = "; ".join(differing)
            raise StoreError(
                f"store={self.path} was made with another recipe ({settings}): give another store=, or the old settings"
            )

    def _is_empty(self) -> bool:
        """Whether the path holds a store of ours in which no subject was ever committed."""
        return (
            (self.path / "zarr.json").is_file()
            and (self.path / "records").is_dir()
            and not (self.path / "manifest.json").exists()
            and not self.committed()
        )

    def _can_be_taken_over(self) -> bool:
        """Whether an empty store has another recipe or naming: a first run that came to nothing, or was killed."""
        if not self._is_empty():
            return False
        attributes = read_json(self.path / "zarr.json").get("attributes", {})
        ours = {"schema": SCHEMA, "recipe": self.recipe, "modalities": self.modalities, "naming": self.naming}
        return bool(attributes.get("schema")) and {"naming": {}, **attributes} != ours

    def _take_over(self) -> None:
        shutil.rmtree(self.path)
        shutil.rmtree(self.reasons, ignore_errors=True)

    def remember(self) -> None:
        """Store the naming of this call in place of an earlier one's. Its checksum is in the manifest, so call `finish` next. A finished store of
        version 0.1 stays as it is: runs know it by its digest."""
        group = read_json(self.path / "zarr.json")
        attributes = {name: value for name, value in group["attributes"].items() if name != "naming"}
        if naming_of(self.path) != self.naming and self._is_new():
            group["attributes"] = attributes | ({"naming": self.naming} if self.naming else {})
            write_atomically(self.path / "zarr.json", json.dumps(group, indent=2))

    def committed(self) -> set[str]:
        """The names of the finished subjects."""
        return {path.stem for path in (self.path / "records").glob("*.json")}

    def regrade(self, subject: str, grade: str) -> bool:
        """Correct a committed subject's grade; returns whether it differed. Not in a store of version 0.1. Raises StoreError for a damaged record."""
        path = record_path(self.path, subject)
        commit = read_sealed(path)
        if commit["record"]["grade"] == grade or not self._is_new():
            return False
        write_sealed(path, {**commit, "record": {**commit["record"], "grade": grade}})
        return True

    def write(self, record: Record, image: npt.NDArray[Any], labels: npt.NDArray[np.uint8]) -> None:
        """Stage, read back, rename and commit one subject; image (modality, z, y, x), labels (z, y, x).

        Raises CaseError if the name cannot be that of a file, StoreError if an array reads back differently, OSError on a full disk.
        """
        commit = record_path(
            self.path, record.subject
        )  # first: it refuses names that lead out of the store, where files would be removed
        staged = self.staging / record.subject
        shutil.rmtree(staged, ignore_errors=True)
        hashes = self._stage(staged, record, image, labels)
        target = subject_path(self.path, record.subject)
        shutil.rmtree(target, ignore_errors=True)  # left by a run that was killed between rename and commit
        staged.replace(target)
        write_sealed(commit, {"record": record.stored(), "written": hashes})

    def _stage(self, staged: Path, record: Record, image: npt.NDArray[Any], labels: npt.NDArray[np.uint8]) -> dict[str, str]:
        """Write a subject's groups and arrays and read them back. Returns the sha256 of each array and metadata file."""
        import zarr

        group = zarr.create_group(staged, attributes=ome.image_attributes(record))
        group.create_group("labels", attributes=ome.labels_attributes()).create_group(
            "seg", attributes=ome.seg_attributes(record)
        )
        hashes = {}
        for name, array in ((IMAGE, image), (SEG, labels)):
            write_array(staged / name, array, self.recipe.get("chunks", "slice"))
            if read_array(staged, name, array.shape).tobytes() != array.tobytes():
                raise StoreError(f"{staged / name} read back differently: the disk may be faulty")
            hashes[name] = array_digest(array)
        consolidated.consolidate(staged, consolidated.nodes_below(staged))
        return hashes | {name: file_digest(staged / name) for name in METADATA}

    def set_aside(self, part: str, rejected: Mapping[str, str]) -> None:
        """Keep the cases that a part could not use, with the reasons, for the step that finishes the cohort."""
        write_json(self.reasons / f"{part}.json", rejected, sort_keys=True)

    def parts_rejected(self) -> dict[str, str]:
        """The cases that the parts could not use, with the reasons."""
        rejected: dict[str, str] = {}
        for path in sorted(self.reasons.glob("*.json")):
            rejected |= read_json(path)
        return rejected

    def finish(self, folds: Sequence[Mapping[str, Sequence[str]]], rejected: Mapping[str, str]) -> None:
        """Write the manifest of the committed subjects, and the cases set aside. `folds` are subjects by split.

        Raises StoreError if a subject's record is damaged.
        """
        write_json(self.path / "rejected.json", dict(rejected), sort_keys=True)
        committed = self.committed()
        for folder in (self.path / "subjects").iterdir():  # left of one that was to be made again, and could not
            if folder.is_dir() and folder.name not in committed:
                shutil.rmtree(folder)
        subjects = {}
        for subject in sorted(committed):
            commit = record_path(self.path, subject)
            subjects[subject] = {**read_sealed(commit)["written"], "record": file_digest(commit)}
        if self._is_new():
            folders = [subject_path(self.path, subject) for subject in subjects]
            nodes = [node for folder in folders for node in (folder, *consolidated.nodes_below(folder))]
            consolidated.consolidate(self.path, [self.path / "subjects", *nodes])
        files = {name: file_digest(self.path / name) for name in STORE_FILES}
        manifest = {"schema": SCHEMA, "recipe": self.recipe, "modalities": self.modalities, "folds": list(folds), "subjects": subjects,
                    "files": files}  # fmt: skip
        write_sealed(self.path / "manifest.json", manifest)
        shutil.rmtree(self.reasons, ignore_errors=True)
        for leftover in (self.path / "records").glob("*.partial"):  # left by a killed run, of a case that no longer exists
            leftover.unlink()

    def _is_new(self) -> bool:
        """Whether the store was not finished by version 0.1."""
        return consolidated.KEY in read_json(self.path / "zarr.json") or not (self.path / "manifest.json").exists()

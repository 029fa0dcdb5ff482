"""Where things lie in a cohort, and its JSON files: written atomically, hashed, compared."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from preprocess.errors import StoreError

SCHEMA = 2
IMAGE, SEG = "image", "labels/seg/0"
METADATA = ("zarr.json", "image/zarr.json", "labels/zarr.json", "labels/seg/zarr.json", "labels/seg/0/zarr.json")
STORE_FILES = ("zarr.json", "subjects/zarr.json", "rejected.json")


def subject_path(store: Path, subject: str) -> Path:
    return store / "subjects" / subject


def record_path(store: Path, subject: str) -> Path:
    """Raises StoreError for a name that would lead out of its folder."""
    if subject in ("", ".", "..") or Path(subject).name != subject:
        raise StoreError(f"{subject!r} cannot name a subject: it is no plain file name")
    return store / "records" / f"{subject}.json"


def shard_path(array: Path, dimensions: int) -> Path:
    """The one shard file of an array."""
    return array / "c" / "/".join("0" * dimensions)


def file_digest(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_digest(value: Any) -> str:
    """The sha256 of a JSON value, however it is laid out."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


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

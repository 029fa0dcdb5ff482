"""Where things lie in a cohort, and its JSON files: written atomically, hashed, compared."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from preprocess.shared.errors import CaseError, StoreError

SCHEMA = 2
IMAGE, SEG = "image", "labels/seg/0"
METADATA = ("zarr.json", "image/zarr.json", "labels/zarr.json", "labels/seg/zarr.json", "labels/seg/0/zarr.json")
STORE_FILES = ("zarr.json", "subjects/zarr.json", "rejected.json")
REMEDY = "restore it, or remove it and run to_zarr again"


def subject_path(store: Path, subject: str) -> Path:
    return store / "subjects" / subject


def record_path(store: Path, subject: str) -> Path:
    """Raises CaseError for a name that leads out of its folder, or onto the file of a group, or that is too long for a file."""
    if subject in ("", ".", "..", "zarr.json") or Path(subject).name != subject or len(os.fsencode(subject)) > 240:
        raise CaseError(f"{subject!r} cannot name a subject: give its files a plain, shorter name")
    return store / "records" / f"{subject}.json"


def shard_path(array: Path, dimensions: int) -> Path:
    """The one shard file of an array."""
    return array / "c" / "/".join("0" * dimensions)


def file_digest(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_digest(value: Any) -> str:
    """The sha256 of a JSON value."""
    return hashlib.sha256(json_text(value).encode()).hexdigest()


def json_text(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """Raises StoreError if the file is absent or holds no JSON object."""
    try:
        loaded = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read ({str(error).splitlines()[0]}): {REMEDY}") from error
    if not isinstance(loaded, dict):
        raise StoreError(f"{path} holds no JSON object: {REMEDY}")
    return loaded


def write_json(path: Path, value: Any) -> None:
    """Atomically and durably."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w") as file:
            file.write(json_text(value))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:  # a full disk
        partial.unlink(missing_ok=True)
        raise


def write_sealed(path: Path, value: dict[str, Any]) -> None:
    """Like `write_json`, with the sha256 of the rest as one of its entries."""
    write_json(path, {**value, "sha256": json_digest(value)})


def read_sealed(path: Path) -> dict[str, Any]:
    """What `write_sealed` wrote. Raises StoreError if one byte of it is another."""
    value = read_json(path)
    seal = value.pop("sha256", None)
    if seal != json_digest(value) or path.read_bytes() != json_text({**value, "sha256": seal}).encode():
        raise StoreError(f"{path} is not as it was written: {REMEDY}")
    return value


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

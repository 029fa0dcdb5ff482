"""Where files lie in a cohort, and its JSON files and their checksums."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from preprocess.shared.errors import CaseError, StoreError
from preprocess.shared.files import json_text, write_json

SCHEMA = 2
IMAGE, SEG = "image", "labels/seg/0"
METADATA = ("zarr.json", "image/zarr.json", "labels/zarr.json", "labels/seg/zarr.json", "labels/seg/0/zarr.json")
STORE_FILES = ("zarr.json", "subjects/zarr.json", "rejected.json")
REMEDY = "restore it, or remove it and run to_zarr again"


def subject_path(store: Path, subject: str) -> Path:
    return store / "subjects" / subject


def record_path(store: Path, subject: str) -> Path:
    """Raises CaseError for a name that leads out of the folder, is that of a group's own file, or is too long for a file."""
    if subject in ("", ".", "..", "zarr.json") or Path(subject).name != subject or len(os.fsencode(subject)) > 240:
        raise CaseError(f"{subject!r} cannot name a subject: give its files a plain, shorter name")
    return store / "records" / f"{subject}.json"


def store_above(path: Path) -> Path | None:
    """The cohort inside which a path lies, if any."""
    return next((folder for folder in path.absolute().resolve().parents if is_store(folder)), None)


def is_store(folder: Path) -> bool:
    return (folder / "zarr.json").is_file() and (folder / "records").is_dir()


def shard_path(array: Path, dimensions: int) -> Path:
    """The one shard file of an array."""
    return array / "c" / "/".join("0" * dimensions)


def file_digest(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_digest(value: Any) -> str:
    """The sha256 of a JSON value."""
    return hashlib.sha256(json_text(value, sort_keys=True).encode()).hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Raises StoreError if the file is missing or is not a JSON object."""
    try:
        loaded = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read ({str(error).splitlines()[0]}): {REMEDY}") from error
    if not isinstance(loaded, dict):
        raise StoreError(f"{path} is not a JSON object: {REMEDY}")
    return loaded


def naming_of(store: Path) -> dict[str, Any]:
    """The settings that say how the files were named of which a store was made, where they are not the defaults; empty for a store without subjects.

    Raises StoreError if its zarr.json cannot be read."""
    if not (store / "zarr.json").is_file() or not any((store / "records").glob("*.json")):
        return {}
    naming = read_json(store / "zarr.json").get("attributes", {}).get("naming", {})
    return dict(naming)


def write_sealed(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON object atomically, its keys sorted, with the sha256 of the rest as one of its entries."""
    write_json(path, {**value, "sha256": json_digest(value)}, sort_keys=True)


def read_sealed(path: Path) -> dict[str, Any]:
    """What `write_sealed` wrote, without the sha256. Raises StoreError if any byte has changed."""
    value = read_json(path)
    seal = value.pop("sha256", None)
    if seal != json_digest(value) or path.read_bytes() != json_text({**value, "sha256": seal}, sort_keys=True).encode():
        raise StoreError(f"{path} has changed since it was written: {REMEDY}")
    return value

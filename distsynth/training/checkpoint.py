"""Checkpoints: everything a run needs to go on, written so that a kill at any moment leaves the last good one.

checkpoints/step-0000001200.pt   the newest two: method, engine, counters, journal offset
checkpoints/best.pt              the weights with the best validation so far, and the intensity map
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from preprocess.errors import StoreError

KEEP = 2


def save(state: dict[str, Any], path: Path) -> None:
    """Write atomically: a temporary file, fsync, rename, fsync of the folder. Raises StoreError if the disk is full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch's zip writer reports a full disk as a RuntimeError
        partial.unlink(missing_ok=True)
        raise StoreError(
            f"cannot write the checkpoint {path}: {str(error).splitlines()[0]}; free some space and start the run again"
        ) from error


def sync_folder(folder: Path) -> None:
    """Make a rename in the folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save_step(state: dict[str, Any], folder: Path, step: int) -> None:
    """Write the checkpoint of a step and drop all but the newest two."""
    save(state, folder / f"step-{step:010d}.pt")
    for old in sorted(folder.glob("step-*.pt"))[:-KEEP]:
        old.unlink(missing_ok=True)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU. Raises StoreError if it is absent or damaged."""
    try:
        with zipfile.ZipFile(path) as archive:  # torch writes checksums and does not look at them
            if damaged := archive.testzip():
                raise ValueError(f"the checksum of {damaged} is wrong")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise StoreError(
            f"{path} is not a readable checkpoint: {str(error).splitlines()[0] if str(error) else error!r}"
        ) from error
    return state


def newest(folder: Path) -> tuple[dict[str, Any], Path] | None:
    """The newest checkpoint that can be read; a damaged one is passed over, saying so."""
    for path in candidates(folder):
        try:
            return load(path), path
        except StoreError as error:
            print(f"warning: {error}; going back to the checkpoint before it", flush=True)
    return None


def candidates(folder: Path) -> Iterator[Path]:
    yield from sorted(folder.glob("step-*.pt"), reverse=True)

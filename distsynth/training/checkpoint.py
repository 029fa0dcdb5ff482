"""Checkpoints: everything a run needs to go on, written so that a kill at any moment leaves the last good one.

checkpoints/step-0000001200.pt   the newest two: method, average, engine, counters, journal offset, and what it was made from
checkpoints/best.pt              the weights, or their average, with the best validation so far, and the intensity map

Training waits for a copy in memory alone; a thread writes it.
"""

from __future__ import annotations

import os
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from distsynth.ranks.watchdog import Watchdog
from preprocess.shared.errors import StoreError

KEEP = 2


class Writer:
    """Writes one checkpoint at a time, beside the training."""

    def __init__(self, watchdog: Watchdog) -> None:
        self.watchdog = watchdog
        self.thread: threading.Thread | None = None
        self.error: BaseException | None = None

    @property
    def busy(self) -> bool:
        return self.thread is not None and self.thread.is_alive()

    def start(self, write: Callable[[], None], step: int) -> None:
        """Call `write` in a thread. The one before must have been finished."""
        self.watchdog.writing = step, time.monotonic()
        self.thread = threading.Thread(target=self.run, args=(write,), daemon=True, name="checkpoint")
        self.thread.start()

    def run(self, write: Callable[[], None]) -> None:
        try:
            write()
        except BaseException as error:
            self.error = error
        self.watchdog.writing = None

    def finish(self) -> None:
        """Wait for what is being written. Raises what went wrong, StoreError above all."""
        if self.thread is not None:
            self.thread.join()
        self.thread = None
        if self.error is not None:
            raise self.error


def snapshot(value: Any) -> Any:
    """A copy in the host's memory of a state made of dicts, lists, tensors and plain values."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {name: snapshot(part) for name, part in value.items()}
    return [snapshot(part) for part in value] if isinstance(value, list) else value


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


def write(state: dict[str, Any], folder: Path, step: int, improved: bool, journal: int) -> None:
    """The checkpoint of a step, and best.pt where the last validation was the best. The journal (a file descriptor) becomes durable first:
    a checkpoint holds its length."""
    os.fsync(journal)
    if improved:
        best = {name: part for name, part in state.items() if name not in ("engine", "average", "journal")}
        save({**best, "method": state["method"] | state["average"]}, folder / "best.pt")
    save_step(state, folder, step)


def save_step(state: dict[str, Any], folder: Path, step: int) -> None:
    """Write the checkpoint of a step and drop all but the newest two."""
    save(state, folder / f"step-{step:010d}.pt")
    for old in sorted(folder.glob("step-*.pt"))[:-KEEP]:
        old.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what a killed writer has left."""
    for partial in folder.glob("*.partial"):
        partial.unlink(missing_ok=True)


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

"""Checkpoints: everything a run needs to resume, written so that the last good one survives a kill at any moment.

checkpoints/step-0000001200.pt   the newest two: method, average, engine, counters, journal offset, and what the run must match to resume
checkpoints/best.pt              the weights, or their average, with the best validation so far, and the intensity map

Training only waits for a copy in memory; a thread writes it to disk.
"""

from __future__ import annotations

import os
import re
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from distsynth.ranks.watchdog import Watchdog
from distsynth.tracking.journal import Journal
from preprocess.shared.errors import StoreError
from preprocess.shared.files import open_plain, write_atomically

KEEP = 2


class Saver:
    """Saves checkpoints while training continues. On ranks that do not write, `journal` is None and the saver only keeps the time.

    The journal holds back its lines while a checkpoint is being written: a line that a resumed run would repeat must not precede the
    checkpoint's own.
    """

    def __init__(self, folder: Path, journal: Journal | None, watchdog: Watchdog) -> None:
        self.folder, self.journal, self.writer = folder, journal, Writer(watchdog)
        # When training last paused for a checkpoint, and for how long, in seconds.
        self.saved, self.stall = time.monotonic(), 0.0

    def save(self, state: Callable[[], dict[str, Any]], step: int, best: bool) -> None:
        """Start writing `state()`, which every rank calls, as the checkpoint of a step, and as best.pt too if it is the `best` so far.
        Training only waits for the copy in memory, and for the previous checkpoint. Raises StoreError if that one could not be written."""
        began, now = time.perf_counter(), state()
        if self.journal is not None:
            self.finish()
            copied = snapshot({**now, "journal": self.journal.hold()})
            self.writer.start(partial(write, copied, self.folder, step, best, self.journal.file.fileno()), step)
        self.saved, self.stall = time.monotonic(), time.perf_counter() - began

    def due(self, minutes: float) -> bool:
        """Whether the last checkpoint is older than so many minutes."""
        return time.monotonic() - self.saved > 60 * minutes

    @property
    def cheap(self) -> bool:
        """Whether another checkpoint would pause training for less than a hundredth of the time since the last one, as measured on the
        writing rank."""
        return self.journal is not None and not self.writer.busy and self.due(100 * self.stall / 60)

    def finish(self) -> None:
        """Wait until the checkpoint being written is durable, and write its line to the journal. Raises StoreError."""
        if self.journal is not None and (step := self.writer.finish()) is not None:
            self.journal.release(step)

    def note(self, kind: str, **fields: Any) -> None:
        """Write a line to the journal, on the writing rank."""
        if self.journal is not None:
            if not self.writer.busy:
                self.finish()
            self.journal.write(kind, **fields)


class Writer:
    """Writes one checkpoint at a time, in a thread."""

    def __init__(self, watchdog: Watchdog) -> None:
        self.watchdog = watchdog
        self.thread: threading.Thread | None = None
        self.step: int | None = None  # of the checkpoint that `finish` has not returned yet
        self.error: BaseException | None = None

    @property
    def busy(self) -> bool:
        return self.thread is not None and self.thread.is_alive()

    def start(self, write: Callable[[], None], step: int) -> None:
        """Call `write` in a thread. The previous write must be finished."""
        self.watchdog.writing = step, time.monotonic()
        self.step = step
        self.thread = threading.Thread(target=self.run, args=(write,), daemon=True, name="checkpoint")
        self.thread.start()

    def run(self, write: Callable[[], None]) -> None:
        try:
            write()
        except BaseException as error:
            self.error = error
        self.watchdog.writing = None

    def finish(self) -> int | None:
        """Wait for the current write. Returns its step the first time, then None. Raises the error of the write, usually StoreError."""
        if self.thread is not None:
            with self.watchdog.during("checkpoint"):
                self.thread.join()
        self.thread = None
        if self.error is not None:
            raise self.error
        step, self.step = self.step, None
        return step


def snapshot(value: Any) -> Any:
    """A copy in host memory of a state made of dicts, lists, tensors and plain values."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {name: snapshot(part) for name, part in value.items()}
    return [snapshot(part) for part in value] if isinstance(value, list) else value


def save(state: dict[str, Any], path: Path) -> None:
    """Write atomically and durably. Raises StoreError, for example if the disk is full."""
    try:
        write_atomically(path, lambda file: torch.save(state, file), sync_folder=True)
    except (OSError, RuntimeError) as error:  # torch's zip writer reports a full disk as a RuntimeError
        raise StoreError(
            f"cannot write the checkpoint {path}: {str(error).splitlines()[0]}; free some space and start the run again"
        ) from error


def write(state: dict[str, Any], folder: Path, step: int, improved: bool, journal: int) -> None:
    """Write the checkpoint of a step, and best.pt if the last validation was the best. The journal (a file descriptor) is made durable
    first, because a checkpoint records its length."""
    os.fsync(journal)
    if improved:
        best = {name: part for name, part in state.items() if name not in ("engine", "average", "journal")}
        save({**best, "method": state["method"] | state["average"]}, folder / "best.pt")
    save_step(state, folder, step)


def save_step(state: dict[str, Any], folder: Path, step: int) -> None:
    """Write the checkpoint of a step and delete those before it but one. A later one is not of this run's history: it counts for nothing."""
    save(state, path := folder / f"step-{step:010d}.pt")
    for old in [each for each in candidates(folder) if each <= path][KEEP:]:
        old.unlink(missing_ok=True)


def remove_partial(folder: Path) -> None:
    """Remove the unfinished files of a writer that was killed."""
    for leftover in folder.glob("*.partial"):
        leftover.unlink(missing_ok=True)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU. Raises StoreError if it is absent or damaged."""
    try:
        with open_plain(path) as file, zipfile.ZipFile(file) as archive:  # torch writes checksums but does not check them
            if damaged := archive.testzip():
                raise ValueError(f"the checksum of {damaged} is wrong")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise StoreError(
            f"{path} is not a readable checkpoint: {str(error).splitlines()[0] if str(error) else error!r}"
        ) from error
    return state


def newest(folder: Path) -> tuple[dict[str, Any], Path] | None:
    """The newest readable checkpoint and its path; damaged ones are skipped with a printed warning."""
    for path in candidates(folder):
        try:
            state = load(path)
            if (step := state.get("position", {}).get("total")) not in (None, int(path.stem[5:])):
                raise StoreError(f"{path} is the checkpoint of step {step}")
            return state, path
        except StoreError as error:
            print(f"warning: {error}; using the checkpoint before it", flush=True)
    return None


def candidates(folder: Path) -> Iterator[Path]:
    """The checkpoints by their names, the newest first."""
    yield from sorted((path for path in folder.glob("step-*.pt") if re.fullmatch(r"step-\d{10}", path.stem)), reverse=True)

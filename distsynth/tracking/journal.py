"""The journal: what happened in a run, one JSON object per line, appended only by rank 0.

Every line has `kind` and `time` (milliseconds since 1970). Kinds:

    {"kind": "start", "time": …, "world_size": 2, "device": "cpu", "host": "node1", "pid": 71, "resumed_at": 1200}   each start of the process
    {"kind": "metrics", "time": …, "step": 1210, "values": {"joint/d_loss": -2.29, "val/flair/brain/psnr": 23.1}}
    {"kind": "progress", "time": …, "stage": "joint", "epoch": 3, "epochs": 200, "step": 1210, "steps": 80000}       for live tables
    {"kind": "memory", "time": …, "stage": "joint", "parameters": 136044552, "per_slice": 48000000, …}               bytes, as planned
    {"kind": "checkpoint", "time": …, "step": 1200}     a checkpoint is on disk: the lines before it are final
    {"kind": "end", "time": …, "status": "finished" | "failed" | "stopped", "reason": "…", "retry": false}           retry: restarting may get further

A checkpoint stores the journal's length; a resumed run truncates the journal to it, so that no step appears twice. While a checkpoint is
being written, later lines wait in memory, so that the checkpoint's own line comes first. Only lines that a checkpoint or an end follows are
replayed into MLflow.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from preprocess.shared.errors import StoreError
from preprocess.shared.files import open_plain

Line = dict[str, Any]


class Journal:
    """The writing side."""

    def __init__(self, path: Path, length: int | None = None) -> None:
        """Append to the journal at `path`, truncated to `length` bytes first if that is given. Raises OSError or StoreError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.held: list[bytes] | None = None
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise StoreError(f"{path} is not a plain file: remove it")
        self.file = path.open("ab", buffering=0)  # closing a buffer could still write, after another process wrote the end line
        if length is not None and length < self.file.tell():
            self.file.truncate(length)
        elif self.file.tell():
            self.file.truncate(whole_lines(path))

    def write(self, kind: str, **fields: Any) -> None:
        """Append a line, without a buffer."""
        line = json.dumps({"kind": kind, "time": round(time.time() * 1000), **fields}).encode() + b"\n"
        if self.held is not None:
            self.held.append(line)
            return
        self.append(line)

    def append(self, lines: bytes) -> None:
        """All the lines or nothing: on a full disk the part already written is truncated again. Raises OSError."""
        length, written = self.file.seek(0, os.SEEK_END), 0
        try:
            while written < len(lines):
                written += self.file.write(lines[written:])
        except OSError:
            self.file.truncate(length)
            raise

    def hold(self) -> int:
        """Keep the following lines in memory until `release`. Returns the journal's length in bytes."""
        self.held = []
        return self.file.seek(0, os.SEEK_END)

    def release(self, step: int) -> None:
        """The checkpoint of the step is on disk: write its line, then those that waited."""
        waiting, self.held = self.held or [], None
        self.write("checkpoint", step=step)
        self.append(b"".join(waiting))

    def sync(self) -> int:
        """Flush all lines to disk. Returns the journal's length in bytes."""
        os.fsync(self.file.fileno())
        return self.file.seek(0, os.SEEK_END)

    def close(self) -> None:
        self.file.close()


def write_end(path: Path, status: str, reason: str, retry: bool = False) -> None:
    """Write the journal's last line; if that fails, print why."""
    try:
        journal = Journal(path)
        journal.write("end", status=status, reason=reason, retry=retry)
        journal.sync()
        journal.close()
    except (OSError, StoreError) as error:
        print(f"cannot write {path}: {getattr(error, 'strerror', error)}", file=sys.stderr)


def whole_lines(path: Path) -> int:
    """The length in bytes up to the end of the last complete line; a killed writer may have left half a line after it."""
    return path.read_bytes().rfind(b"\n") + 1


def read(path: Path, offset: int = 0) -> tuple[list[Line], int]:
    """The complete lines from a byte offset on, and the offset after them. A journal that does not exist yet is empty; one that a resumed
    run has truncated below the offset is read from its start. Lines that no run writes are left out, with one warning for each journal."""
    if not path.is_file():
        return [], offset
    try:
        with open_plain(path) as file:
            file.seek(max(0, offset - 1))
            if offset and file.read(1) != b"\n":
                offset = 0
                file.seek(0)
            data = file.read()
    except OSError as error:
        warn_once(path, f"cannot be read ({error.strerror})")
        return [], offset
    end = data.rfind(b"\n") + 1
    lines = [parsed(line) for line in data[:end].split(b"\n")[:-1]]
    if None in lines:
        warn_once(path, "has lines that no run wrote: they are left out")
    return [line for line in lines if line is not None], offset + end


def parsed(text: bytes) -> Line | None:
    """A line of the journal, None if it is not one."""
    try:
        line = json.loads(text)
        fits = all(fit(line.get(name)) for name, fit in (COMMON | FIELDS.get(line["kind"], {})).items())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return line if fits else None


def warn_once(path: Path, what: str) -> None:
    if path not in warned:
        warned.add(path)
        print(f"warning: {path} {what}", file=sys.stderr, flush=True)


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_count(value: Any) -> bool:
    return type(value) is int and abs(value) < 2**53


def are_numbers(values: Any) -> bool:
    return isinstance(values, dict) and all(isinstance(value, float) or is_count(value) for value in values.values())


COMMON: dict[str, Callable[[Any], bool]] = {"kind": is_text, "time": is_count}
FIELDS: dict[str, dict[str, Callable[[Any], bool]]] = {
    "metrics": {"step": is_count, "values": are_numbers},
    "progress": {"stage": is_text, "epoch": is_count, "epochs": is_count},
    "end": {"status": is_text, "reason": is_text},
}
warned: set[Path] = set()  # the journals of which a warning was printed


def covered(lines: list[Line]) -> list[Line]:
    """The lines up to the last checkpoint or end, which no resume will remove."""
    last = max((i for i, line in enumerate(lines) if line["kind"] in ("checkpoint", "end")), default=-1)
    return lines[: last + 1]

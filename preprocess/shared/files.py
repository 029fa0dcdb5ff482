"""Writing a file so that it is either complete or absent, wherever the process or the machine stops."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

WRITING = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW  # a link in the place of a partial file may lead anywhere


def write_atomically(path: Path, content: str | bytes | Callable[[IO[bytes]], object], sync_folder: bool = False) -> None:
    """Replace the file `path` by `content`: text (UTF-8), bytes, or a function that writes to the open binary file.

    The content goes to `NAME.partial` beside it and onto the disk before the file takes its name. `sync_folder` also puts the new name onto
    the disk, so that it survives a power cut. Makes the folder. Raises OSError and whatever `content` raises, and leaves no partial file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    try:
        with os.fdopen(os.open(partial, WRITING, 0o666), "wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:  # most often a full disk, which torch reports as a RuntimeError
        partial.unlink(missing_ok=True)
        raise
    if sync_folder:
        sync(path.parent)


def plain(path: str) -> str:
    """A path without `~`, `..`, a `./` before it or a slash after it, so that it is printed alike, and one place is never two."""
    short = Path(os.path.normpath(Path(path).expanduser()))
    if ".." in Path(path).parts and short.resolve() != Path(path).expanduser().resolve():
        short = Path(path).expanduser().resolve()  # `..` of a link leads elsewhere
    return str(short)


def sync(folder: Path) -> None:
    """Put the names of a folder's files onto the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any, sort_keys: bool = False) -> None:
    """Write a JSON value atomically. Raises ValueError for NaN and infinity, which JSON lacks."""
    write_atomically(path, json_text(value, sort_keys))


def json_text(value: Any, sort_keys: bool = False) -> str:
    """The text of a JSON file, indented by one space."""
    return json.dumps(value, indent=1, sort_keys=sort_keys, allow_nan=False) + "\n"

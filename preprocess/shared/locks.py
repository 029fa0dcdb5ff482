"""Locks between processes. The operating system releases a lock when its process ends, even if it is killed."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from preprocess.shared.errors import StoreError


@contextmanager
def only_one(path: Path, refusal: str, shared: bool = False, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock file `path`; with `shared`, together with other processes that share it. Makes its folder.

    An exclusive holder may remove the file before it releases it. Raises StoreError with the text `refusal` if another process holds it
    for longer than `wait` seconds.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait
    while True:
        with path.open("a+") as handle:  # readable too, or NFS grants no shared lock
            try:
                fcntl.flock(handle, kind | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    raise StoreError(refusal) from error
                time.sleep(0.1)
                continue
            except OSError:  # some cluster file systems have no locks; there the user must not start two processes
                pass
            if still_there(path, handle):
                yield
                return


def still_there(path: Path, handle: IO[Any]) -> bool:
    """Whether the open file is still the one at `path`: if its last holder removed it, another process can lock a new file there."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle.fileno()))
    except FileNotFoundError:
        return False

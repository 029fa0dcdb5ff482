"""Being the only process at work on something. The operating system lets go of the lock when the process dies, however it dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from preprocess.shared.errors import StoreError


@contextmanager
def only_one(path: Path, refusal: str, shared: bool = False) -> Iterator[None]:
    """Hold the lock file `path`, with `shared` beside others that hold it so too; its folder is made where it is absent.

    The only holder may remove the file before it lets go. Raises StoreError with the text `refusal` if another process holds it.
    """
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("a+") as handle:  # to be read as well, without which NFS grants no shared lock
            try:
                fcntl.flock(handle, how | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StoreError(refusal) from error
            except OSError:  # some cluster file systems are mounted without locks; there the user must not start two
                pass
            if still_there(path, handle):
                yield
                return


def still_there(path: Path, handle: IO[Any]) -> bool:
    """Whether the open file is the one at `path`: its last holder may have removed it, and then another could lock a new one."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle.fileno()))
    except FileNotFoundError:
        return False

"""Being the only process at work on something. The operating system lets go of the lock when the process dies, however it dies."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from preprocess.errors import StoreError


@contextmanager
def only_one(path: Path, refusal: str) -> Iterator[None]:
    """Hold the lock file `path`, whose folder exists. Raises StoreError with the text `refusal` if another process holds it."""
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(refusal) from error
        except OSError:  # some cluster file systems are mounted without locks; there the user must not start two
            pass
        yield

"""Many cases at once: a pool of processes that ends with its command."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import TypeVar

from preprocess.shared.errors import UserError

C = TypeVar("C")
T = TypeVar("T")


def pooled(task: Callable[[C], T], cases: Sequence[C], workers: int, title: str) -> Iterator[T]:
    """The task's result for every case, in any order, from a pool of `workers` processes (0: one per core) with a progress bar.

    Raises UserError if a worker dies, and whatever the task raises.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    workers = max(1, min(workers or len(os.sched_getaffinity(0)), len(cases)))
    if workers == 1:
        yield from map(task, cases)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    context = get_context("forkserver")
    # Imported once instead of by every worker; except the command's own file, which each worker runs itself.
    command = getattr(sys.modules["__main__"].__spec__, "name", "")
    ours = [name for name in sys.modules if name.startswith("preprocess.") and name != command]
    context.set_forkserver_preload([*ours, "SimpleITK", "nibabel", "zarr"])
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=die_with_parent)
    try:
        with Progress(*columns) as progress:
            bar = progress.add_task(title, total=len(cases))
            with user_signal_blocked():
                waiting = [pool.submit(task, case) for case in cases]
            for future in as_completed(waiting):
                yield future.result()
                progress.advance(bar)
    except BrokenProcessPool as error:
        what = "a worker process died, probably for lack of memory"
        raise UserError(f"{what}: run again with fewer workers=, and it continues where it stopped") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def user_signal_blocked() -> Iterator[None]:
    """Start the workers with USR2 blocked: Slurm sends it to every process before the time limit. It would kill the workers; the command
    itself has a handler for it, which requeues the job."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def die_with_parent() -> None:
    """End this worker when the command is killed; otherwise it would write into a store that the next command has locked."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()

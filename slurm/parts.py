"""Parts of one command as a Slurm array: what they are called with, their progress while they are queued, and why one has failed."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from preprocess.shared.errors import SettingError
from slurm import squeue
from slurm.cluster import ClusterSettings, LimitReached, submit
from slurm.job import PartJob
from slurm.outcome import last_error, with_state

PATIENCE = 15.0  # seconds until a result that a shared file system still hides appears


def refuse_part(part: str) -> None:
    """Raise SettingError if the user has chosen a part."""
    if part:
        raise SettingError(f"part={part} is set by the launcher: leave it out")


def absolute(settings: Any, *names: str) -> list[str]:
    """The words that set the given paths, as far as they are set, to absolute ones: a job may start in another folder."""
    return [f"{name}={Path(path).absolute()}" for name in names if (path := getattr(settings, name))]


def part_jobs(module: str, words: Sequence[str], parts: int) -> list[PartJob]:
    return [PartJob(module, [*words, f"part={number}/{parts}"]) for number in range(1, parts + 1)]


def submit_parts(cluster: ClusterSettings, name: str, module: str, words: Sequence[str], parts: int, logs: Path) -> list[Any]:
    """Submit a command as an array of parts; as fewer, larger ones where a limit of the site refuses so many. Returns their jobs.

    Raises SettingError if Slurm refuses even one.
    """
    try:
        return submit(cluster, name, part_jobs(module, words, parts), logs)
    except LimitReached as error:
        if parts == 1:
            raise
        print(f"warning: {parts} parts are too many for this site, taking {parts // 2}: {error}", file=sys.stderr)
        return submit_parts(cluster, name, module, words, parts // 2, logs)


def array_id(jobs: Sequence[Any]) -> str:
    """Slurm's number of the array whose elements the jobs are."""
    return str(jobs[0].job_id).partition("_")[0]


def watch(job_id: str, unit: str, total: int, count: Callable[[], int], poll_seconds: float) -> None:
    """Show a progress bar of what `count` returns until the job, or every element of the array, has left the queue."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    with Progress(TextColumn(unit), BarColumn(), MofNCompleteColumn()) as progress:
        task = progress.add_task("", total=total)
        warning, begun = "", time.monotonic()
        while state := squeue.state(job_id):
            progress.update(task, completed=count())
            if state == "PENDING" and not warning and time.monotonic() > begun + PATIENCE:
                warning = squeue.stuck([job_id])
                print(f"warning: {warning}\n" if warning else "", end="", file=sys.stderr)
            time.sleep(poll_seconds)
        progress.update(task, completed=count())


def failure_of(job: Any, deadline: float = 0.0) -> str:
    """Why a job that has ended failed, in a few words; empty if it did not. Waits for its result until `deadline` (monotonic seconds)."""
    deadline = deadline or time.monotonic() + PATIENCE
    while not job.paths.result_pickle.is_file() and time.monotonic() < deadline:
        time.sleep(0.5)
    if not job.paths.result_pickle.is_file():
        why = last_error(job).removeprefix("error: ") or "the job ended without an error message"
        return with_state(why, squeue.state(job.job_id, ended=True))
    failure = job.exception()
    return "" if failure is None else re.sub(r"^[\w.]+Error: ", "", str(failure).strip().splitlines()[-1])

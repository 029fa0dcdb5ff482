"""Preprocessing on the cluster: a Slurm array whose parts write into one cohort, and a last step that completes its manifest.

    python slurm/launch.py job=preprocess cluster=slurm cluster.array=16 source=/data/BraTS store=data/brats.zarr

The settings are to_zarr's and cluster.*. The same command again continues where it stopped. On this machine it runs to_zarr itself.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from preprocess import to_zarr
from preprocess.cohort import Cohort, CohortWriter
from preprocess.cohort.summary import summarise
from preprocess.shared.errors import SettingError, UserError
from preprocess.shared.settings import parse
from slurm import squeue
from slurm.cluster import ClusterSettings, submit
from slurm.dispatch import last_error
from slurm.job import PartJob


def launch_preprocessing(cluster: ClusterSettings, words: Sequence[str], logs: Path, poll_seconds: float, dry_run: bool) -> int:
    """Submit the parts and the last step, and watch them; returns the exit status. Raises UserError before anything is submitted."""
    settings = parse(to_zarr.Settings, [to_zarr.aliased(word) for word in words])
    if settings.part:
        raise SettingError(f"part={settings.part} is set by the launcher: leave it out")
    if cluster.resolved == "local" and not dry_run:
        return to_zarr.main(words)
    cases, writer = to_zarr.plan(settings)
    if dry_run:
        print(f"{len(cases)} cases in {cluster.array} parts on {cluster.resolved}, {cluster.cpus} workers each")
        return 0
    with writer.lock("launch"):  # checks the recipe and the source before anything is queued
        to_zarr.refuse_strangers(settings, cases, writer.committed())
    here = [f"{key}={Path(getattr(settings, key)).absolute()}" for key in ("source", "store")]
    last = submit_all(dataclasses.replace(cluster, nodes=1, ranks=1, gpus=0), [*words, *here], logs)
    watch(writer, len(cases), last, poll_seconds)
    if failure := failure_of(last):
        raise UserError(f"the manifest was not written: {failure} (see {logs}); the same command continues")
    cohort = Cohort.open(settings.store)
    return summarise(cohort, 0, [], cohort.rejected)


def submit_all(cluster: ClusterSettings, words: Sequence[str], logs: Path) -> Any:
    """Submit the array, and the last step to run after it even if parts fail; returns the last step's job."""
    parts = [PartJob([*words, f"part={k}/{cluster.array}", f"workers={cluster.cpus}"]) for k in range(1, cluster.array + 1)]
    array = submit(cluster, "distsynth-preprocess", parts, logs)[0].job_id.partition("_")[0]
    after = dataclasses.replace(cluster, extra={**cluster.extra, "dependency": f"afterany:{array}"})
    (last,) = submit(after, "distsynth-manifest", [PartJob([*words, "part=finish"])], logs)
    print(f"Slurm jobs {array} ({cluster.array} parts) and {last.job_id} (manifest); they continue if the launcher is stopped")
    return last


def watch(writer: CohortWriter, cases: int, last: Any, poll_seconds: float) -> None:
    """Show a progress bar of the subjects in the store until the last step has left the queue."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    with Progress(TextColumn("subjects"), BarColumn(), MofNCompleteColumn()) as progress:
        task = progress.add_task("", total=cases)
        while squeue.state(last.job_id):
            progress.update(task, completed=len(writer.committed()))
            time.sleep(poll_seconds)
        progress.update(task, completed=len(writer.committed()))


def failure_of(job: Any) -> str:
    """Why the last step wrote no manifest, in a few words; empty if it did."""
    deadline = time.monotonic() + 15
    while not job.paths.result_pickle.is_file() and time.monotonic() < deadline:
        time.sleep(0.5)  # on a shared file system it appears late
    if not job.paths.result_pickle.is_file():
        return last_error(job)
    failure = job.exception()
    return "" if failure is None else str(failure).strip().splitlines()[-1]

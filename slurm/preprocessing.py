"""Preprocessing on the cluster: a Slurm array whose parts write into one cohort, and a last step that completes its manifest.

    python slurm/launch.py job=preprocess cluster=slurm cluster.array=16 source=/data/BraTS store=data/brats.zarr

Words are to_zarr's own, and cluster.*. Started again, it goes on where it was. On this machine it is to_zarr itself.
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
from slurm.dispatch import last_words
from slurm.job import PartJob


def launch_preprocessing(cluster: ClusterSettings, words: Sequence[str], logs: Path, poll_seconds: float, dry_run: bool) -> int:
    """Submit the parts and the last step, and watch them; the exit status. Raises UserError before anything is submitted."""
    settings = parse(to_zarr.Settings, [to_zarr.aliased(word) for word in words])
    if settings.part:
        raise SettingError(f"part={settings.part} is the launcher's to give: leave it out")
    if cluster.resolved == "local" and not dry_run:
        return to_zarr.main(words)
    cases, writer = to_zarr.plan(settings)
    if dry_run:
        print(f"{len(cases)} cases in {cluster.array} parts on {cluster.resolved}, {cluster.cpus} workers each")
        return 0
    with writer.lock("launch"):  # the recipe and the source are checked before anything waits in a queue
        to_zarr.refuse_strangers(settings, cases, writer.committed())
    here = [f"{key}={Path(getattr(settings, key)).absolute()}" for key in ("source", "store")]
    last = submit_all(dataclasses.replace(cluster, nodes=1, ranks=1, gpus=0), [*words, *here], logs)
    watch(writer, len(cases), last, poll_seconds)
    if failure := failure_of(last):
        raise UserError(f"the manifest was not written: {failure} (see {logs}); the same command goes on")
    cohort = Cohort.open(settings.store)
    return summarise(cohort, 0, [], cohort.rejected)


def submit_all(cluster: ClusterSettings, words: Sequence[str], logs: Path) -> Any:
    """Submit the array, and the last step to run after it whatever came of it; the last step's job."""
    parts = [PartJob([*words, f"part={k}/{cluster.array}", f"workers={cluster.cpus}"]) for k in range(1, cluster.array + 1)]
    array = submit(cluster, "distsynth-preprocess", parts, logs)[0].job_id.partition("_")[0]
    after = dataclasses.replace(cluster, extra={**cluster.extra, "dependency": f"afterany:{array}"})
    (last,) = submit(after, "distsynth-manifest", [PartJob([*words, "part=finish"])], logs)
    print(f"Slurm jobs {array} ({cluster.array} parts) and {last.job_id} (manifest); the launcher may be stopped, they go on")
    return last


def watch(writer: CohortWriter, cases: int, last: Any, poll_seconds: float) -> None:
    """A progress bar of the subjects in the store, until the last step has left the queue."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    with Progress(TextColumn("subjects"), BarColumn(), MofNCompleteColumn()) as progress:
        task = progress.add_task("", total=cases)
        while squeue.state(last.job_id):
            progress.update(task, completed=len(writer.committed()))
            time.sleep(poll_seconds)
        progress.update(task, completed=len(writer.committed()))


def failure_of(job: Any) -> str:
    """Why the last step wrote no manifest, in a few words; nothing if it did."""
    deadline = time.monotonic() + 15
    while not job.paths.result_pickle.is_file() and time.monotonic() < deadline:
        time.sleep(0.5)  # a shared file system shows it late
    if not job.paths.result_pickle.is_file():
        return last_words(job)
    failure = job.exception()
    return "" if failure is None else str(failure).strip().splitlines()[-1]

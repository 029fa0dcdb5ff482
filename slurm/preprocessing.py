"""Preprocessing on the cluster: a Slurm array whose parts write into one cohort, and a last step that completes its manifest.

    python slurm/launch.py job=preprocess cluster=slurm cluster.array=16 source=/data/BraTS store=data/brats.zarr

The settings are to_zarr's and cluster.*. The same command again continues where it stopped. On this machine it runs to_zarr itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from preprocess import to_zarr
from preprocess.cohort import Cohort
from preprocess.cohort.summary import summarise
from preprocess.shared.errors import UserError
from slurm.cluster import ClusterSettings, LimitReached, submit
from slurm.job import PartJob
from slurm.parts import absolute, array_id, failure_of, refuse_part, submit_parts, watch

MODULE = "preprocess.to_zarr"


def launch_preprocessing(cluster: ClusterSettings, words: Sequence[str], logs: Path, poll_seconds: float, dry_run: bool) -> int:
    """Submit the parts and the last step, and watch them; returns the exit status. Raises UserError before anything is submitted."""
    settings, demo = to_zarr.settings_of(words)
    refuse_part(settings.part)
    if cluster.resolved == "local" and not dry_run:
        return to_zarr.main(words)
    if demo:
        print(to_zarr.MADE_UP)
    discovery, writer = to_zarr.plan(settings)
    cases = discovery.cases
    if dry_run:
        writer.check()
        to_zarr.refuse_strangers(settings, writer, cases)
        print(f"{len(cases)} cases in {cluster.array} parts on {cluster.resolved}, {cluster.cpus} workers each")
        print(f"{to_zarr.MADE_UP}\n" * demo, end="")
        return 0
    with writer.lock("launch"):  # checks the recipe and the source before anything is queued
        to_zarr.refuse_strangers(settings, writer, cases)
    here = absolute(settings, "source", "store")

    def show(job_id: str) -> None:
        watch(job_id, "subjects", len(cases), lambda: len(writer.committed()), poll_seconds)

    last = submit_all(dataclasses.replace(cluster, nodes=1, ranks=1, gpus=0), [*words, *here], logs, show)
    show(last.job_id)
    if failure := failure_of(last):
        raise UserError(f"the manifest was not written: {failure} (see {logs}); the same command continues")
    cohort = Cohort.open(settings.store)
    status = max(summarise(cohort, 0, [], cohort.rejected), to_zarr.report_left_out(discovery))
    if demo:
        print(to_zarr.MADE_UP)
    return status


def submit_all(cluster: ClusterSettings, words: Sequence[str], logs: Path, wait: Callable[[str], None]) -> Any:
    """Submit the array, and the last step to run after it even if parts fail; returns the last step's job. Where a limit of the site refuses it
    beside the array, `wait` for the array first."""
    jobs = submit_parts(cluster, "distsynth-preprocess", MODULE, [*words, f"workers={cluster.cpus}"], cluster.array, logs)
    array = array_id(jobs)
    after = dataclasses.replace(cluster, extra={**cluster.extra, "dependency": f"afterany:{array}"})
    finish = [PartJob(MODULE, [*words, "part=finish"])]
    try:
        (last,) = submit(after, "distsynth-manifest", finish, logs)
    except LimitReached:
        print(
            f"Slurm job {array} ({len(jobs)} parts); the manifest is submitted after it: stopped before, give the same command again"
        )
        wait(array)
        (last,) = submit(cluster, "distsynth-manifest", finish, logs)
    print(f"Slurm jobs {array} ({len(jobs)} parts) and {last.job_id} (manifest); they continue if the launcher is stopped")
    return last

"""What runs in a job: on every rank, submitit's environment becomes torchrun's variables, then the run is trained; or a part of a cohort
is preprocessed."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any


class TrainJob:
    """The callable that submitit pickles. Everything it resumes from lies in the run's directory."""

    def __init__(self, run: Path, cpus: int) -> None:
        self.run, self.cpus = run, cpus

    def __call__(self) -> str:
        os.environ.update(rank_variables(str(self.run), self.cpus))
        from distsynth.train import train

        train(self.run)
        return str(self.run)

    def checkpoint(self) -> Any:
        """What submitit queues again after a time limit or a pre-emption: the same job."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class PartJob:
    """One call of to_zarr, as submitit pickles it: what is finished lies in the store, so that a queued-again part goes on."""

    def __init__(self, words: list[str]) -> None:
        self.words = words

    def __call__(self) -> int:
        from preprocess.to_zarr import main

        return main(self.words)

    def checkpoint(self) -> Any:
        """What submitit queues again after a time limit or a pre-emption: the same job."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def rank_variables(name: str, cpus: int) -> dict[str, str]:
    """RANK, WORLD_SIZE and so on, as torchrun sets them, and the threads of a rank.

    Raises what submitit raises outside a job.
    """
    from submitit import JobEnvironment

    job = JobEnvironment()
    return {
        "RANK": str(job.global_rank),
        "WORLD_SIZE": str(job.num_tasks),
        "LOCAL_RANK": str(job.local_rank),
        "LOCAL_WORLD_SIZE": str(job.num_tasks // job.num_nodes),
        "MASTER_ADDR": "127.0.0.1" if job.num_nodes == 1 else job.hostnames[0],
        "MASTER_PORT": str(port(name, job.job_id)),
        "OMP_NUM_THREADS": str(cpus),
    }


def port(name: str, job_id: str) -> int:
    """One port for all ranks of a job, and hardly ever another job's: runs of a sweep share nodes."""
    return 20000 + zlib.crc32(f"{name} {job_id}".encode()) % 12000

"""What runs in a job: on every rank, submitit's environment becomes torchrun's variables, then the run is trained; or a part of a cohort
is preprocessed."""

from __future__ import annotations

import os
import signal
import sys
import zlib
from pathlib import Path
from types import FrameType
from typing import Any

from slurm import squeue


class Job:
    """What submitit pickles; all that it resumes from lies on the disk."""

    def checkpoint(self) -> Any:
        """What submitit queues again after a time limit or a pre-emption: the same job."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class TrainJob(Job):
    """The callable that submitit pickles. Everything it resumes from lies in the run's directory."""

    def __init__(self, run: Path, cpus: int) -> None:
        self.run, self.cpus = run, cpus

    def __call__(self) -> str:
        os.environ.update(rank_variables(str(self.run), self.cpus))
        signal.signal(signal.SIGTERM, queue_again)
        from distsynth.ranks.preemption import Stopped
        from distsynth.train import train
        from preprocess.shared.errors import UserError

        try:
            train(self.run)
        except UserError as error:
            sys.exit(f"error: {error}")
        except Stopped:
            # Rank 0 sees to the queue; another rank that failed here would have Slurm kill it before it has.
            if os.environ["RANK"] == "0":
                raise
        return str(self.run)


class PartJob(Job):
    """One call of to_zarr, as submitit pickles it: what is finished lies in the store, so that a queued-again part goes on."""

    def __init__(self, words: list[str]) -> None:
        self.words = words

    def __call__(self) -> int:
        from preprocess.to_zarr import main

        return main(self.words)


def queue_again(number: int, frame: FrameType | None) -> None:
    """After SIGTERM and its checkpoint. Where a site has set nothing, it is all that a pre-empted job gets before it is killed, and one that
    ends by itself in the grace time is not queued again: so the job does it, as after USR2. One that is being cancelled, killed or requeued
    is no longer `RUNNING` for Slurm, and is left alone."""
    from submitit import JobEnvironment

    job = JobEnvironment()
    requeue = signal.getsignal(signal.SIGUSR2)
    if job.cluster == "slurm" and job.global_rank == 0 and callable(requeue) and squeue.state(job.job_id) == "RUNNING":
        requeue(number, frame)


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

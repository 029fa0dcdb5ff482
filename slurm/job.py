"""The content of a job: every rank turns submitit's environment into torchrun's variables and trains the run; or a part of a cohort is
preprocessed, or a part of the patients synthesised."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zlib
from functools import partial
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

from slurm import squeue


class Job:
    """What submitit pickles; everything that it resumes from is on the disk."""

    def checkpoint(self) -> Any:
        """What submitit queues after a time limit or a pre-emption: the same job again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class TrainJob(Job):
    """The training of one run, which resumes from the run's directory."""

    def __init__(self, run: Path, cpus: int) -> None:
        self.run, self.cpus = run, cpus

    def __call__(self) -> str:
        os.environ.update(rank_variables(str(self.run), self.cpus))
        requeue = partial(requeue_job, signal.getsignal(signal.SIGUSR2))
        for number in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, requeue)
        from distsynth.ranks.preemption import Stopped
        from distsynth.train import train
        from preprocess.shared.errors import UserError

        try:
            train(self.run)
        except UserError as error:
            sys.exit(f"error: {error}")
        except Stopped:
            # Rank 0 requeues the job; if another rank failed here, Slurm would kill rank 0 before that.
            if os.environ["RANK"] == "0":
                raise
        return str(self.run)


class PartJob(Job):
    """One call of a command; what it has finished is on the disk, so that a requeued part continues."""

    def __init__(self, module: str, words: list[str]) -> None:
        self.module, self.words = module, words

    def __call__(self) -> int:
        status: int = import_module(self.module).main(self.words)
        return status


def requeue_job(requeue: Any, number: int, frame: FrameType | None) -> None:
    """Handles USR2 and SIGTERM, after the checkpoint, by `requeue`, submitit's handler of USR2. With Slurm's defaults SIGTERM is the only signal
    that a pre-empted job gets before it is killed, and Slurm does not requeue a job that ends by itself in the grace time: so the job requeues
    itself, as after USR2. A job that is being cancelled, killed or requeued is no longer `RUNNING` for Slurm, and is not requeued here.

    Where the node has no client of Slurm, or Slurm does not allow it, the job ends as stopped, and the launcher submits the run again."""
    from submitit import JobEnvironment

    job = JobEnvironment()
    if number == signal.SIGTERM and (job.cluster != "slurm" or job.global_rank or squeue.state(job.job_id) != "RUNNING"):
        return
    try:
        requeue(number, frame)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"warning: the job cannot requeue itself ({error})", file=sys.stderr)


def rank_variables(name: str, cpus: int) -> dict[str, str]:
    """RANK, WORLD_SIZE and so on, as torchrun sets them, and the threads of a rank.

    Raises what submitit raises outside a job.
    """
    # Not submitit's TorchDistributedEnvironment: on one node too it takes the host name, which may not resolve, and a port up to 60000, where
    # the system's outgoing connections have theirs.
    from submitit import JobEnvironment

    job = JobEnvironment()
    # On a machine that others use too, threads that wait for each other must not spin (libgomp's and Intel's variable).
    quiet = {} if job.cluster == "slurm" else {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
    return {
        **quiet,
        "RANK": str(job.global_rank),
        "WORLD_SIZE": str(job.num_tasks),
        "LOCAL_RANK": str(job.local_rank),
        "LOCAL_WORLD_SIZE": str(job.num_tasks // job.num_nodes),
        "MASTER_ADDR": "127.0.0.1" if job.num_nodes == 1 else job.hostnames[0],
        "MASTER_PORT": str(port(name, job.job_id)),
        "OMP_NUM_THREADS": str(cpus),
    }


def port(name: str, job_id: str) -> int:
    """One port for all ranks of a job, which rarely equals that of another job: runs of a sweep share nodes."""
    return 20000 + zlib.crc32(f"{name} {job_id}".encode()) % 12000

"""Where runs are executed: Slurm, or this machine through submitit's local executor."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from preprocess.shared.errors import SettingError
from preprocess.shared.settings import setting


@dataclass
class ClusterSettings:
    """The resources of each run."""

    kind: Literal["auto", "slurm", "local"] = setting("auto", "auto: Slurm where sbatch is on the PATH, else this machine")
    nodes: int = setting(1, "nodes per run (Slurm)")
    ranks: int = setting(1, "ranks per node, one GPU each where gpus is 1")
    gpus: int = setting(0, "GPUs per rank: 0 or 1; a machine without any trains on its cores")
    cpus: int = setting(1, "CPU cores per rank")
    memory: str = setting("16GB", "memory per node (Slurm; empty: the site's default)")
    minutes: int = setting(24 * 60, "time limit; a run that reaches it writes a checkpoint and is requeued")
    requeues: int = setting(20, "how often a run may reach its time limit")
    warning: int = setting(120, "seconds before the time limit at which a run is signalled to write its checkpoint")
    retries: int = setting(2, "how often a run whose job died is resubmitted; it resumes from its last checkpoint")
    partition: str = setting("", "Slurm's partition")
    account: str = setting("", "Slurm's account")
    constraint: str = setting("", "Slurm's node constraint")
    parallel: int = setting(0, "runs at the same time (0: no limit on Slurm, one on this machine)")
    array: int = setting(8, "job=preprocess, job=synthesise: number of parts, each with `cpus` workers or threads (Slurm)")
    extra: dict[str, str] = setting({}, "any other sbatch option, name: value")

    def __post_init__(self) -> None:
        for name in ("nodes", "ranks", "cpus", "minutes", "array"):
            if getattr(self, name) < 1:
                raise SettingError(f"cluster.{name}={getattr(self, name)} must be at least 1")
        for name in ("requeues", "warning", "retries", "parallel"):
            if getattr(self, name) < 0:
                raise SettingError(f"cluster.{name}={getattr(self, name)} must not be negative")
        if self.warning >= 60 * self.minutes:
            raise SettingError(
                f"cluster.warning={self.warning} must be below the time limit of {60 * self.minutes} s (cluster.minutes)"
            )
        if self.gpus not in (0, 1):
            raise SettingError(f"cluster.gpus={self.gpus} must be 0 or 1: each rank drives one GPU; set cluster.ranks for more")
        if self.resolved == "local" and self.nodes > 1:
            raise SettingError(f"cluster.nodes={self.nodes} needs Slurm: on this machine use cluster.ranks")

    def check(self) -> None:
        """Raise SettingError where jobs cannot be submitted."""
        if self.resolved == "slurm" and not shutil.which("sbatch"):
            raise SettingError(
                "cluster.kind=slurm needs Slurm's sbatch on the PATH: run this on a login node, or give cluster=local"
            )

    @property
    def resolved(self) -> str:
        """`slurm` or `local`."""
        if self.kind == "auto":
            return "slurm" if shutil.which("sbatch") else "local"
        return self.kind

    @property
    def threads(self) -> int:
        """Threads of a rank: its cores, on this machine at most its share of them."""
        here = len(os.sched_getaffinity(0)) // self.ranks
        return self.cpus if self.resolved == "slurm" else max(1, min(self.cpus, here))

    @property
    def size(self) -> str:
        """The resources of each run, for people."""
        nodes, ranks = (f"{n} {name}{'s' * (n > 1)}" for n, name in ((self.nodes, "node"), (self.ranks, "rank")))
        gpu = " and a GPU" * (self.gpus > 0 and self.resolved == "slurm")
        return f"{nodes} x {ranks}, {self.threads} core{'s' * (self.threads > 1)}{gpu} each"


def submit(settings: ClusterSettings, name: str, jobs: Sequence[Any], logs: Path) -> list[Any]:
    """Submit all callables: on Slurm as one array, on this machine as one process group each. Returns submitit's jobs.

    Raises SettingError if Slurm refuses them or is not there.
    """
    import submitit

    if settings.resolved == "local":
        executor = submitit.LocalExecutor(folder=logs / "%j", max_num_timeout=settings.requeues)
        executor.update_parameters(
            tasks_per_node=settings.ranks,
            timeout_min=settings.minutes,
            signal_delay_s=settings.warning,
            gpus_per_node=settings.ranks * settings.gpus,
        )
        with errors_to(logs / "controllers.err"):
            return [executor.submit(job) for job in jobs]
    settings.check()
    slurm = submitit.SlurmExecutor(folder=logs / "%j", max_num_timeout=settings.requeues)
    slurm.update_parameters(**slurm_parameters(settings, name))
    try:
        with slurm.batch():
            submitted = [slurm.submit(job) for job in jobs]
    except submitit.core.utils.FailedJobError as error:
        raise SettingError(f"Slurm refused the jobs: {' '.join(str(error).split())}; check the cluster.* settings") from error
    return submitted


@contextmanager
def errors_to(file: Path) -> Iterator[None]:
    """submitit's controllers that are started in the block write their errors to a file: stopped, they end in a traceback, which says nothing of
    the runs."""
    file.parent.mkdir(parents=True, exist_ok=True)
    terminal = os.dup(2)
    log = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(log)


def slurm_parameters(settings: ClusterSettings, name: str) -> dict[str, Any]:
    """The settings under submitit's names."""
    parameters: dict[str, Any] = {
        "job_name": name,
        "nodes": settings.nodes,
        "ntasks_per_node": settings.ranks,
        "cpus_per_task": settings.cpus,
        "time": settings.minutes,
        "signal_delay_s": settings.warning,
        # Without it the other ranks would wait for a dead one until their time-out.
        "srun_args": ["--kill-on-bad-exit=1"],
        # Some sites do not requeue a job whose node fails.
        "additional_parameters": {"requeue": True} | settings.extra,
    }
    if settings.memory:
        parameters["mem"] = settings.memory
    if settings.gpus:
        parameters["gpus_per_node"] = settings.ranks
    if settings.parallel:
        parameters["array_parallelism"] = settings.parallel
    named = {"partition": settings.partition, "account": settings.account, "constraint": settings.constraint}
    return parameters | {key: value for key, value in named.items() if value}

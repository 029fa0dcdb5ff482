"""Where runs are executed: Slurm, or this machine through submitit's local executor."""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from preprocess.shared.cores import cores
from preprocess.shared.errors import SettingError
from preprocess.shared.settings import setting
from slurm import squeue

# Of the environment, what Slurm's commands need to reach Slurm. The rest of SLURM_* describes the job that the launcher itself runs in.
REACH = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT")
# Sbatch takes them in place of what its script asks for; `submit` adds those of the settings that are given.
DECIDED = (
    "ARRAY_INX CPUS_PER_TASK ERROR INPUT JOB_NAME NO_REQUEUE OPEN_MODE OUTPUT REQUEUE SIGNAL TIMELIMIT WAIT "
    "GPUS GPUS_PER_NODE GPUS_PER_TASK GRES"
)
MEMORY = ("mem", "mem_per_node", "mem_per_cpu", "mem_per_gpu")
# Options of cluster.extra that replace one of ours, which Slurm would refuse beside them.
INSTEAD = {
    "mem": MEMORY,
    "cpus_per_task": ("cpus_per_gpu",),
    "gpus_per_node": ("gpus", "gpus_per_task", "gpus_per_socket", "gres"),
}


@dataclass
class ClusterSettings:
    """The resources of each run."""

    kind: Literal["auto", "slurm", "local"] = setting("auto", "auto: Slurm where it answers, else this machine")
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
    extra: dict[str, str] = setting({}, "any other sbatch option, name: value (empty: an option without a value)")

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
        if self.nodes > 1 and self.resolved == "local":
            raise SettingError(f"cluster.nodes={self.nodes} needs Slurm: on this machine use cluster.ranks")

    def check(self) -> None:
        """Raise SettingError where jobs cannot be submitted."""
        absent = [name for name in ("sbatch", "srun", "squeue") if not shutil.which(name)]
        if self.resolved == "slurm" and absent:
            raise SettingError(
                f"cluster.kind=slurm needs Slurm's {absent[0]} on the PATH: run this on a login node, or give cluster=local"
            )

    @property
    def resolved(self) -> str:
        """`slurm` or `local`."""
        if self.kind == "auto":
            return "local" if squeue.absence() else "slurm"
        return self.kind

    @property
    def why(self) -> str:
        """Why `auto` has become what it is, for people; empty where it was given."""
        if self.kind != "auto":
            return ""
        absence = squeue.absence()
        return f" (cluster.kind=auto: {absence or 'Slurm answers'})"

    @property
    def threads(self) -> int:
        """Threads of a rank: its cores, on this machine at most its share of them beside the other ranks and runs."""
        if self.resolved == "slurm":
            return self.cpus
        return max(1, min(self.cpus, cores() // (self.ranks * max(1, self.parallel))))

    @property
    def size(self) -> str:
        """The resources of each run, for people."""
        nodes, ranks = (f"{n} {name}{'s' * (n > 1)}" for n, name in ((self.nodes, "node"), (self.ranks, "rank")))
        gpu = " and a GPU" * (self.gpus > 0 and self.resolved == "slurm")
        return f"{nodes} x {ranks}, {self.threads} core{'s' * (self.threads > 1)}{gpu} each"


class LimitReached(SettingError):
    """A limit of the site on arrays or on queued jobs: fewer at once may be accepted. Nothing was submitted."""


def submit(settings: ClusterSettings, name: str, jobs: Sequence[Any], logs: Path, gpus: Sequence[str] = ()) -> list[Any]:
    """Submit all callables: on Slurm as one array, on this machine as one process group each, with these GPUs if it has any. Returns submitit's
    jobs.

    Raises SettingError if Slurm refuses them or is not there, LimitReached if fewer may be accepted.
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
        executor.parameters["visible_gpus"] = tuple(gpus)  # not through update_parameters, which refuses UUIDs
        with errors_to(logs / "controllers.err"):
            return [executor.submit(job) for job in jobs]
    settings.check()
    slurm = submitit.SlurmExecutor(folder=logs / "%j", max_num_timeout=settings.requeues)
    slurm.update_parameters(**slurm_parameters(settings, name))
    try:
        with outside_of_jobs(settings), redirect_stderr(io.StringIO()), slurm.batch():  # submitit prints Slurm's words too
            submitted = [slurm.submit(job) for job in jobs]
    except submitit.core.utils.FailedJobError as error:
        raise refusal(settings, str(error)) from error
    return submitted


def refusal(settings: ClusterSettings, error: str) -> SettingError:
    """What to raise when sbatch has written this: its words in one sentence, with the setting to change."""
    lines = [
        re.sub(r"^(sbatch: |error: |fatal: |Batch job submission failed: )+", "", line).strip() for line in error.splitlines()
    ]
    # Where Slurm names the limit, its next line lists all the limits that there might be.
    lines = [line for line in lines if re.fullmatch(r"(Assoc|QOS)\w+", line)] or lines
    words = "; ".join(dict.fromkeys(line for line in lines if line and not line.startswith("Try "))) or "no reason given"
    if squeue.LIMIT.search(words):
        return LimitReached(
            f"Slurm takes no more jobs at once ({words}): wait until others have ended, or ask the site for its limits"
        )
    names = squeue.settings_for(words)
    value = getattr(settings, names.removeprefix("cluster."), "")
    return SettingError(f"Slurm refused the jobs ({words}): check {names}{f'={value}' * (value != '' and value != {})}")


@contextmanager
def outside_of_jobs(settings: ClusterSettings) -> Iterator[None]:
    """In the block, the environment is that of a login node: without the variables of the job that the launcher may run in, and without those
    that sbatch takes in place of the given settings. SBATCH_ACCOUNT and the like of a user's profile stay where the settings say nothing."""
    given = {name for name in ("partition", "account", "constraint") if getattr(settings, name)} | option_names(settings.extra)
    memory = {"mem", *MEMORY} if settings.memory or given & set(MEMORY) else set()
    decided = {f"SBATCH_{name.upper()}" for name in (*DECIDED.split(), *given, *memory)}
    ours = {n for n in os.environ if n in decided or (n.startswith(("SLURM_", "SRUN_", "PMI")) and n not in REACH)}
    taken = {name: os.environ.pop(name) for name in ours}
    try:
        yield
    finally:
        os.environ.update(taken)


def option_names(extra: Iterable[str]) -> set[str]:
    """The options of cluster.extra, spelt as submitit does."""
    return {name.replace("-", "_") for name in extra}


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
    extra: dict[str, Any] = {key.replace("-", "_"): value or True for key, value in settings.extra.items()}
    cpus = extra.get("cpus_per_task", settings.cpus)
    parameters: dict[str, Any] = {
        "job_name": name,
        "nodes": settings.nodes,
        "ntasks_per_node": settings.ranks,
        "cpus_per_task": settings.cpus,
        "time": settings.minutes,
        "signal_delay_s": settings.warning,
        "mem": settings.memory,
        "gpus_per_node": settings.ranks * settings.gpus,
        "array_parallelism": settings.parallel,
        "partition": settings.partition,
        "account": settings.account,
        "constraint": settings.constraint,
    }
    parameters = {key: value for key, value in parameters.items() if value != "" and (value or key == "signal_delay_s")}
    for ours, theirs in INSTEAD.items():
        if any(option in extra and (option != "gres" or "gpu" in str(extra[option])) for option in theirs):
            parameters.pop(ours, None)
    # kill-on-bad-exit: without it the other ranks would wait for a dead one until their time-out. Since Slurm 22.05 srun does not take the cores
    # of a task from its job.
    srun = ["--kill-on-bad-exit=1", *([f"--cpus-per-task={cpus}"] if "cpus_per_gpu" not in extra else [])]
    return parameters | {
        "srun_args": srun,
        "setup": ["unset SLURM_EXPORT_ENV"],  # SBATCH_EXPORT=NONE: the ranks get the variables of the batch script
        "wckey": None,  # submitit's own, which a site that checks them refuses
        # Some sites do not requeue a job whose node fails.
        "additional_parameters": {"requeue": True} | extra,
    }

"""What Slurm answers: whether it is there, the state of a job, why it refuses one or will not start it. From squeue, not sacct: squeue needs no
accounting, and submitit, which asks sacct, takes a node's failure as the end of a job that is queued again."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from functools import cache

# What sbatch writes of a refusal, and squeue of a job that does not start: the settings to change. The first that matches counts.
SETTINGS = (
    (r"partition name|partition specified|permission", "cluster.partition"),
    (r"wall|time.?limit", "cluster.minutes"),
    (r"mem", "cluster.memory"),
    (r"generic resource|gres|gpu", "cluster.gpus"),
    (r"feature", "cluster.constraint"),
    (r"partition.?node|node count|NodePerJob", "cluster.nodes"),
    (r"cpu|processors", "cluster.cpus"),
    (r"account", "cluster.account"),
    (r"qos", "cluster.extra.qos"),
    (r"option|wckey|reservation|licen[cs]e|dependency", "cluster.extra"),
)
MANY = "cluster.nodes, cluster.cpus, cluster.memory, cluster.gpus and cluster.constraint"
# Limits on how many jobs may be queued, or be in one array: some of them may be submitted.
LIMIT = re.compile(r"submit.?job|job submit limit|job array specification|queue full|temporarily unable", re.IGNORECASE)
# A job that waits for such a reason does not start until somebody changes something.
NEVER = re.compile(
    r"Partition(Time|Node)Limit|PartitionConfig|BadConstraints|Invalid(Account|QOS)|(Assoc|QOS)M(ax|in)\w*PerJob\w*|DependencyNeverSatisfied"
)


def ask(*words: str, seconds: float | None = None) -> subprocess.CompletedProcess[str]:
    """A command of Slurm; where it is absent or does not answer in time its status is not 0."""
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=seconds)
    except OSError as error:
        return subprocess.CompletedProcess(words, 127, "", str(error))
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(words, 124, "", f"no answer within {seconds:g} s")


@cache
def absence() -> str:
    """Why this machine's Slurm cannot be used; empty where it answers."""
    if not shutil.which("sbatch"):
        return "there is no sbatch on the PATH"
    done = ask("sinfo", "--noheader", "--format=%P", seconds=5)
    if done.returncode == 0 and done.stdout.strip():
        return ""
    return f"sbatch is here, but Slurm does not answer ({(done.stderr.strip() or 'sinfo lists no partition').splitlines()[-1]})"


def state(job_id: str, ended: bool = False) -> str:
    """`PENDING`, `RUNNING`, `COMPLETING` and so on; with `ended` also `CANCELLED`, `NODE_FAIL`, `TIMEOUT` … for some minutes after the end.

    Empty where Slurm no longer knows the job, `UNKNOWN` where it does not answer.
    """
    done = ask("squeue", "--noheader", f"--jobs={job_id}", "--format=%T", *(["--states=all"] if ended else []))
    if done.returncode == 0:
        return done.stdout.split("\n")[0].strip()
    return "" if "Invalid job id" in done.stderr else "UNKNOWN"


def stuck(job_ids: Iterable[str]) -> str:
    """Of jobs that Slurm has accepted and does not start, however long they wait, why, with the setting to change; empty if there are none."""
    wanted = ",".join({job_id.partition("_")[0] for job_id in job_ids})
    done = ask("squeue", "--noheader", f"--jobs={wanted}", "--states=PENDING", "--format=%A %r")
    for line in done.stdout.splitlines():
        if NEVER.search(line):
            return f"Slurm does not start job {line.replace(' ', ' (', 1)}): check {settings_for(line)}"
    return ""


def mine() -> bool:
    """Whether the user has any job queued or running."""
    return bool(ask("squeue", "--noheader", "--me", "--format=%A").stdout.strip())


def settings_for(words: str) -> str:
    """The settings that Slurm's words are about."""
    return next((names for pattern, names in SETTINGS if re.search(pattern, words, re.IGNORECASE)), MANY)

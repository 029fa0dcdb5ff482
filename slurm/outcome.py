"""What to do about a run whose job has ended, from the journal's last line and Slurm's state of the job."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from distsynth.tracking.journal import Line

TOO_OFTEN = "timed-out too many times"  # submitit's words
LIMIT = "it reached its time limit more often than cluster.requeues allows"
PORT = re.compile(r"port \d+ is taken on ")  # another job has another port


@dataclass(frozen=True)
class Outcome:
    """The run's status, why, and whether the journal still lacks this as its last line."""

    status: Literal["finished", "failed", "stopped", "retry"]
    reason: str = ""
    missing: bool = False
    died: bool = True  # whether a retry is one of cluster.retries: not after a time limit or a pre-emption


def outcome_of(last: Line | None, state: str, error: str) -> Outcome:
    """`last` is the journal's last line if the job has written any; `state` is Slurm's, empty on this machine; `error` is the last line of the
    job's error output.

    Transient failures are retried: ranks that died or hung, lost nodes, a checkpoint slower than the time limit's warning, a port that another
    process has, a job that was stopped and could not requeue itself. Not retried: what the user has to fix, a loss that was not finite, a time
    limit that was reached too often, and what somebody stopped.
    """
    if last is None and error.startswith("error: ") and not PORT.search(error):  # refused before the journal was opened
        return Outcome("failed", error.removeprefix("error: "), missing=True)
    if TOO_OFTEN in error:
        return Outcome("failed", LIMIT, missing=True)
    end: Line = last if last is not None and last["kind"] == "end" else {}
    status = end.get("status")
    if status == "finished":
        return Outcome("finished")
    if status == "failed" and not (end.get("retry") or PORT.search(end.get("reason", ""))):
        return Outcome("failed")
    if state == "CANCELLED":
        return Outcome("stopped", "its job was cancelled", missing=True)
    if status == "stopped" and not state:
        return Outcome("stopped")
    reason = end.get("reason") or error.removeprefix("error: ") or "the job ended without an error message"
    return Outcome("retry", with_state(reason, state), died=status != "stopped" and state not in ("TIMEOUT", "PREEMPTED"))


def with_state(reason: str, state: str) -> str:
    return f"{reason} (Slurm: {state})" if state not in ("", "FAILED", "UNKNOWN") else reason


def last_error(job: Any) -> str:
    """Why a job has failed, from its error output: the last `error: …` of the first rank that has one, else rank 0's death by a signal, as srun
    reports it, else rank 0's last line that is not srun's, else srun's last error; empty if there is none.
    """
    first: list[str] = []
    for rank in range(job.num_tasks):
        try:
            lines = Path(job.task(rank).paths.stderr).read_text(errors="replace").strip().splitlines()
        except OSError:
            continue
        if errors := [line for line in lines if line.startswith("error: ")]:
            return errors[-1]
        first = lines if rank == 0 else first
    reports = [line for line in first if line.startswith("srun: error: ")]
    deaths = [line for line in reports if re.search(r"\btasks? [\d,-]+: ", line)][:1]  # those that follow are killed for it
    killed = [line for line in deaths if "Exited with exit code" not in line]
    own = [line for line in first if line and not line.startswith(("srun: ", "slurmstepd: ", "submitit "))]
    return next((lines[-1] for lines in (killed, own, reports) if lines), "")

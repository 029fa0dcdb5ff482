"""What to do about a run whose job has ended, from the journal's last line and Slurm's state of the job."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from distsynth.tracking.journal import Line

TOO_OFTEN = "timed-out too many times"  # submitit's words


@dataclass(frozen=True)
class Outcome:
    """The run's status, why, and whether the journal still lacks this as its last line."""

    status: Literal["finished", "failed", "stopped", "retry"]
    reason: str = ""
    missing: bool = False


def outcome_of(last: Line | None, state: str, error: str) -> Outcome:
    """`last` is the journal's last line if the job has written any; `state` is Slurm's, empty on this machine; `error` is the last line of the
    job's error output.

    Transient failures are retried: ranks that died or hung, lost nodes, a checkpoint slower than the time limit's warning. Not retried: what the
    user has to fix, a loss that was not finite, a time limit that was reached too often, and what somebody stopped.
    """
    if last is None and re.match(r"error: port \d+ is taken on ", error):  # another job has another port
        return Outcome("retry", error.removeprefix("error: "))
    if last is None and error.startswith("error: "):  # refused before the journal was opened
        return Outcome("failed", error.removeprefix("error: "), missing=True)
    if TOO_OFTEN in error:
        return Outcome("failed", "it reached its time limit more often than cluster.requeues allows", missing=True)
    end: Line = last if last is not None and last["kind"] == "end" else {}
    status = end.get("status")
    if status == "finished":
        return Outcome("finished")
    if status == "failed" and not end.get("retry"):
        return Outcome("failed")
    if state == "CANCELLED":
        return Outcome("stopped", "its job was cancelled", missing=True)
    if status == "stopped" and not state:
        return Outcome("stopped")
    return Outcome("retry", with_state(end.get("reason") or error or "the job ended without an error message", state))


def with_state(reason: str, state: str) -> str:
    return f"{reason} (Slurm: {state})" if state not in ("", "FAILED", "UNKNOWN") else reason

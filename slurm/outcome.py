"""What to do about a run whose job has ended, from the journal's last line and Slurm's word for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from distsynth.tracking.journal import Line

TOO_OFTEN = "timed-out too many times"  # submitit's words


@dataclass(frozen=True)
class Verdict:
    """The run's status, why, and whether the journal does not say so yet."""

    status: Literal["finished", "failed", "stopped", "retry"]
    reason: str = ""
    say: bool = False


def judge(last: Line | None, state: str, words: str) -> Verdict:
    """`last` is the journal's last line if the job has written any, `state` is Slurm's, empty on this machine; `words` are the last of the
    error output.

    Tried again is what may pass: ranks that died or hung, lost nodes, a checkpoint slower than the time limit's warning. Not what the user
    has to mend, a loss that was not finite, a limit that was reached too often, nor what somebody stopped.
    """
    if last is None and words.startswith("error: "):  # refused before the journal was opened
        return Verdict("failed", words.removeprefix("error: "), say=True)
    if TOO_OFTEN in words:
        return Verdict("failed", "it reached its time limit more often than cluster.requeues allows", say=True)
    end: Line = last if last is not None and last["kind"] == "end" else {}
    status = end.get("status")
    if status == "finished":
        return Verdict("finished")
    if status == "failed" and not end.get("retry"):
        return Verdict("failed")
    if state == "CANCELLED":
        return Verdict("stopped", "its job was cancelled", say=True)
    if status == "stopped" and not state:
        return Verdict("stopped")
    return Verdict("retry", told(end.get("reason") or words or "the job ended without a word", state))


def told(reason: str, state: str) -> str:
    return f"{reason} (Slurm: {state})" if state not in ("", "FAILED", "UNKNOWN") else reason

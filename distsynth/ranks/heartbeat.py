"""What a rank tells of itself, and what becomes of it: beats, verdicts, and whether a process lives."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Phase = Literal["start", "first_step", "step", "validation", "checkpoint", "evaluation"]
PLACES: dict[Phase, str] = {
    "start": "at its start",
    "first_step": "in the first update after step {}",
    "step": "at step {}",
    "validation": "in the validation after step {}",
    "checkpoint": "writing the checkpoint of step {}",
    "evaluation": "in the evaluation after step {}",
}


@dataclass(frozen=True)
class Heartbeat:
    """What a rank tells of itself."""

    rank: int
    machine: str
    pid: int
    born: int  # the process's start, so that a later one of the same pid is told from it
    number: int = 0
    phase: Phase = "start"
    step: int = 0
    moves: int = 0  # a change is progress


@dataclass(frozen=True)
class Verdict:
    """Why the run ends, and the ranks that are to blame."""

    sentence: str
    blamed: tuple[int, ...] = ()
    retry: bool = True  # started again from its checkpoint, the run may get further


@dataclass
class Seen:
    """The last beat of a rank, and when it and its progress last changed (this rank's monotonic seconds)."""

    beat: Heartbeat
    beaten: float
    moved: float


def place(phase: Phase, step: int) -> str:
    return PLACES[phase].format(step)


def machine() -> str:
    """Where a pid means the same process: host and pid namespace."""
    return f"{socket.gethostname()} {Path('/proc/self/ns/pid').readlink()}"


def birth(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None if there is none, or only its entry waits to be reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def alive(pid: int, born: int) -> bool:
    return birth(pid) == born

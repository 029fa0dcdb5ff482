"""What the ranks exchange to watch each other, signed: heartbeats, the verdict that ends a run, and whether a process is still alive."""

from __future__ import annotations

import hmac
import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Phase = Literal["start", "first_step", "step", "validation", "checkpoint", "evaluation"]
PHASES: dict[Phase, str] = {
    "start": "during startup",
    "first_step": "in the first update after step {}",
    "step": "at step {}",
    "validation": "in the validation after step {}",
    "checkpoint": "while writing the checkpoint of step {}",
    "evaluation": "in the evaluation after step {}",
}


@dataclass(frozen=True)
class Heartbeat:
    """What a rank reports about itself."""

    rank: int
    machine: str
    pid: int
    started: int  # when the process started: a later process with the same pid has another value
    number: int = 0
    phase: Phase = "start"
    step: int = 0
    progress: int = 0  # a counter: any change is progress


@dataclass(frozen=True)
class Verdict:
    """Why the run ends, and the ranks that caused it."""

    sentence: str
    blamed: tuple[int, ...] = ()
    retry: bool = True  # restarting from the checkpoint may get further


@dataclass
class Peer:
    """Another rank's last heartbeat, and when this rank last saw a new one and last saw progress (its own monotonic seconds)."""

    heartbeat: Heartbeat
    heard: float
    progressed: float


@dataclass(frozen=True)
class Seal:
    """Signs what the ranks write to the store, and opens only what a rank of this run has written under that name."""

    key: bytes = b""

    def close(self, name: str, content: dict[str, Any]) -> str:
        text = json.dumps(content)
        return f"{self.signature(name, text)} {text}"

    def open(self, name: str, written: bytes | str) -> dict[str, Any] | None:
        """The content; None if it is not signed with this key."""
        text = written if isinstance(written, str) else written.decode(errors="replace")
        signature, _, text = text.partition(" ")
        genuine = hmac.compare_digest(signature.encode(), self.signature(name, text).encode())
        return dict[str, Any](json.loads(text)) if genuine else None

    def signature(self, name: str, text: str) -> str:
        return hmac.new(self.key, f"{name} {text}".encode(), "sha256").hexdigest()


def describe(phase: Phase, step: int) -> str:
    return PHASES[phase].format(step)


def machine() -> str:
    """Host and pid namespace: where these are equal, a pid means the same process."""
    return f"{socket.gethostname()} {Path('/proc/self/ns/pid').readlink()}"


def start_time(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None if it does not exist or is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def alive(pid: int, started: int) -> bool:
    return start_time(pid) == started


def same_run(heartbeat: Heartbeat) -> bool:
    """Whether the process lives on this machine, is this user's, and runs the command that this rank runs."""
    own, other = Path("/proc/self"), Path(f"/proc/{heartbeat.pid}")
    try:
        same = own.stat().st_uid == other.stat().st_uid and (own / "cmdline").read_bytes() == (other / "cmdline").read_bytes()
    except OSError:
        return False
    return same and heartbeat.machine == machine() and heartbeat.pid != os.getpid() and alive(heartbeat.pid, heartbeat.started)

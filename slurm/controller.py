"""submitit's local controllers: the process that starts a job's ranks on this machine, and outlives a killed launcher."""

from __future__ import annotations

import os
from pathlib import Path


class Controller:
    """One that an earlier launcher started, with the two methods that submitit calls on a process."""

    def __init__(self, pid: int, logs: Path) -> None:
        self.pid, self.logs = pid, logs

    def poll(self) -> int | None:
        """None while it runs."""
        return None if runs_jobs_of(self.pid, self.logs) else 0

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def running(pid: int, logs: Path) -> Controller | None:
    """The controller `pid` of the jobs that write their output to `logs`, if it still runs."""
    controller = Controller(pid, logs)
    return controller if controller.poll() is None else None


def runs_jobs_of(pid: int, logs: Path) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return False
    return "submitit.local._local" in command and any(word.startswith(str(logs)) for word in command)


def ranks_of(pid: int) -> list[int]:
    """The processes of the ranks that a controller still waits for, in rank order; empty if the controller has ended."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def gpus_of(pid: int) -> list[str]:
    """The GPUs that a controller was given."""
    try:
        variables = Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0")
    except OSError:
        return []
    return next((v.partition("=")[2].split(",") for v in variables if v.startswith("CUDA_VISIBLE_DEVICES=")), [])


def gpus_here() -> list[str]:
    """This machine's GPUs, as CUDA_VISIBLE_DEVICES names them; where it is set, only those."""
    import torch

    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(number) for number in range(count)] if visible is None else visible.split(",")[:count]

"""The ranks of a run: torchrun's variables or one process, NCCL on GPUs and gloo on CPUs. Nothing else reads the environment."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from preprocess.errors import SettingError, UserError

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process's place among the ranks."""

    rank: int
    size: int
    local_rank: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this is the rank that writes."""
        return self.rank == 0

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()

    def gather(self, value: T) -> list[T]:
        """Every rank's (picklable) value, on every rank, in rank order."""
        if self.size == 1:
            return [value]
        gathered: list[T] = [value] * self.size
        dist.all_gather_object(gathered, value)
        return gathered

    def largest(self, value: Tensor) -> Tensor:
        """The elementwise largest over the ranks."""
        if self.size > 1:
            dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return value

    def mean(self, value: Tensor) -> Tensor:
        """The elementwise mean over the ranks."""
        if self.size > 1:
            dist.all_reduce(value)
            value /= self.size
        return value

    def share(self, write: Callable[[], str], read: Callable[[str], T]) -> T:
        """One rank of each node writes a file, all of the node's open it, and then its name is removed, so that a killed run leaves
        nothing. An error of `write` is raised on every rank."""
        path, failure = "", None
        if self.local_rank == 0:
            try:
                path = write()
            except UserError as error:
                failure = error
        made = self.gather((socket.gethostname(), path, failure))
        if failures := [found for _, _, found in made if found is not None]:
            raise failures[0]
        try:
            opened = read(next(p for host, p, _ in made if p and host == socket.gethostname()))
            self.barrier()
        finally:
            if path:
                Path(path).unlink(missing_ok=True)
        return opened


@contextmanager
def world(device: Literal["auto", "cpu", "cuda"], stuck_minutes: float) -> Iterator[World]:
    """Join the ranks that RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT name; without them, be the only one.

    Raises SettingError if a GPU is asked for and there is none for this rank. A rank that waits for another longer than
    `stuck_minutes` raises.
    """
    rank, size, local = (
        int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )
    chosen = choose_device(device, local)
    if size > 1:
        backend = "nccl" if chosen.type == "cuda" else "gloo"
        dist.init_process_group(backend, rank=rank, world_size=size, timeout=timedelta(minutes=stuck_minutes))
    try:
        yield World(rank, size, local, chosen)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def choose_device(device: Literal["auto", "cpu", "cuda"], local_rank: int) -> torch.device:
    """This rank's device. Raises SettingError if it cannot be had."""
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    # Slurm may show each task its own GPU alone, or all of the node's to each.
    index = 0 if count == 1 and int(os.environ.get("LOCAL_WORLD_SIZE", 1)) > 1 and "SLURM_STEP_GPUS" in os.environ else local_rank
    if index >= count:
        raise SettingError(
            f"train.device={device}: local rank {local_rank} finds {count} GPUs: start at most one rank per GPU, or set train.device=cpu"
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)

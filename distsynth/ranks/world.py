"""The ranks of a run, from torchrun's environment variables or a single process; NCCL on GPUs, gloo on CPUs."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from distsynth.ranks.watchdog import Watchdog, running
from distsynth.settings import LimitSettings
from preprocess.shared.errors import SettingError, UserError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process's place among the ranks."""

    rank: int
    size: int
    local_rank: int
    device: torch.device
    watchdog: Watchdog = field(default_factory=Watchdog)

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which writes the files."""
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

    def from_first(self, value: T | None) -> T:
        """Rank 0's (picklable) value, on every rank; the other ranks' values are ignored."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values)
        return cast("T", values[0])

    @contextmanager
    def together(self) -> Iterator[None]:
        """A UserError that one rank raises in the block is raised on every rank, so that none waits for a rank that has left."""
        failure = None
        try:
            yield
        except UserError as error:
            failure = error
        if failures := [other for other in self.gather(failure) if other is not None]:
            raise failures[0]

    def largest(self, value: Tensor) -> Tensor:
        """The elementwise largest over the ranks, on the CPU."""
        value = fetched(value)
        if self.size > 1:
            dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return value

    def mean(self, value: Tensor) -> Tensor:
        """The elementwise mean over the ranks, on the CPU."""
        value = fetched(value)
        if self.size > 1:
            dist.all_reduce(value)
            value /= self.size
        return value

    def share(self, write: Callable[[], str], read: Callable[[str], T]) -> T:
        """One rank of each node writes a file, all ranks of the node open it, and then the file's name is removed, so that a killed run
        leaves nothing behind. A UserError of `write` is raised on every rank."""
        host, path = socket.gethostname(), ""
        try:
            with self.together():
                if self.local_rank == 0:
                    path = write()
            opened = read(next(there for node, there in self.gather((host, path)) if there and node == host))
            self.barrier()
        finally:
            if path:
                Path(path).unlink(missing_ok=True)
        return opened


@contextmanager
def world(device: Literal["auto", "cpu", "cuda"], limits: LimitSettings) -> Iterator[World]:
    """Join the other ranks, as RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT say; without these there is one rank.

    Raises SettingError if these contradict each other, or a GPU is requested and there is none for this rank; UserError if a rank does not join
    in time.
    """
    rank, size, local = place()
    chosen = choose_device(device, local)
    if size > 1:
        # On GPUs only the gradients go through NCCL: other numbers are on the CPU, and would wait for all work queued on the GPU.
        backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
        # The watchdog ends what is stuck, and can say why; torch's own time-out must come later.
        timeout = timedelta(seconds=2 * max(vars(limits).values()))
        dist.init_process_group(backend, store=meet(rank, size, limits.start), rank=rank, world_size=size, timeout=timeout)
    with running(Watchdog(rank, size, limits), connect(False, limits.silence) if size > 1 else None) as watchdog:
        try:
            yield World(rank, size, local, chosen, watchdog)
        finally:
            gc.collect()  # DDP's reference cycles hold the group: freed only when the interpreter exits, they sometimes abort it
            if dist.is_initialized():
                dist.destroy_process_group()


def place() -> tuple[int, int, int]:
    """RANK, WORLD_SIZE and LOCAL_RANK. Raises SettingError if only some of torchrun's variables are there, or one is no number."""
    start = "start the ranks with torchrun --nproc-per-node=N -m distsynth.train …"
    numbers = {}
    for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"), ("MASTER_PORT", "0")):
        value = os.environ.get(name, default)
        if not value.isdecimal():
            raise SettingError(f"the environment variable {name}={value} must be a whole number: {start}, or unset it")
        numbers[name] = int(value)
    rank, size = numbers["RANK"], numbers["WORLD_SIZE"]
    lacking = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if size > 1 and lacking:
        raise SettingError(f"WORLD_SIZE={size} is set without {', '.join(lacking)}: {start}, or unset WORLD_SIZE for one process")
    if rank >= size:
        raise SettingError(f"RANK={rank} must be below WORLD_SIZE={size}: {start}, or unset both for one process")
    return rank, size, numbers["LOCAL_RANK"]


def fetched(value: Tensor) -> Tensor:
    """The value copied to the CPU. This waits for the GPU, which may itself wait for another rank: the watchdog recognises this function's
    name and does not count the wait as a hang."""
    return value.cpu()


separate = False  # see `this_rank_only`


@contextmanager
def this_rank_only() -> Iterator[None]:
    """In the block, `gathered` treats this rank's part as the whole batch, and no rank waits for another."""
    global separate
    separate = True
    try:
        yield
    finally:
        separate = False


def gathered(share: Tensor) -> tuple[Tensor, slice]:
    """The global batch (B, ...) of which `share` is this rank's part, without gradients, and the slice of it that is this part. All ranks hold
    parts of the same size, in rank order; a single process holds the whole batch."""
    if separate or not dist.is_initialized():
        return share.detach(), slice(0, len(share))
    parts = [torch.empty_like(share) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, share.detach().contiguous())
    first = dist.get_rank() * len(share)
    return torch.cat(parts), slice(first, first + len(share))


def meet(rank: int, size: int, seconds: float) -> Store:
    """The store, once all ranks have joined. Raises UserError naming those that do not join in time."""
    try:
        store = connect(rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True", seconds)
    except dist.DistError as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        if "address already in use" in str(error).lower():
            raise UserError(
                f"port {os.environ['MASTER_PORT']} is taken on {socket.gethostname()}, perhaps by another run: set another MASTER_PORT, "
                "or start the ranks with torchrun --standalone"
            ) from error
        raise UserError(f"rank {rank} could not reach rank 0 at {where} within {seconds:g} s (train.limits.start)") from error
    joined = [f"joined/{other}" for other in range(size)]
    store.set(joined[rank], "")
    try:
        store.wait(joined)
    except dist.DistError as error:
        missing = ", ".join(str(other) for other in range(size) if not store.check([joined[other]]))
        raise UserError(f"rank {missing} of {size} did not join within {seconds:g} s (train.limits.start)") from error
    return store


def connect(host: bool, seconds: float) -> Store:
    """A connection to the store at MASTER_ADDR:MASTER_PORT, which rank 0 or torchrun hosts."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, None, host, timedelta(seconds=seconds), wait_for_workers=False)  # type: ignore[attr-defined]
    return dist.PrefixStore(f"attempt/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)  # type: ignore[attr-defined]


def choose_device(device: Literal["auto", "cpu", "cuda"], local_rank: int) -> torch.device:
    """This rank's device. Raises SettingError if it is not available."""
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    # Slurm may show each task only its own GPU, or all GPUs of the node.
    index = 0 if count == 1 and int(os.environ.get("LOCAL_WORLD_SIZE", 1)) > 1 and "SLURM_STEP_GPUS" in os.environ else local_rank
    if index >= count:
        raise SettingError(
            f"train.device={device}: local rank {local_rank} sees {count} GPUs: start at most one rank per GPU, or set train.device=cpu"
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def lost_peer(error: BaseException) -> bool:
    """Whether an error says that a connection to another rank broke."""
    words = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and any(word in str(error) for word in words))

"""The ranks of a run, from torchrun's environment variables or a single process; NCCL on GPUs, gloo on CPUs."""

from __future__ import annotations

import gc
import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Literal, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from distsynth.ranks.device import choose_device, identity, refuse_idle_gpus, refuse_shared
from distsynth.ranks.rendezvous import choose_interface, connect, meet, place
from distsynth.ranks.watchdog import Watchdog, running
from distsynth.settings import LimitSettings
from preprocess.shared.errors import SettingError, UserError

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
def world(device: Literal["auto", "cpu", "cuda"], limits: LimitSettings, run: Path | None = None) -> Iterator[World]:
    """Join the other ranks of a run, as RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT say; without these there is one rank. The
    folder of `run`, which need not exist, must have a parent that all ranks see: see `meet`.

    Raises SettingError if these contradict each other, or a GPU is requested and there is none for this rank; UserError if a rank does not join
    in time.
    """
    rank, size, local = place()
    if device == "auto":
        refuse_idle_gpus()
    chosen = choose_device(device, local)
    failed = True
    with running(Watchdog(rank, size, limits)) as watchdog:
        try:
            if size > 1:
                join(chosen, watchdog, run)
            yield World(rank, size, local, chosen, watchdog)
            failed = False
        finally:
            leave(chosen, failed)


def join(device: torch.device, watchdog: Watchdog, run: Path | None) -> None:
    """Meet the other ranks, and form a group with them."""
    limits, rank, size = watchdog.limits, watchdog.rank, watchdog.size
    store, seal = meet(rank, size, limits.start, run)
    watchdog.join(connect(limits.silence), seal)
    choose_interface()
    # torch's own watchdog would end the process, on another rank's error too, before this rank knows why.
    os.environ.setdefault("TORCH_NCCL_RETHROW_CUDA_ERRORS", "0")
    # On GPUs only the gradients go through NCCL: other numbers are on the CPU, and would wait for all work queued on the GPU.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    # Our watchdog ends what is stuck, and can say why; torch's own time-out must come later.
    timeout = timedelta(seconds=2 * max(vars(limits).values()))
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    identities = [identity(device)] * size
    dist.all_gather_object(identities, identities[rank])
    try:
        refuse_shared(identities)
    except SettingError:
        if rank:  # rank 0 prints it
            raise SystemExit(2) from None
        raise


def leave(device: torch.device, failed: bool) -> None:
    """Leave the group. After a failure NCCL is aborted: to leave it would wait for kernels that wait for a rank that may be dead."""
    gc.collect()  # DDP's reference cycles hold the group: freed only when the interpreter exits, they sometimes abort it
    if dist.is_initialized() and failed and device.type == "cuda":
        with suppress(Exception):
            dist.group.WORLD._get_backend(device).abort()  # type: ignore[union-attr]
    elif dist.is_initialized():
        dist.destroy_process_group()


def fetched(value: Tensor) -> Tensor:
    """The value copied to the CPU. This waits for the GPU, which may itself wait for another rank: see `distsynth.ranks.position`."""
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


# Of NCCL's result codes (nccl.h), those for which this rank is to blame; with the first two a restart would end in the same way.
USAGE, OWN = ("ncclInvalidUsage", "ncclInvalidArgument"), "ncclUnhandledCudaError"
NO_KERNEL = ("no kernel image is available", "driver version is insufficient")


def lost_peer(error: BaseException) -> bool:
    """Whether an error says that a connection to another rank broke."""
    text = str(error)
    if any(code in text for code in (*USAGE, OWN)):
        return False
    words = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and any(word in text for word in words))


def unfit(error: BaseException) -> bool:
    """Whether NCCL or CUDA refuses how the ranks, the GPUs and this build of torch are put together: a restart would end in the same way."""
    return isinstance(error, RuntimeError) and any(words in str(error) for words in (*USAGE, *NO_KERNEL))


def cause(error: BaseException) -> str:
    """An error in one line: its first or, of NCCL's, the code and what follows `Last error:`."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    code = next((line.partition(":")[0] for line in lines if re.match(r"nccl\w+:", line)), "")
    last = lines.index("Last error:") + 1 if "Last error:" in lines else len(lines)
    return f"NCCL: {lines[last]} ({code or 'no code'})" if last < len(lines) else f"NCCL: {code}" if code else lines[0]

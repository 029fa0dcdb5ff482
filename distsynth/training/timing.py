"""How long the parts of an update take, and the load of the machine; in the journal with the losses, every `train.log_every` updates.

    time/step_s = time/data_s + time/compute_s + time/communication_s + time/checkpoint_s      seconds per update, mean over the ranks
    time/slices_per_s                                                                          of all ranks together
    system/memory_gb system/cpu_percent system/gpu_memory_gb system/gpu_percent                of rank 0; MLflow shows them on a page of its own

data: waiting for the next batch. communication: the exposed part only, which is the time from when DDP has all gradients and sends the last
of them to the end of the backward pass, and the ranks' agreement after an update; both include waiting for a slower rank. What overlaps with
the backward pass costs nothing. checkpoint: the pause for it. compute: the rest. On a GPU the marks are events of its stream, which are read
when the losses are, so that no update waits for them; data and checkpoint are then host time, during which the GPU may be working.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from distsynth import metric_names
from distsynth.data.batch import Batch
from distsynth.ranks.world import World

PARTS = ("data", "communication", "checkpoint")
Mark = Any  # a time in seconds, or a CUDA event


class Timing:
    """The clock of one rank. It does nothing if disabled."""

    def __init__(self, world: World, enabled: bool) -> None:
        self.world, self.enabled = world, enabled
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.last_sent: Mark = None
        self.waits: list[tuple[Mark, Mark]] = []
        self.updates = self.slices = 0
        self.begin()

    def begin(self) -> None:
        """Start timing a series of updates; a checkpoint since the last one is included."""
        self.began = time.perf_counter() - sum(self.seconds.values())
        self.cpu = time.process_time()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """The time spent inside counts as one of PARTS."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start

    def waiting_for(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches, on this rank's device; the time until each arrives counts as data."""
        iterator = iter(batches)
        while True:
            with self.part("data"):
                batch = next(iterator, None)
                if batch is None:
                    return
                batch = batch.to(self.world.device)
            self.updates += 1
            self.slices += len(batch) * self.world.size
            yield batch

    def watch(self, module: DistributedDataParallel) -> None:
        """Mark the time when each bucket of gradients is sent, and send it as DDP itself would."""

        def send(group, bucket):  # type: ignore[no-untyped-def]  # DDP compares annotations, and here they are strings
            self.last_sent = self.mark()
            return allreduce_hook(group, bucket)

        if self.enabled:
            module.register_comm_hook(dist.group.WORLD, send)

    def backward_ended(self) -> None:
        if self.last_sent is not None:
            self.waits.append((self.last_sent, self.mark()))
            self.last_sent = None

    def exposed(self) -> list[float]:
        """Seconds of each wait since the last `values`. The device must have caught up."""
        return [between(*marks) for marks in self.waits]

    def mark(self) -> Mark:
        if self.world.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def values(self) -> dict[str, float]:
        """The journal's values for the updates since the last call. All ranks must call it, after the device has caught up."""
        if not self.enabled or not self.updates:
            return {}
        wall, cpu = time.perf_counter() - self.began, time.process_time() - self.cpu
        self.seconds["communication"] += sum(self.exposed())
        parts = [self.seconds[name] for name in PARTS]
        mine = torch.tensor([wall, wall - sum(parts), *parts]) / self.updates
        means = dict(zip(("step", "compute", *PARTS), self.world.mean(mine).tolist(), strict=True))
        times = {metric_names.seconds(name): value for name, value in means.items()} | {
            metric_names.SLICES_PER_SECOND: self.slices / wall
        }
        self.seconds, self.waits, self.updates, self.slices = dict.fromkeys(PARTS, 0.0), [], 0, 0
        self.begin()
        return times | {metric_names.machine("cpu_percent"): 100 * cpu / wall} | system(self.world.device)


def between(start: Mark, end: Mark) -> float:
    """Seconds from one mark to another."""
    return float(start.elapsed_time(end)) / 1000 if isinstance(start, torch.cuda.Event) else float(end - start)


def system(device: torch.device) -> dict[str, float]:
    """Memory of this process and of its GPU since the last call, in GB, and the GPU's use if NVML can report it."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    load = {metric_names.machine("memory_gb"): pages * os.sysconf("SC_PAGE_SIZE") / 1e9}
    if device.type == "cuda":
        load[metric_names.machine("gpu_memory_gb")] = torch.cuda.max_memory_reserved(device) / 1e9
        torch.cuda.reset_peak_memory_stats(device)
        with suppress(Exception):  # NVML's Python package is missing, or NVML does not support this device (a MIG slice)
            load[metric_names.machine("gpu_percent")] = float(torch.cuda.utilization(device))
    return load


def seconds_since_start() -> float:
    """Seconds since the operating system started this process, imports included (Linux)."""
    ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")

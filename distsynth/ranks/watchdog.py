"""The watchdog of a run: all ranks learn, within a bounded time, that one of them has died or hangs.

On each rank one thread exchanges heartbeats with the other ranks through the store that the ranks joined by. A second thread, which does
nothing that could block, diagnoses. The result is a verdict of one sentence; the first verdict of any rank counts, and every rank ends with it:

    a process that died or is stopped     no new heartbeat for `train.limits.silence` seconds; on the same machine its process is checked too
    a rank that hangs                     heartbeats, but no progress within the limit of its phase, and it does not wait for another rank
    ranks that wait for each other        all send heartbeats, all wait, and none makes progress within the limit

A blamed rank on the same machine is killed: that breaks the collective operation in which the others wait, and they end normally. Where
that does not help, the second thread ends its own process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import torch.distributed as dist

from distsynth.ranks.heartbeat import Heartbeat, Peer, Phase, Seal, Verdict, alive, describe, machine, same_run, start_time
from distsynth.ranks.position import position
from distsynth.settings import LimitSettings

if TYPE_CHECKING:  # torch.distributed exports it too, but mypy does not know
    from torch._C._distributed_c10d import Store

INTERVAL = 1.0  # seconds between two heartbeats
GRACE = 8.0  # seconds a rank has to end by itself once there is a verdict
SILENCE_AFTER_BREAK = 4.0  # replaces train.limits.silence once a connection has broken


@dataclass
class Watchdog:
    """The watchdog of one rank. Before `start` it only counts, and ends nothing."""

    rank: int = 0
    size: int = 1
    limits: LimitSettings = field(default_factory=LimitSettings)
    tell: Callable[[Verdict], None] = lambda verdict: None  # reports the verdict; called on the lowest rank that is not blamed

    def __post_init__(self) -> None:
        self.phase: Phase = "start"
        self.step = self.progress = 0
        self.progressed = self.slowest = 0.0
        self.verdict: Verdict | None = None
        self.connection_broken = self.exiting = self.reported = False
        self.writing: tuple[int, float] | None = None  # step and start time of the checkpoint being written
        self.peers: dict[int, Peer] = {}
        self.store: Store | None = None
        self.seal = Seal()
        self.exchanged = self.checked = time.monotonic()
        self.main_thread = threading.get_ident()
        self.threads: list[threading.Thread] = []
        self.closed, self.wake, self.published = threading.Event(), threading.Event(), threading.Event()

    # -- what the main thread reports ----------------------------------------------------------------------------------

    def enter(self, phase: Phase, step: int) -> None:
        """Begin a phase, or the next update."""
        if phase != self.phase:
            self.progressed = 0.0
        self.phase, self.step = phase, step
        self.move()

    def move(self) -> None:
        """Record progress."""
        now = time.monotonic()
        if self.phase == "step" and self.progressed:
            self.slowest = max(self.slowest, now - self.progressed)
        self.progressed, self.progress = now, self.progress + 1

    @contextlib.contextmanager
    def during(self, phase: Phase) -> Iterator[None]:
        """A phase within another."""
        before = self.phase
        self.enter(phase, self.step)
        try:
            yield
        finally:
            self.enter(before, self.step)

    # -- threads -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Diagnose from now on."""
        self.move()
        self.progressed += 2 * INTERVAL  # joining the other ranks has the same limit and a better sentence
        self.run(self.watch, "watchdog")

    def join(self, store: Store, seal: Seal) -> None:
        """Exchange heartbeats from now on, through a connection of the watchdog's own. All ranks must have joined."""
        self.store, self.seal, self.exchanged = store, seal, time.monotonic()
        self.move()
        store.set(f"heartbeat/{self.rank}", self.sealed(0))
        store.wait([f"heartbeat/{rank}" for rank in range(self.size)])
        self.run(self.exchange, "heartbeat")

    def run(self, target: Callable[[], None], name: str) -> None:
        self.threads.append(threading.Thread(target=target, daemon=True, name=name))
        self.threads[-1].start()

    def close(self) -> None:
        """End the threads: if Python shut down while one uses the store, the process would abort."""
        self.closed.set()
        self.wake.set()
        for thread in self.threads:
            thread.join(5 * INTERVAL)

    def exchange(self) -> None:
        """Write this rank's heartbeat; read the verdict and the other ranks' heartbeats (rank 0 reads all, the others rank 0's). What is not
        signed is dropped."""
        assert self.store is not None
        number = 0
        with contextlib.suppress(dist.DistError):  # then `exchanged` stays as it is, and `diagnose` notices
            while not self.closed.is_set():
                number += 1
                self.store.set(f"heartbeat/{self.rank}", self.sealed(number))
                self.exchange_verdict(self.store)
                watched = range(1, self.size) if self.rank == 0 else {0, *(self.verdict.blamed if self.verdict else ())}
                names = [f"heartbeat/{rank}" for rank in watched]
                for name, written in zip(names, self.store.multi_get(names), strict=True):
                    if fields := self.seal.open(name, written):
                        self.record(Heartbeat(**fields))
                self.exchanged = time.monotonic()
                self.wake.wait(INTERVAL)
                self.wake.clear()

    def exchange_verdict(self, store: Store) -> None:
        """Read the run's verdict, or write this rank's in the place of none or of an unsigned one."""
        written = store.get("verdict") if store.check(["verdict"]) else b""
        fields = self.seal.open("verdict", written)
        if fields is None and self.verdict:
            mine = self.seal.close("verdict", asdict(self.verdict))
            fields = self.seal.open("verdict", store.compare_set("verdict", written, mine))  # type: ignore[arg-type]  # takes bytes too
        if fields is not None:
            self.verdict = Verdict(**fields | {"blamed": tuple(fields["blamed"])})
            self.published.set()

    def record(self, heartbeat: Heartbeat) -> None:
        """Remember another rank's heartbeat, and when it and its progress changed; an older one that somebody has written again is dropped."""
        now, old = time.monotonic(), self.peers.get(heartbeat.rank)
        if old and old.heartbeat.number > heartbeat.number:
            return
        heard = old.heard if old and old.heartbeat.number == heartbeat.number else now
        progressed = old.progressed if old and old.heartbeat.progress == heartbeat.progress else now
        self.peers[heartbeat.rank] = Peer(heartbeat, heard, progressed)

    def watch(self) -> None:
        """Diagnose once a second; after a verdict, end the process if the main thread does not do so in time."""
        since = 0.0
        while not self.closed.wait(INTERVAL):
            self.discount_suspension()
            self.verdict = self.verdict or self.diagnose(time.monotonic())
            if self.verdict is None:
                continue
            since = since or time.monotonic()
            self.kill(self.verdict.blamed)
            grace = 0 if self.rank in self.verdict.blamed else 3 * GRACE if self.exiting else GRACE
            if time.monotonic() - since > grace:
                self.publish()
                self.closed.wait(2 * INTERVAL if self.store is not None else 0)  # others read it: the store ends with rank 0
                self.end(self.verdict)

    def discount_suspension(self) -> None:
        """After this process was itself suspended (Slurm suspends jobs), do not count that time as silence of the other ranks."""
        now = time.monotonic()
        suspended = now - self.checked - INTERVAL
        if suspended > 3 * INTERVAL:
            self.exchanged += suspended
            self.progressed += suspended
            for peer in self.peers.values():
                peer.heard += suspended
                peer.progressed += suspended
        self.checked = now

    # -- diagnosis -----------------------------------------------------------------------------------------------------

    def diagnose(self, now: float) -> Verdict | None:
        """What is wrong with this rank or one that it watches; None if nothing is."""
        peers = [self.gone(peer, now) for _, peer in sorted(self.peers.items())]
        return next((v for v in [*peers, self.unreachable(now), self.hangs(now), self.deadlock(now)] if v), None)

    def gone(self, peer: Peer, now: float) -> Verdict | None:
        heartbeat = peer.heartbeat
        ahead = self.step > heartbeat.step  # all ranks make an update together, and the heartbeat may be older than the last one
        at = describe(self.phase if ahead else heartbeat.phase, max(self.step, heartbeat.step))
        if heartbeat.machine == machine() and not alive(heartbeat.pid, heartbeat.started):
            return Verdict(f"rank {heartbeat.rank} has died {at}: its process {heartbeat.pid} is gone", (heartbeat.rank,))
        if now - peer.heard > self.silence:
            which = f"rank {heartbeat.rank} (process {heartbeat.pid} on {heartbeat.machine.split()[0]})"
            why = f"no heartbeat for {self.silence:g} s (train.limits.silence)"
            return Verdict(f"{which} is stopped or lost {at}: {why}", (heartbeat.rank,))
        return None

    def unreachable(self, now: float) -> Verdict | None:
        if self.store is None or now - self.exchanged <= self.silence:
            return None
        at = describe(self.phase, self.step)
        return Verdict(f"rank 0 has died or is stopped {at}: the store that it hosts does not answer", (0,))

    def hangs(self, now: float) -> Verdict | None:
        if self.writing and now - self.writing[1] > self.limits.checkpoint:
            what = f"the checkpoint of step {self.writing[0]} was not written within {self.limits.checkpoint:g} s"
            return Verdict(f"rank {self.rank} hangs: {what} (train.limits.checkpoint): check the disk", (self.rank,))
        line, waits = self.position()
        if now - self.progressed <= self.limit or waits:
            return None
        at, name = describe(self.phase, self.step), f"train.limits.{self.phase}"
        return Verdict(f"rank {self.rank} hangs {at}, {line}: no progress for {self.limit:.0f} s ({name})", (self.rank,))

    def deadlock(self, now: float) -> Verdict | None:
        """Only rank 0 diagnoses this, after every rank has had time to blame itself."""
        others = [peer.progressed for peer in self.peers.values()]
        if self.rank or not others or now - max(self.progressed, *others) <= self.limit + 5 * INTERVAL:
            return None
        at = describe(self.phase, self.step)
        return Verdict(f"all {self.size} ranks wait for each other {at}: a collective operation is stuck, check the network")

    @property
    def silence(self) -> float:
        """Seconds without a heartbeat that are allowed."""
        return SILENCE_AFTER_BREAK if self.connection_broken else self.limits.silence

    @property
    def limit(self) -> float:
        """Seconds without progress that the phase allows; for updates at least four times the slowest so far."""
        limit: float = getattr(self.limits, self.phase)
        return max(limit, 4 * self.slowest) if self.phase == "step" else limit

    def position(self) -> tuple[str, bool]:
        """The line that the main thread is at, and whether it waits there for other ranks."""
        line, waits = position(self.main_thread)
        return line, waits and self.size > 1

    def sealed(self, number: int) -> str:
        """This rank's heartbeat, signed."""
        pid = os.getpid()
        beat = Heartbeat(self.rank, machine(), pid, start_time(pid) or 0, number, self.phase, self.step, self.progress)
        return self.seal.close(f"heartbeat/{self.rank}", asdict(beat))

    # -- ending --------------------------------------------------------------------------------------------------------

    def fail(self, sentence: str, retry: bool = True) -> Verdict:
        """This rank cannot continue. Returns the run's verdict: this sentence, unless another rank was first."""
        self.exiting = True
        self.verdict = self.verdict or Verdict(sentence, retry=retry)
        self.publish()
        return self.verdict

    def publish(self) -> None:
        """Wait a moment for the verdict to reach the store, or for another rank's that is already there."""
        if self.store is not None:
            self.wake.set()
            self.published.wait(3 * INTERVAL)

    def blame(self, cause: str) -> Verdict:
        """A collective operation broke: wait until the rank that broke it is known."""
        self.exiting = self.connection_broken = True
        deadline = time.monotonic() + 3 * GRACE
        while self.verdict is None and time.monotonic() < deadline:
            time.sleep(0.1)
        return self.fail(f"rank {self.rank} lost its connection to another rank at step {self.step}: {cause}")

    def speaks(self, verdict: Verdict) -> bool:
        """Whether this rank is the one that reports the verdict."""
        others = [rank for rank in range(self.size) if rank not in verdict.blamed]
        return self.store is None or self.rank == min(others, default=0)  # without a store no other rank knows

    def kill(self, blamed: tuple[int, ...]) -> None:
        """Kill the blamed ranks on this machine, stopped or hanging: none outlives the run, and the others' collective operation breaks."""
        for peer in [self.peers[rank] for rank in blamed if rank in self.peers and same_run(self.peers[rank].heartbeat)]:
            with contextlib.suppress(OSError):
                os.kill(peer.heartbeat.pid, signal.SIGKILL)

    def end(self, verdict: Verdict) -> None:
        """The main thread is stuck: report the verdict, if that is this rank's task, and end the process without it."""
        with contextlib.suppress(Exception):
            if self.speaks(verdict):
                if not self.reported:
                    self.tell(verdict)
                print(f"error: {verdict.sentence}", file=sys.stderr, flush=True)
        os._exit(2)


@contextlib.contextmanager
def running(watchdog: Watchdog) -> Iterator[Watchdog]:
    """The watchdog, running until the block ends."""
    watchdog.start()
    try:
        yield watchdog
    finally:
        watchdog.close()

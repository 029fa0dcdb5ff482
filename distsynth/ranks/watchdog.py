"""The watchdog of a run: every rank tells how far it is, and all find out, in bounded time, when one of them has died or hangs.

A thread of each rank writes a beat into the store where the ranks met and reads the others'; a second one, which touches nothing that could
block, judges. What it finds is one sentence, the first that any rank comes to, and every rank ends with it:

    a process that is gone, or stopped        no new beat for `train.limits.silence` seconds; on the same machine its process is looked at
    a rank that hangs                         beats, but no progress within the limit of its phase, and does not wait for another
    ranks that wait for each other for ever   all beat, all wait, and none has moved within the limit

A rank that can be killed from here is: then the collective that the others sit in breaks, and they end in good order. Where that
does not help, this thread ends its process.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import torch.distributed as dist

from distsynth.ranks.heartbeat import Heartbeat, Phase, Seen, Verdict, alive, birth, machine, place
from distsynth.settings import LimitSettings

if TYPE_CHECKING:  # torch.distributed has it too, unknown to mypy
    from torch._C._distributed_c10d import Store

BEAT = 1.0  # seconds between two beats
GRACE = 8.0  # seconds that a rank gets to end by itself, once the run is lost
BROKEN_SILENCE = 4.0  # seconds without a beat that name the dead rank, where a connection has broken already


@dataclass
class Watchdog:
    """One rank's. Without `start` it only counts, and never ends anything."""

    rank: int = 0
    size: int = 1
    limits: LimitSettings = field(default_factory=LimitSettings)
    tell: Callable[[Verdict], None] = lambda verdict: None  # the run's last words, said by the lowest rank not to blame

    def __post_init__(self) -> None:
        self.phase: Phase = "start"
        self.step = self.moves = 0
        self.moved = self.slowest = 0.0
        self.verdict: Verdict | None = None
        self.broken = self.leaving = False
        self.writing: tuple[int, float] | None = None  # step and beginning of the checkpoint that is being written
        self.seen: dict[int, Seen] = {}
        self.store: Store | None = None
        self.exchanged = self.looked = time.monotonic()
        self.main = threading.get_ident()
        self.threads: list[threading.Thread] = []
        self.ended, self.news, self.told = threading.Event(), threading.Event(), threading.Event()

    # -- what the main thread says -------------------------------------------------------------------------------------

    def enter(self, phase: Phase, step: int) -> None:
        """Begin a phase, or a further update."""
        if phase != self.phase:
            self.moved = 0.0
        self.phase, self.step = phase, step
        self.move()

    def move(self) -> None:
        """There is progress."""
        now = time.monotonic()
        if self.phase == "step" and self.moved:
            self.slowest = max(self.slowest, now - self.moved)
        self.moved, self.moves = now, self.moves + 1

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

    def start(self, store: Store | None) -> None:
        """Begin to beat. `store` is a connection of its own, None where the rank is alone."""
        self.store = store
        self.move()
        if store is not None:
            store.set(f"beat/{self.rank}", json.dumps(asdict(self.beat(0))))
            store.wait([f"beat/{rank}" for rank in range(self.size)])
            self.threads.append(threading.Thread(target=self.exchange, daemon=True, name="beat"))
        self.threads.append(threading.Thread(target=self.watch, daemon=True, name="watch"))
        for thread in self.threads:
            thread.start()

    def close(self) -> None:
        """End the threads: Python must not shut down while one is inside the store, which would abort the process."""
        self.ended.set()
        self.news.set()
        for thread in self.threads:
            thread.join(5 * BEAT)

    def exchange(self) -> None:
        """Give the own beat, take the others' (rank 0 all, the others rank 0's) and the verdict."""
        assert self.store is not None
        number = 0
        with contextlib.suppress(dist.DistError):  # `exchanged` grows old, and `watch` notices
            while not self.ended.is_set():
                number += 1
                self.store.set(f"beat/{self.rank}", json.dumps(asdict(self.beat(number))))
                if self.verdict and not self.told.is_set():
                    self.store.compare_set("verdict", "", json.dumps(asdict(self.verdict)))
                if self.store.check(["verdict"]):
                    found = json.loads(self.store.get("verdict"))
                    self.verdict = Verdict(**found | {"blamed": tuple(found["blamed"])})
                    self.told.set()
                watched = range(1, self.size) if self.rank == 0 else {0, *(self.verdict.blamed if self.verdict else ())}
                for text in self.store.multi_get([f"beat/{rank}" for rank in watched]):
                    self.note(Heartbeat(**json.loads(text)))
                self.exchanged = time.monotonic()
                self.news.wait(BEAT)
                self.news.clear()

    def note(self, beat: Heartbeat) -> None:
        """Take up another rank's beat."""
        now, old = time.monotonic(), self.seen.get(beat.rank)
        fresh = old is None or old.beat.number != beat.number
        moved = old is None or old.beat.moves != beat.moves
        self.seen[beat.rank] = Seen(beat, now if old is None or fresh else old.beaten, now if old is None or moved else old.moved)

    def watch(self) -> None:
        """Judge once a second; end the process where the main thread does not in time after a verdict."""
        doomed = 0.0
        while not self.ended.wait(BEAT):
            self.forgive_sleep()
            self.verdict = self.verdict or self.judge(time.monotonic())
            if self.verdict is None:
                continue
            doomed = doomed or time.monotonic()
            self.kill(self.verdict.blamed)
            grace = 0 if self.rank in self.verdict.blamed else 3 * GRACE if self.leaving else GRACE
            if time.monotonic() - doomed > grace:
                self.spread()
                self.ended.wait(2 * BEAT if self.store is not None else 0)  # the others read it: rank 0 takes the store with it
                self.end(self.verdict)

    def forgive_sleep(self) -> None:
        """A process that was itself suspended (Slurm suspends jobs) must not take its sleep for the others' silence."""
        now = time.monotonic()
        slept = now - self.looked - BEAT
        if slept > 3 * BEAT:
            self.exchanged += slept
            self.moved += slept
            for seen in self.seen.values():
                seen.beaten += slept
                seen.moved += slept
        self.looked = now

    # -- judging -------------------------------------------------------------------------------------------------------

    def judge(self, now: float) -> Verdict | None:
        """What is wrong with this rank or one that it sees, if anything is."""
        found = [self.gone(seen, now) for _, seen in sorted(self.seen.items())]
        return next((v for v in [*found, self.unreachable(now), self.hangs(now), self.deadlock(now)] if v), None)

    def gone(self, seen: Seen, now: float) -> Verdict | None:
        beat = seen.beat
        later = self.step > beat.step  # updates are made in step, and the beat comes after
        at = place(self.phase if later else beat.phase, max(self.step, beat.step))
        if beat.machine == machine() and not alive(beat.pid, beat.born):
            return Verdict(f"rank {beat.rank} has died {at}: its process {beat.pid} is gone", (beat.rank,))
        limit = BROKEN_SILENCE if self.broken else self.limits.silence
        if now - seen.beaten > limit:
            what = f"rank {beat.rank} (process {beat.pid} on {beat.machine.split()[0]}) is stopped or lost {at}"
            return Verdict(f"{what}: no sign of life for {limit:g} s (train.limits.silence)", (beat.rank,))
        return None

    def unreachable(self, now: float) -> Verdict | None:
        if self.store is None or now - self.exchanged <= (BROKEN_SILENCE if self.broken else self.limits.silence):
            return None
        at = place(self.phase, self.step)
        return Verdict(f"rank 0 has died or is stopped {at}: the store that it keeps does not answer", (0,))

    def hangs(self, now: float) -> Verdict | None:
        if self.writing and now - self.writing[1] > self.limits.checkpoint:
            what = f"the checkpoint of step {self.writing[0]} is not written after {self.limits.checkpoint:g} s"
            return Verdict(f"rank {self.rank} hangs: {what} (train.limits.checkpoint): look at the disk", (self.rank,))
        where, waits = self.stands()
        if now - self.moved <= self.limit or waits:
            return None
        at, name = place(self.phase, self.step), f"train.limits.{self.phase}"
        return Verdict(f"rank {self.rank} hangs {at}, {where}: no progress for {self.limit:.0f} s ({name})", (self.rank,))

    def deadlock(self, now: float) -> Verdict | None:
        """Rank 0 finds this, after every rank has had the time to blame itself."""
        others = [seen.moved for seen in self.seen.values()]
        if self.rank or not others or now - max(self.moved, *others) <= self.limit + 5 * BEAT:
            return None
        at = place(self.phase, self.step)
        return Verdict(f"all {self.size} ranks wait for each other {at}: a collective is stuck, look at the network")

    @property
    def limit(self) -> float:
        """Seconds without progress that the phase allows; slow updates stretch their own."""
        given: float = getattr(self.limits, self.phase)
        return max(given, 4 * self.slowest) if self.phase == "step" else given

    def stands(self) -> tuple[str, bool]:
        """Where the main thread is, and whether it waits for other ranks there: in a collective, in DDP's backward, or for a GPU in `fetched`."""
        frame: FrameType | None = sys._current_frames().get(self.main)
        inner, waits = "", False
        while frame is not None:
            name = frame.f_code.co_filename
            if f"torch{os.sep}" not in name and not inner:
                inner = f"in {Path(name).name}:{frame.f_lineno}"
            waits = waits or f"torch{os.sep}distributed" in name or frame.f_code.co_name in ("_engine_run_backward", "fetched")
            frame = frame.f_back
        return inner, waits and self.size > 1

    def beat(self, number: int) -> Heartbeat:
        return Heartbeat(self.rank, machine(), os.getpid(), birth(os.getpid()) or 0, number, self.phase, self.step, self.moves)

    # -- ending --------------------------------------------------------------------------------------------------------

    def fail(self, sentence: str, retry: bool = True) -> Verdict:
        """This rank cannot go on: its sentence, unless another rank was first."""
        self.leaving = True
        self.verdict = self.verdict or Verdict(sentence, retry=retry)
        self.spread()
        return self.verdict

    def spread(self) -> None:
        """Give the verdict the time to reach the store, where another's may stand already."""
        if self.store is not None:
            self.news.set()
            self.told.wait(3 * BEAT)

    def blame(self, error: BaseException) -> Verdict:
        """A collective has broken: wait until the rank that broke it is known."""
        self.leaving = self.broken = True
        deadline = time.monotonic() + 3 * GRACE
        while self.verdict is None and time.monotonic() < deadline:
            time.sleep(0.1)
        return self.fail(f"rank {self.rank} lost another rank at step {self.step}: {str(error).splitlines()[0]}")

    def speaks(self, verdict: Verdict) -> bool:
        """Whether this rank is the one to say and write the last words."""
        return self.rank == min((r for r in range(self.size) if r not in verdict.blamed), default=0)

    def kill(self, blamed: tuple[int, ...]) -> None:
        """The blamed ranks on this machine, stopped or hanging, so that nothing outlives the run and the others' collective breaks."""
        for rank in blamed:
            seen = self.seen.get(rank)
            if seen and rank != self.rank and seen.beat.machine == machine() and alive(seen.beat.pid, seen.beat.born):
                with contextlib.suppress(OSError):
                    os.kill(seen.beat.pid, signal.SIGKILL)

    def end(self, verdict: Verdict) -> None:
        """The main thread is stuck: say the last words where it is this rank's turn, and leave without its help."""
        with contextlib.suppress(Exception):
            if self.speaks(verdict):
                self.tell(verdict)
                print(f"error: {verdict.sentence}", file=sys.stderr, flush=True)
        os._exit(2)


@contextlib.contextmanager
def watched(watchdog: Watchdog, store: Store | None) -> Iterator[Watchdog]:
    """The watchdog for the time of a run."""
    watchdog.start(store)
    try:
        yield watchdog
    finally:
        watchdog.close()

"""Stopping on request: a flag that is checked between updates, and between the patients of a validation or an evaluation.

Slurm signals every process of the step. A handler that did work itself would interrupt a collective operation on some ranks and not on
others. So the handler only sets a flag; after each update the ranks agree on it and write a checkpoint, and only then is the previous
handler (submitit's, which requeues the job) called.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from types import FrameType
from typing import Any, TypeVar

from distsynth.ranks.world import World
from preprocess.shared.signals import interrupt

SIGNALS = (signal.SIGUSR2, signal.SIGTERM)
T = TypeVar("T")
Handler = Callable[[int, FrameType | None], Any] | int | None


class Stopped(Exception):
    """The run was asked to stop and has written its checkpoint."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} after writing a checkpoint")
        self.number = number


class StopRequest:
    """The number of the signal that this rank has received; 0 for none."""

    def __init__(self) -> None:
        self.number = 0

    def before(self, items: Sequence[T]) -> Iterator[T]:
        """The items, until a signal arrives."""
        return takewhile(lambda _: not self.number, items)

    def agree(self, world: World) -> None:
        """Raises Stopped on every rank if any rank has received a signal."""
        if number := max(world.gather(self.number)):
            raise Stopped(number)


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Catch the signals during training. On Stopped, the previous handlers are restored and the one of the signal is called."""
    request = StopRequest()

    def record(number: int, _: FrameType | None) -> None:
        request.number = number

    previous: dict[int, Handler] = {number: signal.signal(number, record) for number in SIGNALS}
    try:
        yield request
    except Stopped as stopped:
        restore(previous)
        call(previous[stopped.number], stopped.number)
        raise
    finally:
        restore(previous)


def restore(handlers: dict[int, Handler]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def call(handler: Handler, number: int) -> None:
    """Call the previous handler. If it is no function (the system's default action), or a command's own, the exit status tells the caller
    instead."""
    sys.stdout.flush()
    if callable(handler) and handler is not interrupt:
        handler(number, None)

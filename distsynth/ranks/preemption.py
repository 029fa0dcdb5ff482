"""Being asked to stop: a flag, looked at between updates, and between the patients of a validation or of the evaluation.

Slurm signals every process of the step; a handler that did work itself would interrupt a collective on some ranks and not on others. So
the handler only sets a flag, the ranks agree on it after each update, write a checkpoint, and only then is the handler that was there
before (submitit's, which requeues the job) called.
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

SIGNALS = (signal.SIGUSR2, signal.SIGTERM)
T = TypeVar("T")
Handler = Callable[[int, FrameType | None], Any] | int | None


class Stopped(Exception):
    """The run was asked to stop and has written its checkpoint."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} after writing a checkpoint")
        self.number = number


class StopRequest:
    """The signal this rank has been sent; 0 for none."""

    def __init__(self) -> None:
        self.number = 0

    def before(self, items: Sequence[T]) -> Iterator[T]:
        """The items, until there is a signal."""
        return takewhile(lambda _: not self.number, items)

    def agree(self, world: World) -> None:
        """Raises Stopped on every rank if one has had a signal."""
        if number := max(world.gather(self.number)):
            raise Stopped(number)


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Catch the signals for the time of training. On Stopped, the handlers from before are put back and called once."""
    request = StopRequest()

    def note(number: int, _: FrameType | None) -> None:
        request.number = number

    before: dict[int, Handler] = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield request
    except Stopped as stopped:
        restore(before)
        pass_on(stopped.number, before[stopped.number])
        raise
    finally:
        restore(before)


def restore(handlers: dict[int, Handler]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def pass_on(number: int, handler: Handler) -> None:
    """Call the handler that would have had the signal; one that is not a function is left to the caller's exit status."""
    sys.stdout.flush()
    if callable(handler):
        handler(number, None)

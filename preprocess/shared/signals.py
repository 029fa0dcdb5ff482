"""SIGTERM ends a command as Ctrl-C does: what is half done is cleaned up, and the last line is one sentence."""

from __future__ import annotations

import signal
from types import FrameType
from typing import NoReturn


class Terminated(KeyboardInterrupt):
    """SIGTERM has arrived."""

    number = signal.SIGTERM


def interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """A handler for SIGINT and SIGTERM."""
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def number_of(stop: KeyboardInterrupt) -> int:
    """The signal that has ended a command."""
    return int(getattr(stop, "number", signal.SIGINT))


def sentence_of(stop: KeyboardInterrupt) -> str:
    """What to print of it."""
    return str(stop) or ("stopped by SIGTERM" if number_of(stop) == signal.SIGTERM else "stopped by Ctrl-C")

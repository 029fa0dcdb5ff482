"""Ctrl-C and SIGTERM end a command alike: its workers with it, what is half done is cleaned up, and the last line is one sentence."""

from __future__ import annotations

import signal
from multiprocessing import active_children
from types import FrameType
from typing import NoReturn


class Terminated(KeyboardInterrupt):
    """SIGTERM has arrived."""


received: list[int] = []  # libraries turn a KeyboardInterrupt into errors of their own


def listen() -> None:
    """Handle both signals; Ctrl-C is ignored where the command was started so, in the background of a script."""
    signal.signal(signal.SIGTERM, interrupt)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, interrupt)


def interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """A handler for both signals: workers end at once, for they may be in minutes of work that no signal interrupts."""
    received.append(number)
    for worker in active_children():
        worker.terminate()
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def number_of(stop: KeyboardInterrupt) -> int:
    """The signal that has ended a command."""
    return signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT


def sentence_of(number: int) -> str:
    """What to print of it."""
    return "stopped by SIGTERM" if number == signal.SIGTERM else "stopped by Ctrl-C"

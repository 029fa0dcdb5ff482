"""Journals are replayed beside the launcher's own work: a store that is slow, down or lost delays no run and ends none."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread

from distsynth.tracking.store import StoreFailure, Warnings
from distsynth.tracking.sync import Sync
from preprocess.shared.errors import UserError

PAUSE = 30.0  # seconds until a store that has failed is tried again
PATIENCE = 600.0  # seconds that the end of a sweep waits for a slow store


class Background:
    """Replays a sweep's journals in a thread, and prints each cause of failure once. Signals reach only the main thread, so that none can
    end within a database's transaction, whose library takes it for an error of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sync: Sync | None = None
        self.warn = Warnings()
        self.thread: Thread | None = None
        self.not_before = 0.0

    @property
    def busy(self) -> bool:
        return self.thread is not None and self.thread.is_alive()

    def replay(self) -> None:
        """Start to send what is new, unless an earlier replay is still at work or has just failed. Returns at once."""
        if not self.busy and time.monotonic() >= self.not_before:
            self.start(lambda sync: sync.replay())

    def finish(self) -> Sync | None:
        """Send everything, and wait for it. Returns what was sent to, None if something is left to send."""
        deadline = time.monotonic() + PATIENCE
        for task in (None, lambda sync: sync.finish()):
            if task is not None:
                self.start(task)
            if self.thread is not None:
                self.thread.join(deadline - time.monotonic())
            if self.busy:
                self.warn(f"the MLflow store is too slow: python -m distsynth.tracking.sync {self.folder} sends the rest later")
                return None
        return None if self.not_before else self.sync

    def start(self, task: Callable[[Sync], None]) -> None:
        self.thread = Thread(target=self.work, args=(task,), daemon=True, name="mlflow")
        self.thread.start()

    def work(self, task: Callable[[Sync], None]) -> None:
        self.not_before = 0.0
        try:
            self.sync = self.sync or Sync(self.folder, warn=self.warn)
            task(self.sync)
        except UserError as error:
            self.not_before = time.monotonic() + PAUSE
            self.warn(str(error), error.cause if isinstance(error, StoreFailure) else "")
        except Exception as error:  # of ours: no run may be lost by it
            self.not_before = time.monotonic() + PAUSE
            self.warn(f"unexpected error ({type(error).__name__}: {error}) while sending to MLflow: please report it")

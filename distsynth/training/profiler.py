"""`train.profile=true`: a trace of a few updates by torch's profiler, for https://ui.perfetto.dev or chrome://tracing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

SKIPPED, WARMING, TRACED = 2, 1, 3  # updates; the first ones choose algorithms and allocate


@contextmanager
def profiled(folder: Path, wanted: bool) -> Iterator[Callable[[], None]]:
    """Yields what to call after each update. The trace of the first few is written to folder/updates.json.gz; later updates cost nothing."""
    if not wanted:
        yield lambda: None
        return
    from torch.profiler import profile, schedule

    def write(found: profile) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        found.export_chrome_trace(str(folder / "updates.json.gz"))

    left = SKIPPED + WARMING + TRACED
    profiler = profile(schedule=schedule(wait=SKIPPED, warmup=WARMING, active=TRACED, repeat=1), on_trace_ready=write)

    def after_update() -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            profiler.step()
        if left == 0:
            profiler.stop()

    profiler.start()
    yield after_update
    if left > 0:
        profiler.stop()

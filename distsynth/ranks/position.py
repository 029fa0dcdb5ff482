"""Where a rank's main thread is, and whether it waits there for the other ranks: a rank that waits does not hang."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import FrameType

COLLECTIVES = f"torch{os.sep}distributed"
DDP = f"torch{os.sep}nn{os.sep}parallel{os.sep}distributed.py"
# DDP's backward pass; and where a rank waits for its GPU, which may itself wait for another rank's.
WAITS = ("_engine_run_backward", "fetched", "Batch.to")


def position(thread: int) -> tuple[str, bool]:
    """The line of ours that a thread is at, and whether it waits there: in a collective operation, in DDP's broadcast, or in one of WAITS."""
    frame: FrameType | None = sys._current_frames().get(thread)
    line, waits = "", False
    while frame is not None:
        name = frame.f_code.co_filename
        if f"torch{os.sep}" not in name and not line:
            line = f"in {Path(name).name}:{frame.f_lineno}"
        # DDP's own wait has no line of ours above it; all lines of a loss are above DDP's forward pass.
        waits = waits or COLLECTIVES in name or (DDP in name and not line) or frame.f_code.co_qualname in WAITS
        frame = frame.f_back
    return line, waits

"""Time to read a whole subject, an axial slice and a 72-cube, from a store of slices and from a store of cubes."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from preprocess import to_zarr
from preprocess.bench.cases import CasesSettings, folder_of_cases
from preprocess.cohort import Cohort
from preprocess.shared.settings import setting

CUBE = 72  # voxels along an edge: the patches of Dai et al. 2020


@dataclass
class Settings(CasesSettings):
    subjects: int = setting(1, "number of cases")
    repeats: int = setting(15, "readings of each kind; the median is shown")


def run(settings: Settings) -> None:
    """Measure and print the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table("recipe.chunks", "whole subject", "an axial slice", f"a {CUBE}-cube", "MB", title="ms to read (cached files)")
    with folder_of_cases(settings) as source, tempfile.TemporaryDirectory() as scratch:
        for chunks in ("slice", "patch"):
            store = Path(scratch) / f"{chunks}.zarr"
            words = [f"source={source}", f"store={store}", f"recipe.chunks={chunks}", "recipe.n4.enabled=false", "split.test=1"]
            with redirect_stdout(StringIO()):
                to_zarr.main(words)
            cohort = Cohort.open(store)
            size = sum(path.stat().st_size for path in (store / "subjects" / cohort.subjects[0]).rglob("*") if path.is_file())
            table.add_row(chunks, *(f"{ms:.1f}" for ms in readings(cohort, settings.repeats)), f"{size / 1e6:.1f}")
    Console().print(table)
    print("slice is the default: training reads whole subjects once and serves slices from memory")


def readings(cohort: Cohort, repeats: int) -> list[float]:
    """Milliseconds of the three readings, each at a random place."""
    subject, rng = cohort.subjects[0], np.random.default_rng(0)
    depth, height, width = cohort.record(subject).shape

    def cube() -> Any:
        z, y, x = (int(rng.integers(0, max(1, n - CUBE + 1))) for n in (depth, height, width))
        return cohort.lazy_image(subject)[:, z : z + CUBE, y : y + CUBE, x : x + CUBE]

    kinds = (lambda: cohort.image(subject), lambda: cohort.lazy_image(subject)[:, int(rng.integers(0, depth))], cube)
    return [median_ms(read, repeats) for read in kinds]


def median_ms(read: Callable[[], Any], repeats: int) -> float:
    read()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        read()
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds)

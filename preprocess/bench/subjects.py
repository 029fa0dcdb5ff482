"""Cost of a subject: seconds by stage, memory of a worker, bytes in the store, and the gain of a second worker."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from preprocess import to_zarr
from preprocess.bench.cases import CasesSettings, folder_of_cases
from preprocess.cohort import Cohort
from preprocess.cohort.summary import print_seconds
from preprocess.shared.errors import UserError
from preprocess.shared.settings import parse, setting

MEMORY_GOAL = 1.5  # GB of a worker at 240x240x155
WORKERS_GOAL = 1.8  # times as fast with two workers
LOOP = "import time; s = time.perf_counter(); sum(i * i for i in range(20_000_000)); print(time.perf_counter() - s)"


@dataclass
class Settings(CasesSettings):
    repeats: int = setting(3, "number of pairs of runs, with one and with two workers")


def run(settings: Settings) -> None:
    """Measure and print."""
    with folder_of_cases(settings) as source, tempfile.TemporaryDirectory() as scratch:
        stages, peak, grid = in_a_fresh_process(source, Path(scratch) / "stages.zarr")
        print_seconds(stages)
        print(f"peak memory of a worker: {peak:.2f} GB on grids of {grid}; goal at most {MEMORY_GOAL} GB at 240x240x155")
        before, after = bytes_of(source, ("*.nii*", "*.mha")), bytes_of(Path(scratch) / "stages.zarr", ("*",))
        print(f"store {after / 1e6:.1f} MB, sources {before / 1e6:.1f} MB: a ratio of {after / before:.2f}")
        ratios, bare = [], []
        for repeat in range(settings.repeats):
            one, two = (wall(source, Path(scratch) / f"{repeat}-{n}.zarr", n) for n in (1, 2))
            ratios.append(one / two)
            bare.append(2 * max(loops(1)) / max(loops(2)))
            print(
                f"{len(stages)} subjects: one worker {one:.1f} s, two {two:.1f} s: {one / two:.2f} x; simple loops {bare[-1]:.2f} x"
            )
        spread = f"median of {len(ratios)}, {min(ratios):.2f} to {max(ratios):.2f}"
        print(f"two workers are {statistics.median(ratios):.2f} x as fast as one ({spread}); goal at least {WORKERS_GOAL}")
        print(
            f"upper bound from this machine's cores: two simple loops, which share no memory, run {statistics.median(bare):.2f} x as fast as one"
        )


def in_a_fresh_process(source: Path, store: Path) -> tuple[list[Counter[str]], float, str]:
    """Take every subject through a new process. Returns its seconds by stage, its peak memory in GB, and the grid."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, source, store).result()


def work(source: Path, store: Path) -> tuple[list[Counter[str]], float, str]:
    settings = parse(to_zarr.Settings, [f"source={source}", f"store={store}"])
    discovery, writer = to_zarr.plan(settings)
    cases = discovery.cases
    with writer.lock():
        outcomes = [to_zarr.one(case, settings, writer) for case in cases]
        if refused := [outcome.reason for outcome in outcomes if outcome.reason]:
            raise UserError(f"the benchmark needs cases that can all be used: {refused[0]}")
        to_zarr.finish(cases, settings, writer, {})
    shape = Cohort.open(store).record(cases[0].name).original_shape
    return [Counter(outcome.seconds) for outcome in outcomes], peak_memory(), "x".join(map(str, shape))


def peak_memory() -> float:
    """Peak memory of this process in GB. Not getrusage's, which includes the memory of the process that started this one."""
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert peak is not None
    return int(peak[1]) / 1e6


def wall(source: Path, store: Path, workers: int) -> float:
    """Seconds of the whole command, run as a user does. Raises UserError if it fails."""
    words = [f"source={source}", f"store={store}", f"workers={workers}"]
    start = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "preprocess.to_zarr", *words], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise UserError(done.stderr.strip().splitlines()[-1].removeprefix("error: ") if done.stderr else "to_zarr failed")
    return time.perf_counter() - start


def loops(count: int) -> list[float]:
    """Seconds that each of `count` simultaneous processes takes for the same simple loop: an upper bound on the gain of a second core."""
    running = [subprocess.Popen([sys.executable, "-c", LOOP], stdout=subprocess.PIPE, text=True) for _ in range(count)]
    return [float(process.communicate()[0]) for process in running]


def bytes_of(folder: Path, patterns: Sequence[str]) -> int:
    return sum(path.stat().st_size for pattern in patterns for path in folder.rglob(pattern) if path.is_file())

"""One small phantom cohort for the whole session, made by the commands that a user runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

# A script's background job ignores SIGINT, and so would all that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Networks of a few channels on slices of a few pixels: a step takes milliseconds.
TINY = (
    "method=tcmgan_small",
    "method.generator.width=4",
    "method.generator.depth=2",
    "method.critic.width=4",
    "method.critic.depth=2",
    "method.segmentor.width=2",
    "method.segmentor.epochs=1",
    "train.epochs=2",
    "train.steps_per_epoch=4",
    "train.log_every=1",
    "evaluate.figures=1",
)


def run_module(*words: str, cwd: Path | None = None, timeout: float = 300, **variables: str) -> subprocess.CompletedProcess[str]:
    """`python -m WORDS` (or a script), as a user runs it."""
    python = [sys.executable] if words[0].endswith(".py") else [sys.executable, "-m"]
    environment = {**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run([*python, *words], capture_output=True, text=True, cwd=cwd, env=environment, timeout=timeout)


@pytest.fixture(scope="session")
def run() -> Callable[..., subprocess.CompletedProcess[str]]:
    return run_module


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    return TINY


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Has a file made by a command of ours, once for all processes of the session."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def once(name: str, *words: str) -> Path:
        with FileLock(shared / f"{name}.making"):
            if not (shared / name).exists():
                done = run_module(*(word.format(shared / name) for word in words))
                assert done.returncode == 0, done.stderr
                assert "Warning" not in done.stderr, done.stderr
        return shared / name

    return once


@pytest.fixture(scope="session")
def phantoms(made: Callable[..., Path]) -> Path:
    """Ten phantoms on a 5 mm grid, in BRATS 2018's layout."""
    return made("phantom", "preprocess.phantom", "out={}", "subjects=10", "spacing=5", "seed=3")


@pytest.fixture(scope="session")
def store(phantoms: Path, made: Callable[..., Path]) -> Path:
    """Their cohort."""
    return made("phantom.zarr", "preprocess.to_zarr", f"source={phantoms}", "store={}", "recipe.n4.iterations=[5]")


@pytest.fixture
def read_files(monkeypatch: pytest.MonkeyPatch) -> Counter[Path]:
    """How often this process reads each cohort's manifest and each record."""
    from preprocess.cohort import reader
    from preprocess.cohort.files import record_path

    counts: Counter[Path] = Counter()
    manifest, record = reader.read_sealed, reader.read_record

    def read_manifest(path: Path) -> dict[str, Any]:
        counts[path] += 1
        return manifest(path)

    def read_record(store: Path, subject: str, digest: str) -> Any:
        counts[record_path(store, subject)] += 1
        return record(store, subject, digest)

    monkeypatch.setattr(reader, "read_sealed", read_manifest)
    monkeypatch.setattr(reader, "read_record", read_record)
    return counts


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 600 kB; `mount -o remount,size=…` makes it larger."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs root to mount a small tmpfs")
    yield place
    subprocess.run(["umount", place], check=True)

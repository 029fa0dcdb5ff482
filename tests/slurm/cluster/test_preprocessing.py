"""A cohort made by a Slurm array is the one that to_zarr makes, byte for byte, disturbed or not."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

LAUNCH = str(Path(__file__).parents[3] / "slurm" / "launch.py")
RECIPE = ("recipe.n4.spacing=5", "recipe.n4.iterations=[30,30]", "recipe.n4.tolerance=1e-9")  # a second or two a subject


@pytest.fixture(scope="module")
def plain(run: Any, phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Path, bytes]:
    store = tmp_path_factory.mktemp("plain") / "c.zarr"
    done = run("preprocess.to_zarr", f"source={phantoms}", f"store={store}", *RECIPE)
    assert done.returncode == 0, done.stderr
    return contents(store)


@pytest.fixture
def launcher(lab: Any, phantoms: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    cluster = ("cluster=slurm", "cluster.array=3", "cluster.cpus=1", "cluster.memory=2GB", "poll_seconds=0.5")
    words = (f"source={phantoms}", f"store={tmp_path / 'c.zarr'}", *RECIPE)
    process = subprocess.Popen(
        [sys.executable, LAUNCH, "job=preprocess", *cluster, *words],
        cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    yield process
    process.kill()
    lab.slurm("scancel", "--user=root")


def contents(store: Path) -> dict[Path, bytes]:
    return {path.relative_to(store): path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file()}


def committed(store: Path) -> int:
    return len(list((store / "records").glob("*.json")))


def test_an_array_of_parts_makes_the_same_store(
    launcher: subprocess.Popen[str], plain: dict[Path, bytes], tmp_path: Path
) -> None:
    said, _ = launcher.communicate(timeout=300)
    assert launcher.returncode == 0, said
    assert contents(tmp_path / "c.zarr") == plain
    assert "3 parts" in said
    assert not (tmp_path / "c.zarr.partial").exists()


def test_parts_that_are_queued_again_and_a_launcher_that_is_killed_change_nothing(
    lab: Any, launcher: subprocess.Popen[str], plain: dict[Path, bytes], tmp_path: Path
) -> None:
    store = tmp_path / "c.zarr"
    deadline = time.monotonic() + 240
    while not committed(store):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    before = committed(store)
    launcher.kill()
    running = lab.slurm("squeue", "--noheader", "--states=RUNNING", "--name=distsynth-preprocess", "--format=%A").split()
    assert running
    assert before < 10, "it was over before it could be disturbed"
    for job in running[:2]:
        lab.slurm("scontrol", "requeue", job)
    while lab.slurm("squeue", "--noheader", "--format=%A"):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert contents(store) == plain

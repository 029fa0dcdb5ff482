"""Patients synthesised by a Slurm array, disturbed, are what the single-machine command makes of them, byte for byte."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

LAUNCH = str(Path(__file__).parents[3] / "slurm" / "launch.py")
CLUSTER = ("cluster=slurm", "cluster.array=2", "cluster.gpus=0", "cluster.cpus=1", "cluster.memory=2GB", "poll_seconds=0.5")
Start = Callable[[], "subprocess.Popen[str]"]


@pytest.fixture
def clinic(without_flair: Callable[[int], Path]) -> Path:
    return without_flair(10)


@pytest.fixture
def start(lab: Any, clinic: Path, trained: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts the launcher, with relative paths."""
    begun: list[subprocess.Popen[str]] = []
    words = (f"source={os.path.relpath(clinic, tmp_path)}", "out=out", f"run={os.path.relpath(trained, tmp_path)}")

    def launch() -> "subprocess.Popen[str]":
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        command = [sys.executable, LAUNCH, "job=synthesise", *CLUSTER, *words]
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        begun.append(process)
        return process

    yield launch
    for process in begun:
        process.kill()
    lab.slurm("scancel", "--user=root")


def until(true: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 120
    while not (answer := true()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return answer


def images(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name != "report.json"}


def test_parts_that_are_queued_again_and_killed_and_a_launcher_that_is_stopped_change_nothing(
    lab: Any, start: Start, run: Any, clinic: Path, trained: Path, tmp_path: Path
) -> None:
    plain = run("distsynth.synthesise", f"source={clinic}", f"out={tmp_path / 'plain'}", f"run={trained}")
    assert plain.returncode == 1, plain.stderr
    out = tmp_path / "out"
    launcher = start()
    job = until(lambda: (out / ".launched.json").is_file() and json.loads((out / ".launched.json").read_text())["jobs"][0])
    array = job.partition("_")[0]
    output = tmp_path / "runs" / "synthesise" / "logs" / f"{array}_1" / f"{array}_1_0_log.out"
    until(lambda: output.is_file() and "submitit" in output.read_text())
    os.kill(lab.process(f"SLURM_ARRAY_JOB_ID={array}", "SLURM_ARRAY_TASK_ID=1", "SLURM_STEP_ID=0"), signal.SIGKILL)
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(30) == 130

    until(lambda: list(out.glob("*.nii.gz")))
    with suppress(subprocess.TimeoutExpired):  # after some seconds scancel would signal the job that was queued again, too
        subprocess.run(["scancel", "--signal=USR2", f"{array}_0"], timeout=2, capture_output=True)
    assert not (out / "report-1-of-2.json").exists(), "it was over before it could be disturbed"
    launcher = start()
    said, _ = launcher.communicate(timeout=120)
    assert launcher.returncode == 1, said
    assert f"Slurm job {array} (2 parts), launched before, continues" in said
    assert "part 2/2 did not finish: srun: error: node" in said, said
    statuses = [patient["status"] for patient in json.loads((out / "report.json").read_text())["patients"]]
    assert statuses[1::2] == ["set aside"] * 5
    assert statuses[0] == "kept", "nothing disturbed it"
    assert "synthesised" in statuses

    launcher = start()
    said, _ = launcher.communicate(timeout=120)
    assert launcher.returncode == 1, said
    assert "1 set aside" in said
    assert "cannot be read" in said
    assert images(out) == images(tmp_path / "plain")

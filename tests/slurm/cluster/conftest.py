"""A real Slurm for the session, four nodes on this machine, with accounting, and launches on it as a user makes them: two nodes, two ranks each.

REQUIRE_SLURM=1 makes a machine that cannot stand it up a failure.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from distsynth.tracking.journal import Line, read

SCRIPT = Path(__file__).parents[1] / "lab.sh"
LAUNCH = str(Path(__file__).parents[3] / "slurm" / "launch.py")
SHAPE = [
    "cluster=slurm",
    "cluster.nodes=2",
    "cluster.ranks=2",
    "cluster.gpus=0",
    "cluster.cpus=1",
    "cluster.memory=2GB",
    "poll_seconds=0.5",
]
LENGTH = [
    "train.epochs=8",
    "train.validate_every=4",
    "train.checkpoint_minutes=0.02",
    "evaluate.baselines=false",
    "evaluate.figures=0",
]
Curves = dict[str, list[tuple[int, float]]]


class Lab:
    """The cluster's faults, and its commands."""

    def script(self, *words: str) -> str:
        done = subprocess.run([SCRIPT, *words], capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def slurm(self, *words: str) -> str:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    @staticmethod
    def process(*wanted: str) -> int:
        """The task of a job of ours that runs now with these variables, `NAME=value`."""
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if b"submitit.core._submit" in (folder / "cmdline").read_bytes().split(b"\0") and set(wanted) <= set(
                    (folder / "environ").read_text().split("\0")
                ):
                    return int(folder.name)
            except OSError:
                continue
        raise AssertionError(f"no task runs with {', '.join(wanted)}")

    def configure(self, line: str) -> None:
        with Path(os.environ["SLURM_CONF"]).open("a") as file:
            file.write(line + "\n")
        self.slurm("scontrol", "reconfigure")


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    found = Lab()
    try:
        os.environ["SLURM_CONF"] = found.script("up")
    except (AssertionError, subprocess.TimeoutExpired) as error:
        if os.environ.get("REQUIRE_SLURM"):
            raise
        pytest.skip(f"no Slurm can be stood up here: {str(error).splitlines()[0]}")
    yield found
    del os.environ["SLURM_CONF"]
    found.script("down")


class Launched:
    """`python slurm/launch.py …` in a folder."""

    def __init__(self, folder: Path, store: Path, tiny: tuple[str, ...], *words: str) -> None:
        self.folder, self.run = folder, folder / "runs" / "single" / "simo_tcmgan"
        settings = [word for word in tiny if not word.startswith(("train.epochs", "train.steps_per_epoch", "evaluate"))]
        self.words = [*SHAPE, f"data.store={store}", *settings, *LENGTH, *words]
        self.launch()

    def launch(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        with (self.folder / "out").open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, LAUNCH, *self.words], cwd=self.folder, env=environment, stdout=out, stderr=out
            )

    @property
    def said(self) -> str:
        return (self.folder / "out").read_text()

    @property
    def journal(self) -> list[Line]:
        return read(self.run / "journal.jsonl")[0]

    @property
    def job(self) -> str:
        return str(json.loads((self.run / "job.json").read_text())["id"])

    def until(self, what: str, true: Callable[[], bool], seconds: float = 240) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            assert self.process.poll() is None, f"the launcher ended before {what}: {self.said}"
            assert time.monotonic() < deadline, f"not {what} in {seconds} s: {self.said}"
            time.sleep(0.05)

    def until_step(self, step: int) -> None:
        self.until(
            f"at step {step}", lambda: any(line.get("step", 0) >= step for line in self.journal if line["kind"] == "metrics")
        )

    def ends(self, seconds: float = 400) -> int:
        return self.process.wait(seconds)

    def rank(self, rank: int) -> int:
        """The process of a rank of the job that runs now."""
        return Lab.process(f"SLURM_JOB_ID={self.job}", f"SLURM_PROCID={rank}")

    @staticmethod
    def sent(pid: int, number: int) -> bool:
        """Whether a stopped process has been sent the signal, or is gone."""
        try:
            status = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            return True
        pending = [int(line.split()[1], 16) for line in status if line.startswith(("SigPnd", "ShdPnd"))]
        return any(mask >> (number - 1) & 1 for mask in pending)

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        newest = sorted((self.run / "checkpoints").glob("step-*.pt"))[-1]
        found: dict[str, torch.Tensor] = torch.load(newest, weights_only=True)["method"]
        return found

    @property
    def starts(self) -> list[int]:
        """The steps that its processes began at, as far as checkpoints and the end keep them."""
        return [line["resumed_at"] for line in self.journal if line["kind"] == "start"]

    @property
    def curves(self) -> Curves:
        """Every point of MLflow's one child run, in the order in which they were logged; clock times aside."""
        client = MlflowClient(f"sqlite:///{self.folder / 'runs' / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("distsynth")
        assert experiment is not None
        children = [r for r in client.search_runs([experiment.experiment_id]) if "mlflow.parentRunId" in r.data.tags]
        assert [child.info.status for child in children] == ["FINISHED"]
        (child,) = children
        return {
            key: [(point.step, point.value) for point in client.get_metric_history(child.info.run_id, key)]
            for key in child.data.metrics
            if key.split("/")[0] in ("segmentor", "joint", "val", "best")
        }


@pytest.fixture(scope="module")
def start(
    lab: Lab, store: Path, tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Launched]]:
    begun: list[Launched] = []

    def launch(*words: str) -> Launched:
        begun.append(Launched(tmp_path_factory.mktemp("launch"), store, tiny, *words))
        return begun[-1]

    yield launch
    for launched in begun:
        launched.process.kill()
    lab.slurm("scancel", "--user=root")

"""A small run that the launcher trains on two ranks, watched from outside while a fault is done to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from distsynth import metric_names
from distsynth.run_directory import RunDirectory
from distsynth.tracking.journal import Line, read
from preprocess.shared.errors import UserError
from slurm.controller import ranks_of

LAUNCH = Path(__file__).parents[1] / "launch.py"
STEP = 45  # in the third epoch of the second stage
SMALL = (
    "method=tcmgan_small method.generator.width=4 method.generator.depth=2 method.critic.width=4 method.critic.depth=2 "
    "method.segmentor.width=2 method.segmentor.epochs=1 train.epochs=6 train.steps_per_epoch=20 train.validate_every=3 train.log_every=1 "
    "train.checkpoint_minutes=0.02 evaluate.baselines=false evaluate.figures=0 sweep.name=faults poll_seconds=0.2"
)
WHERE = {
    "local": "cluster=local",
    # Most of a minute, so that a limit of one minute interrupts it.
    "slurm": "cluster=slurm cluster.nodes=2 cluster.gpus=0 cluster.cpus=1 cluster.memory=2GB train.epochs=18",
}


class Trial:
    """A launch of the run; `launch` again gives the same command once more."""

    def __init__(self, folder: Path, store: str, cluster: str, words: tuple[str, ...]) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.local = folder, cluster == "local"
        self.words = [*SMALL.split(), *WHERE[cluster].split(), f"data.store={Path(store).absolute()}", *words]
        self.run = RunDirectory(folder / "runs" / "faults" / "simo_tcmgan")
        self.started = time.time()
        self.reached = self.repeated = 0
        self.launch()

    def launch(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": f"sqlite:///{self.folder}.db"}
        with Path(f"{self.folder}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, LAUNCH, *self.words], cwd=self.folder, env=environment, stdout=log, stderr=log
            )

    @property
    def job(self) -> str:
        return str(json.loads(self.run.job.read_text())["id"])

    @property
    def last_line(self) -> str:
        """Of the launcher's output."""
        return Path(f"{self.folder}.log").read_text(errors="replace").strip().rpartition("\n")[2].removeprefix("error: ")

    def squeue(self, field: str) -> str:
        """A field of squeue's line about the job, e.g. %N, its nodes."""
        done = subprocess.run(["squeue", "-h", "-o", field, "-j", self.job], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    @property
    def disturbed(self) -> bool:
        """Whether it was started more than once."""
        return len([line for line in self.look() if line["kind"] == "start"]) > 1

    def ranks(self) -> list[int]:
        """The processes of the ranks on this machine, in rank order."""
        return ranks_of(int(self.job)) if self.local else []

    def look(self) -> list[Line]:
        """The journal's lines. Updates the step that the run has reached and the number of updates that new starts have repeated."""
        lines, _ = read(self.run.journal)
        steps = [line["step"] for line in lines if line["kind"] == "metrics"]
        starts = [line["resumed_at"] for line in lines if line["kind"] == "start"]
        if starts and max(steps, default=0) < self.reached:
            self.repeated += self.reached - starts[-1]
            self.reached = starts[-1]
        self.reached = max(self.reached, max(steps, default=0))
        return lines

    def until(self, step: int, seconds: float = 300) -> None:
        """Wait for an update. Raises UserError if the run does not reach it."""
        deadline = time.monotonic() + seconds
        while self.reached < step:
            self.look()
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise UserError(f"the run did not reach update {step}; the launcher's last line: {self.last_line}")
            time.sleep(0.01)

    def noticed_after(self, since: float, seconds: float = 300) -> float:
        """Seconds from `since` to the journal's first end or start after it, or to the launcher's end."""
        while time.time() < since + seconds:
            for line in self.look():
                if line["kind"] in ("end", "start") and line["time"] / 1000 > since:
                    return float(line["time"] / 1000 - since)
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        return time.time() - since

    def finish(self, expect: int = 0, seconds: float = 400) -> None:
        """Wait for the launcher's end. Raises UserError if it ends otherwise than expected."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < deadline:
            self.look()
            time.sleep(0.05)
        self.look()
        self.seconds, self.updates = time.time() - self.started, self.reached
        if self.process.poll() != expect:
            raise UserError(
                f"the launcher ended with {self.process.poll()} in place of {expect}; its last line: {self.last_line}"
            )

    def kill_everything(self) -> None:
        """Kill the launcher, submitit's controller and the ranks together; on Slurm the job."""
        if not self.local and self.run.job.is_file():
            subprocess.run(["scancel", self.job], check=True)
        ranks = self.ranks() if self.run.job.is_file() else []
        for pid in [*([int(self.job)] if ranks else []), *ranks]:
            os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()

    @property
    def last_reason(self) -> str:
        return str(next(line["reason"] for line in reversed(self.look()) if line["kind"] == "end"))

    def same_as(self, other: Trial) -> bool:
        """Whether all weights, and every point of every curve but the clock's, are equal bit for bit."""
        import torch

        mine, theirs = self.weights(), other.weights()
        equal = mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
        return equal and self.curve() == other.curve()

    def weights(self) -> dict[str, Any]:
        from distsynth.training.checkpoint import newest

        checkpoint = newest(self.run.checkpoints)
        if checkpoint is None:
            raise UserError(f"{self.run.path} has no readable checkpoint")
        weights: dict[str, Any] = checkpoint[0]["method"]
        return weights

    def curve(self) -> list[tuple[int, str, float]]:
        lines = [line for line in self.look() if line["kind"] == "metrics"]
        return [(line["step"], k, v) for line in lines for k, v in line["values"].items() if metric_names.repeatable(k)]


def small_disk(folder: Path, stack: ExitStack, size: str = "30m") -> bool:
    """Mount a small disk on the folder until the stack unwinds; whether that was allowed."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        return False
    stack.callback(subprocess.run, ["umount", "--lazy", str(folder)], capture_output=True)
    return True

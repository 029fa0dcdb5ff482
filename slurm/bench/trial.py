"""A small run that the launcher trains on two ranks, watched from outside while something is done to it."""

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

from distsynth.run_directory import RunDirectory
from distsynth.tracking.journal import Line, read
from preprocess.shared.errors import UserError
from slurm.controller import ranks_of

LAUNCH = Path(__file__).parent / "launch.py"
STEP = 45  # in the third epoch of the second stage
SMALL = (
    "method=tcmgan_small method.generator.width=4 method.generator.depth=2 method.critic.width=4 method.critic.depth=2 "
    "method.segmentor.width=2 method.segmentor.epochs=1 train.epochs=6 train.steps_per_epoch=20 train.validate_every=3 train.log_every=1 "
    "train.checkpoint_minutes=0.02 evaluate.baselines=false evaluate.figures=0 sweep.name=faults poll_seconds=0.2"
)
WHERE = {
    "local": "cluster=local",
    # Most of a minute, so that a limit of one minute comes in its midst.
    "slurm": "cluster=slurm cluster.nodes=2 cluster.gpus=0 cluster.cpus=1 cluster.memory=2GB train.epochs=18",
}


class Trial:
    """One launch, and the same command again."""

    def __init__(self, folder: Path, store: str, cluster: str, words: tuple[str, ...]) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.local = folder, cluster == "local"
        self.words = [*SMALL.split(), *WHERE[cluster].split(), f"data.store={Path(store).absolute()}", *words]
        self.run = RunDirectory(folder / "runs" / "faults" / "simo_tcmgan")
        self.started = time.time()
        self.reached = self.done_again = 0
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
    def last_said(self) -> str:
        return Path(f"{self.folder}.log").read_text(errors="replace").strip().rpartition("\n")[2].removeprefix("error: ")

    def squeue(self, field: str) -> str:
        """What Slurm says of the job, e.g. %N, its nodes."""
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
        """The journal; how far it has come, and what a new start has given up of that, are kept."""
        lines, _ = read(self.run.journal)
        steps = [line["step"] for line in lines if line["kind"] == "metrics"]
        starts = [line["resumed_at"] for line in lines if line["kind"] == "start"]
        if starts and max(steps, default=0) < self.reached:
            self.done_again += self.reached - starts[-1]
            self.reached = starts[-1]
        self.reached = max(self.reached, max(steps, default=0))
        return lines

    def until(self, step: int, seconds: float = 300) -> None:
        """Raises UserError if the run does not come to the step."""
        deadline = time.monotonic() + seconds
        while self.reached < step:
            self.look()
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise UserError(f"the run did not come to update {step}; the launcher's last line: {self.last_said}")
            time.sleep(0.01)

    def first_word(self, since: float, seconds: float = 300) -> float:
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
            raise UserError(f"the launcher ended with {self.process.poll()} in place of {expect}, saying: {self.last_said}")

    def kill_everything(self) -> None:
        """The launcher, submitit's controller and the ranks at once; on Slurm the job."""
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
        """All weights, and every point of every curve but the clock's, bit for bit."""
        import torch

        mine, theirs = self.weights(), other.weights()
        equal = mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
        return equal and self.curve() == other.curve()

    def weights(self) -> dict[str, Any]:
        from distsynth.training.checkpoint import newest

        found = newest(self.run.checkpoints)
        if found is None:
            raise UserError(f"{self.run.path} has no readable checkpoint")
        weights: dict[str, Any] = found[0]["method"]
        return weights

    def curve(self) -> list[tuple[int, str, float]]:
        lines = [line for line in self.look() if line["kind"] == "metrics"]
        learnt = ("segmentor/", "joint/", "val/", "best/")
        return [(line["step"], k, v) for line in lines for k, v in line["values"].items() if k.startswith(learnt)]


def small_disk(folder: Path, stack: ExitStack, size: str = "30m") -> bool:
    """Mount a disk of its own on the folder until the stack unwinds; whether that was allowed."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        return False
    stack.callback(subprocess.run, ["umount", "--lazy", str(folder)], capture_output=True)
    return True

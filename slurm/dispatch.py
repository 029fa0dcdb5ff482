"""Getting planned runs executed: all at once on Slurm, a bounded number at a time on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distsynth.run_directory import write_json
from distsynth.tracking.journal import Journal, read
from preprocess.errors import StoreError
from slurm.cluster import ClusterSettings, submit
from slurm.job import TrainJob
from slurm.sweep import Run

GRACE = 15.0  # seconds that a job which Slurm no longer lists gets until it is given up: a requeue shows late


class Dispatcher:
    """Keeps the runs going; `poll` it until `busy` is false."""

    def __init__(self, settings: ClusterSettings, name: str, runs: Sequence[Run], logs: Path) -> None:
        self.settings, self.name, self.logs = settings, name, logs
        self.jobs: dict[str, tuple[Run, Any]] = {run.name: (run, job) for run in runs if (job := self.alive(run))}
        self.waiting = [run for run in runs if run.name not in self.jobs]
        self.gone: dict[str, float] = {}

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.jobs)

    def poll(self) -> None:
        """Start what may start, and settle what has ended."""
        for name, (run, job) in list(self.jobs.items()):
            if self.over(name, job):
                del self.jobs[name]
                settle(run, job)
        free = max(1, self.settings.parallel) - len(self.jobs) if self.settings.resolved == "local" else len(self.waiting)
        starting, self.waiting = self.waiting[: max(0, free)], self.waiting[max(0, free) :]
        if starting:
            jobs = submit(
                self.settings, self.name, [TrainJob(run.directory.path, self.settings.threads) for run in starting], self.logs
            )
            for run, job in zip(starting, jobs, strict=True):
                self.jobs[run.name] = (run, job)
                write_json(run.directory.job, {"kind": self.settings.resolved, "id": job.job_id})

    def alive(self, run: Run) -> Any:
        """The job of a run that an earlier launcher submitted to Slurm and that is still queued or running, or None."""
        if self.settings.resolved == "local" or not run.directory.job.is_file():
            return None
        found = json.loads(run.directory.job.read_text())
        if found["kind"] != "slurm" or not listed(found["id"]):
            return None
        import submitit

        return submitit.SlurmJob(self.logs / "%j", found["id"])

    def over(self, name: str, job: Any) -> bool:
        """Whether a job has ended for good. On Slurm squeue is asked: submitit takes a node's failure as the end, though the job
        is queued again."""
        if self.settings.resolved == "local":
            return bool(job.done())
        if listed(job.job_id):
            self.gone.pop(name, None)
            return False
        return time.monotonic() - self.gone.setdefault(name, time.monotonic()) > GRACE or (job.paths.result_pickle.is_file())

    def cancel(self) -> None:
        """Stop what runs on this machine and wait for it; Slurm's jobs are left alone."""
        if self.settings.resolved != "local":
            return
        for _, job in self.jobs.values():
            job.cancel()
        deadline = time.monotonic() + 30
        while any(not job.done(force_check=True) for _, job in self.jobs.values()) and time.monotonic() < deadline:
            time.sleep(0.2)


def listed(job_id: str) -> bool:
    """Whether squeue knows the job, waiting or running; a controller that does not answer counts as yes."""
    asked = subprocess.run(["squeue", "--noheader", "--jobs", job_id, "--format=%T"], capture_output=True, text=True)
    if asked.returncode == 0:
        return bool(asked.stdout.strip())
    return "Invalid job id" not in asked.stderr


def settle(run: Run, job: Any) -> None:
    """A job that died without a word gets its last line: failed, and where its output lies. A run that another process still trains, which
    is why the job was refused, is left to it."""
    try:
        with run.directory.lock():
            lines, _ = read(run.directory.journal)
            if lines and lines[-1]["kind"] == "end" and lines[-1]["status"] != "stopped":
                return
            journal = Journal(run.directory.journal)
            journal.write("end", status="failed", reason=f"{last_words(job)} (see {job.paths.stderr})")
            journal.sync()
            journal.close()
    except StoreError as error:
        print(f"{run.name}: {error}", file=sys.stderr)


def last_words(job: Any) -> str:
    """The last line of a job's error output."""
    try:
        text = Path(job.paths.stderr).read_text(errors="replace").strip()
    except OSError:
        text = ""
    return text.splitlines()[-1] if text else "the job ended without a word"

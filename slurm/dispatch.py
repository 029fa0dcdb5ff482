"""Getting planned runs executed: all at once on Slurm, a bounded number at a time on this machine; again where a job has died."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distsynth.run_directory import RunDirectory
from distsynth.tracking.journal import Line, read, write_end
from preprocess.shared.errors import SettingError, StoreError
from preprocess.shared.files import write_json
from slurm import controller, squeue
from slurm.cluster import ClusterSettings, submit
from slurm.job import TrainJob
from slurm.outcome import Verdict, judge
from slurm.sweep import Run

GRACE = 15.0  # seconds that a job which Slurm no longer lists, or some of whose ranks have gone, gets until it is given up
PAUSE = 60.0  # seconds until a submission that Slurm has refused is tried again


@dataclass
class Started:
    """A run and the job that was submitted for it."""

    run: Run
    job: Any
    before: Line | None  # the journal's last line when it was submitted
    gone: float | None = None  # when it was first found to be no longer whole


class Dispatcher:
    """Keeps the runs going; `poll` it until `busy` is false."""

    def __init__(self, settings: ClusterSettings, name: str, runs: Sequence[Run], logs: Path) -> None:
        self.settings, self.name, self.logs = settings, name, logs
        self.local = settings.resolved == "local"
        self.jobs = {run.name: Started(run, job, None) for run in runs if (job := self.alive(run))}
        self.waiting = [run for run in runs if run.name not in self.jobs]
        self.tries: Counter[str] = Counter()
        self.not_before = 0.0

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.jobs)

    def poll(self) -> None:
        """Settle what has ended, and start what may start. Raises SettingError if Slurm refuses a run's first job."""
        for name, started in list(self.jobs.items()):
            if self.over(started) and not trained_elsewhere(started.run):
                del self.jobs[name]
                self.settle(started)
        if time.monotonic() < self.not_before:
            return
        free = max(1, self.settings.parallel) - len(self.jobs) if self.local else len(self.waiting)
        starting = [run for run in self.waiting if not trained_elsewhere(run)][: max(0, free)]
        try:
            self.start(starting)
        except SettingError as error:
            if not any(self.tries[run.name] for run in starting):
                raise
            self.not_before = time.monotonic() + PAUSE
            print(f"warning: {error}; trying again in {PAUSE:.0f} s", file=sys.stderr)

    def start(self, runs: Sequence[Run]) -> None:
        if not runs:
            return
        jobs = submit(self.settings, self.name, [TrainJob(run.directory.path, self.settings.threads) for run in runs], self.logs)
        for run, job in zip(runs, jobs, strict=True):
            self.waiting.remove(run)
            self.jobs[run.name] = Started(run, job, last_line(run.directory))
            write_json(run.directory.job, {"kind": self.settings.resolved, "id": job.job_id})

    def alive(self, run: Run) -> Any:
        """The job of a run that an earlier launcher submitted and that is still queued or running, or None."""
        if not run.directory.job.is_file():
            return None
        import submitit

        found = json.loads(run.directory.job.read_text())
        if found["kind"] != self.settings.resolved:
            return None
        if self.local:
            process = controller.take_up(int(found["id"]), self.logs)
            return process and submitit.LocalJob(self.logs / "%j", found["id"], range(self.settings.ranks), process)
        tasks = range(self.settings.nodes * self.settings.ranks)
        return submitit.SlurmJob(self.logs / "%j", found["id"], tasks) if squeue.state(found["id"]) else None

    def over(self, started: Started) -> bool:
        """Whether a job has ended for good."""
        if self.local:
            self.end_torso(started)
            return bool(started.job.done())
        if squeue.state(started.job.job_id):
            started.gone = None
            return False
        return lasts(started, GRACE) or started.job.paths.result_pickle.is_file()

    def end_torso(self, started: Started) -> None:
        """End a job on this machine whose ranks are not all there any more, as srun's --kill-on-bad-exit does: submitit waits for a hung one
        until the time limit."""
        left = len(controller.ranks_of(int(started.job.job_id)))
        if not 0 < left < self.settings.ranks:
            started.gone = None
        elif lasts(started, GRACE):
            started.gone = float("inf")  # once: a second interrupt would cut its killing short
            started.job.cancel()

    def settle(self, started: Started) -> None:
        """What becomes of a run whose job has ended: nothing more, its last line in the journal, or another job."""
        run, job = started.run, started.job
        last = last_line(run.directory)
        state = "" if self.local else squeue.state(job.job_id, ended=True)
        verdict = judge(None if last == started.before else last, state, last_words(job))
        if verdict.status == "retry":
            verdict = self.retry(run, verdict.reason, job)
        if verdict.say:
            write_end(run.directory.journal, verdict.status, verdict.reason)

    def retry(self, run: Run, reason: str, job: Any) -> Verdict:
        tries = self.settings.retries
        if self.tries[run.name] == tries:
            again = f", after {tries} more job{'s' * (tries > 1)}" if tries else ""
            return Verdict("failed", f"{reason}{again} (see {job.paths.stderr})", say=True)
        self.tries[run.name] += 1
        self.waiting.append(run)
        told = f"{reason}; submitted again, {self.tries[run.name]} of {tries} times (see {job.paths.stderr})"
        print(f"{run.name}: {told}", file=sys.stderr)
        return Verdict("stopped", told, say=True)

    def cancel(self) -> None:
        """Stop what runs on this machine and wait for it; Slurm's jobs are left alone."""
        if not self.local:
            return
        for started in self.jobs.values():
            started.job.cancel()
        deadline = time.monotonic() + 30
        while any(not s.job.done(force_check=True) for s in self.jobs.values()) and time.monotonic() < deadline:
            time.sleep(0.2)


def lasts(started: Started, seconds: float) -> bool:
    """Whether it is so long since `lasts` was first asked that a job is no longer whole."""
    started.gone = started.gone if started.gone is not None else time.monotonic()
    return time.monotonic() - started.gone > seconds


def trained_elsewhere(run: Run) -> bool:
    """Whether another process holds the run: ranks that outlived their job, or a training by hand. It is waited for."""
    if not run.directory.path.is_dir():
        return False
    try:
        with run.directory.lock():
            return False
    except StoreError:
        return True


def last_line(run: RunDirectory) -> Line | None:
    lines, _ = read(run.journal)
    return lines[-1] if lines else None


def last_words(job: Any) -> str:
    """The last line of the job's error output: a rank's own sentence, else rank 0's; empty if it died without a word."""
    lines = []
    for rank in range(job.num_tasks):
        try:
            text = Path(job.task(rank).paths.stderr).read_text(errors="replace").strip()
        except OSError:
            text = ""
        lines.append(text.splitlines()[-1] if text else "")
    return next((line for line in lines if line.startswith("error: ")), lines[0])

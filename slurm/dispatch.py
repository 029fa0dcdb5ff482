"""Executes planned runs: all at once on Slurm, a bounded number at a time on this machine; resubmits a run whose job has died."""

from __future__ import annotations

import json
import re
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
from preprocess.shared.files import read_bytes, write_json
from slurm import controller, squeue
from slurm.cluster import ClusterSettings, LimitReached, submit
from slurm.job import TrainJob
from slurm.outcome import LIMIT, Outcome, last_error, outcome_of
from slurm.sweep import Run

GRACE = 15.0  # seconds until a job that Slurm no longer lists, or that has lost some of its ranks, counts as ended
PAUSE = 60.0  # seconds until a submission that Slurm has refused is repeated


@dataclass
class Started:
    """A run and the job that was submitted for it."""

    run: Run
    job: Any
    before: Line | None  # the journal's last line when it was submitted
    gpus: Sequence[str] = ()  # on this machine
    incomplete_since: float | None = None  # when Slurm no longer listed it, or some of its ranks had ended


class Dispatcher:
    """Starts and restarts the jobs of the runs; call `poll` until `busy` is false."""

    def __init__(self, settings: ClusterSettings, name: str, runs: Sequence[Run], logs: Path) -> None:
        self.settings, self.name, self.logs = settings, name, logs
        self.local = settings.resolved == "local"
        self.gpus = controller.gpus_here() if self.local and settings.gpus else []
        self.jobs = {run.name: started for run in runs if (started := self.alive(run))}
        self.waiting = [run for run in runs if run.name not in self.jobs]
        self.begun = set(self.jobs)
        self.most = self.all = len(runs)  # how many jobs Slurm takes at once, as far as it has shown
        self.tries: Counter[str] = Counter()
        self.limits: Counter[str] = Counter()
        self.not_before, self.asked = 0.0, time.monotonic()
        self.printed = {""}

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.jobs)

    def poll(self) -> None:
        """Settle the runs whose job has ended, and start waiting ones. Raises SettingError if Slurm refuses a run's first job."""
        for name, started in list(self.jobs.items()):
            if self.over(started) and not trained_elsewhere(started.run):
                del self.jobs[name]
                self.settle(started)
                self.not_before = 0.0
        if not self.local and self.jobs and time.monotonic() > self.asked + GRACE:
            self.asked = time.monotonic()
            self.warn(squeue.stuck(started.job.job_id for started in self.jobs.values()))
        if time.monotonic() < self.not_before:
            return
        starting = [run for run in self.waiting if not trained_elsewhere(run)][: max(0, self.free)]
        try:
            self.start(starting)
        except SettingError as error:
            again = (
                self.begun or squeue.mine() if isinstance(error, LimitReached) else self.begun & {run.name for run in starting}
            )
            if not again:
                raise
            self.not_before = time.monotonic() + PAUSE
            self.warn(f"{error}; the launcher tries again")

    @property
    def free(self) -> int:
        """How many runs may be started now."""
        if self.local:
            sets = max(1, len(self.gpus) // self.settings.ranks) if self.gpus else self.all
            return min(max(1, self.settings.parallel), sets) - len(self.jobs)
        if self.settings.parallel and self.most < self.all:  # Slurm bounds the runs of one array, not of several
            return self.settings.parallel - len(self.jobs)
        return len(self.waiting)

    def start(self, runs: Sequence[Run]) -> None:
        """Submit the runs, or as many of them as the site's limits allow; the others stay among the waiting ones."""
        for run in runs if self.local else ():
            self.submit([run])
        if self.local or not runs:
            return
        runs = runs[: self.most]
        try:
            self.submit(runs)
        except LimitReached:
            if len(runs) == 1:
                raise
            self.most = len(runs) // 2
            self.start(runs)

    def submit(self, runs: Sequence[Run]) -> None:
        taken = {gpu for started in self.jobs.values() for gpu in started.gpus}
        gpus = [gpu for gpu in self.gpus if gpu not in taken][: self.settings.ranks]
        work = [TrainJob(run.directory.path, self.settings.threads) for run in runs]
        for run, job in zip(runs, submit(self.settings, self.name, work, self.logs, gpus), strict=True):
            self.waiting.remove(run)
            self.begun.add(run.name)
            self.jobs[run.name] = Started(run, job, last_line(run.directory), gpus)
            write_json(run.directory.job, {"kind": self.settings.resolved, "id": job.job_id})

    def warn(self, sentence: str) -> None:
        """Print a warning once."""
        if sentence not in self.printed:
            print(f"warning: {sentence}", file=sys.stderr)
            self.printed.add(sentence)

    def alive(self, run: Run) -> Started | None:
        """The job of a run that an earlier launcher submitted and that is still queued or running, or None."""
        if not run.directory.job.is_file():
            return None
        import submitit

        try:
            job = json.loads(read_bytes(run.directory.job))
            known = job["kind"] == self.settings.resolved and re.fullmatch(r"[\d_]+", job["id"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):  # damaged: the run's lock shows whether it is trained
            return None
        if not known:
            return None
        if self.local:
            process = controller.running(int(job["id"]), self.logs)
            if process is None:
                return None
            local = submitit.LocalJob(self.logs / "%j", job["id"], range(self.settings.ranks), process)
            return Started(run, local, None, controller.gpus_of(process.pid))
        if not squeue.state(job["id"]):
            return None
        tasks = range(self.settings.nodes * self.settings.ranks)
        return Started(run, submitit.SlurmJob(self.logs / "%j", job["id"], tasks), None)

    def over(self, started: Started) -> bool:
        """Whether a job has ended for good."""
        if self.local:
            self.cancel_incomplete(started)
            return bool(started.job.done())
        if squeue.state(started.job.job_id):
            started.incomplete_since = None
            return False
        return incomplete_for(started, GRACE) or started.job.paths.result_pickle.is_file()

    def cancel_incomplete(self, started: Started) -> None:
        """Cancel a job on this machine some of whose ranks have ended, as srun's --kill-on-bad-exit does: submitit would wait for a hung rank
        until the time limit."""
        left = len(controller.ranks_of(int(started.job.job_id)))
        if not 0 < left < self.settings.ranks:
            started.incomplete_since = None
        elif incomplete_for(started, GRACE):
            started.incomplete_since = float("inf")  # only once: a second interrupt would stop submitit from killing the ranks
            started.job.cancel()

    def settle(self, started: Started) -> None:
        """After a run's job has ended: nothing, the last line of its journal, or another job."""
        run, job = started.run, started.job
        last = last_line(run.directory)
        state = "" if self.local else squeue.state(job.job_id, ended=True)
        outcome = outcome_of(None if last == started.before else last, state, last_error(job))
        if outcome.status == "retry":
            outcome = self.retry(run, outcome.reason, job) if outcome.died else self.resume(run, outcome.reason)
        if outcome.missing:
            write_end(run.directory.journal, outcome.status, outcome.reason)

    def retry(self, run: Run, reason: str, job: Any) -> Outcome:
        """Put the run back among the waiting ones, unless it has had all its `cluster.retries`."""
        tries = self.settings.retries
        if self.tries[run.name] == tries:
            again = f", after {tries} more job{'s' * (tries > 1)}" if tries else ""
            return Outcome("failed", f"{reason}{again} (see {job.paths.stderr})", missing=True)
        self.tries[run.name] += 1
        self.waiting.append(run)
        message = f"{reason}; submitted again, {self.tries[run.name]} of {tries} times (see {job.paths.stderr})"
        print(f"{run.name}: {message}", file=sys.stderr)
        return Outcome("stopped", message, missing=True)

    def resume(self, run: Run, reason: str) -> Outcome:
        """Put a run that a time limit or a pre-emption has stopped back among the waiting ones, as often as `cluster.requeues` allows."""
        self.limits[run.name] += 1
        if self.limits[run.name] > self.settings.requeues:
            return Outcome("failed", LIMIT, missing=True)
        self.waiting.append(run)
        print(f"{run.name}: {reason}; its job could not requeue itself, and the launcher submits it again", file=sys.stderr)
        return Outcome("stopped")

    def cancel(self) -> None:
        """Stop the jobs on this machine and wait for their end; Slurm's jobs continue."""
        if not self.local:
            return
        for started in self.jobs.values():
            started.job.cancel()
        deadline = time.monotonic() + 30
        while any(not s.job.done(force_check=True) for s in self.jobs.values()) and time.monotonic() < deadline:
            time.sleep(0.2)


def incomplete_for(started: Started, seconds: float) -> bool:
    """Whether a job has been incomplete for so long, counted from the first call."""
    if started.incomplete_since is None:
        started.incomplete_since = time.monotonic()
    return time.monotonic() - started.incomplete_since > seconds


def trained_elsewhere(run: Run) -> bool:
    """Whether another process holds the run's lock: ranks that outlived their job, or a training by hand. The launcher waits for it."""
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

"""Slurm's state of a job. From squeue, not sacct: squeue needs no accounting, and submitit, which asks sacct, takes a node's failure as the end
of a job that is queued again."""

from __future__ import annotations

import subprocess


def state(job_id: str, ended: bool = False) -> str:
    """`PENDING`, `RUNNING`, `COMPLETING` and so on; with `ended` also `CANCELLED`, `NODE_FAIL`, `TIMEOUT` … for some minutes after the end.

    Empty where Slurm no longer knows the job, `UNKNOWN` where it does not answer.
    """
    command = ["squeue", "--noheader", f"--jobs={job_id}", "--format=%T", *(["--states=all"] if ended else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return done.stdout.split("\n")[0].strip()
    return "" if "Invalid job id" in done.stderr else "UNKNOWN"

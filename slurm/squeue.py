"""What Slurm says of a job. squeue is asked, not sacct: it needs no accounting, and submitit, which asks sacct, takes a node's failure as the
end of a job that is queued again."""

from __future__ import annotations

import subprocess


def state(job_id: str, ended: bool = False) -> str:
    """`PENDING`, `RUNNING`, `COMPLETING` and so on; with `ended` also `CANCELLED`, `NODE_FAIL`, `TIMEOUT` … for some minutes after the end.

    Empty where Slurm does not know the job any more, `UNKNOWN` where it does not answer.
    """
    command = ["squeue", "--noheader", f"--jobs={job_id}", "--format=%T", *(["--states=all"] if ended else [])]
    asked = subprocess.run(command, capture_output=True, text=True)
    if asked.returncode == 0:
        return asked.stdout.split("\n")[0].strip()
    return "" if "Invalid job id" in asked.stderr else "UNKNOWN"

"""Training on a real Slurm, two nodes with two ranks each, disturbed in mid-run: each ends in the weights of the undisturbed run, as one MLflow
run without a gap or a double point in its curves."""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch

Start = Callable[..., Any]
STEP = 45  # in the third epoch of the second stage


@pytest.fixture(scope="module")
def undisturbed(start: Start) -> dict[str, Any]:
    launched = start()
    assert launched.ends() == 0, launched.said
    assert launched.starts == [0]
    assert launched.journal[0]["world_size"] == 4
    return {"weights": launched.weights, "curves": launched.curves}


def ends_the_same(launched: Any, undisturbed: dict[str, Any]) -> None:
    assert launched.ends() == 0, launched.said
    assert launched.starts[-1] > 0, "nothing disturbed it"
    weights = launched.weights
    different = {
        n: float((weights[n] - w).abs().max()) for n, w in undisturbed["weights"].items() if not torch.equal(weights[n], w)
    }
    assert different == {}
    assert launched.curves == undisturbed["curves"]


def test_requeued_by_usr2_it_goes_on_at_the_step_where_it_was(lab: Any, start: Start, undisturbed: dict[str, Any]) -> None:
    launched = start()
    launched.until_step(STEP)
    lab.slurm("scancel", "--signal=USR2", launched.job)
    ends_the_same(launched, undisturbed)
    assert launched.starts[-1] >= STEP
    assert "submitted again" not in launched.said


def test_requeued_by_an_operator(lab: Any, start: Start, undisturbed: dict[str, Any]) -> None:
    """SIGTERM, then SIGKILL after Slurm's KillWait."""
    launched = start()
    launched.until_step(STEP)
    lab.slurm("scontrol", "requeue", launched.job)
    ends_the_same(launched, undisturbed)
    assert launched.starts[-1] >= STEP
    assert "submitted again" not in launched.said


def test_out_of_time(lab: Any, start: Start, undisturbed: dict[str, Any]) -> None:
    """The run needs less than a minute: so one rank is stopped, and all wait for it, until Slurm has warned of the limit."""
    launched = start("cluster.minutes=1", "cluster.warning=5", "train.limits.silence=120", "train.limits.step=120")
    launched.until_step(STEP)
    last = launched.rank(3)
    os.kill(last, signal.SIGSTOP)
    launched.until("warned of the time limit", lambda: launched.sent(last, signal.SIGUSR2), 60)
    with suppress(ProcessLookupError):
        os.kill(last, signal.SIGCONT)
    ends_the_same(launched, undisturbed)
    assert launched.starts[-1] >= STEP
    assert "submitted again" not in launched.said


@pytest.mark.parametrize("site", ["SIGTERM", "USR2"])
def test_preempted_by_a_job_of_higher_priority(lab: Any, start: Start, undisturbed: dict[str, Any], site: str) -> None:
    """As a site that has set nothing else does it, SIGTERM and a time of grace, and as one that sends the signal which the job asks for."""
    if site == "USR2":
        lab.configure("SlurmctldParameters=preempt_send_user_signal")
    launched = start("cluster.partition=low")
    launched.until_step(STEP)
    urgent = lab.slurm(
        "sbatch", "--parsable", "--partition=high", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=sleep 3"
    )
    ends_the_same(launched, undisturbed)
    assert launched.starts[-1] >= STEP
    assert "submitted again" not in launched.said
    assert lab.slurm("sacct", "-X", "-n", "-P", "-o", "State", "-j", urgent) == "COMPLETED"


@pytest.mark.parametrize("rank", [0, 3])
def test_a_node_loses_power(lab: Any, start: Start, undisturbed: dict[str, Any], rank: int) -> None:
    """The node of rank 0, which also runs the batch script, or the other one. No rank can write anything: work since the last checkpoint is
    lost and done again."""
    launched = start()
    launched.until_step(STEP)
    nodes = lab.slurm("scontrol", "show", "hostnames", lab.slurm("squeue", "-h", "-o", "%N", "-j", launched.job)).split()
    lost = nodes[0 if rank == 0 else 1]
    lab.script("kill", lost)
    try:
        ends_the_same(launched, undisturbed)
    finally:
        lab.script("start", lost)
        lab.slurm("scontrol", "update", f"nodename={lost}", "state=resume")


def test_a_cancelled_job_stays_away_until_the_launcher_is_asked_again(
    lab: Any, start: Start, undisturbed: dict[str, Any]
) -> None:
    launched = start()
    launched.until_step(STEP)
    lab.slurm("scancel", launched.job)
    assert launched.ends() == 1
    assert "its job was cancelled" in launched.said
    assert lab.slurm("squeue", "-h") == ""
    launched.launch()
    ends_the_same(launched, undisturbed)
    assert launched.starts[-1] >= STEP

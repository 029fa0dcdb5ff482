"""The fault table's command: what is wrong with its settings is said before anything starts. The faults themselves take minutes; each one has
a test of its own in test_launch.py, test_dispatch.py and cluster/."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from slurm.bench.faults import LOCAL, Settings, on_slurm

Runner = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["store=x.zarr", "only=[rank_kiled]"], "only=rank_kiled is not a fault: choose from rank_killed, rank_hung"),
        (["store=x.zarr", "cluster=slurm", "only=[rank_hung]"], "choose from signalled, requeued, out_of_time, cancelled"),
        (["store=x.zarr", "partitions=[low]"], "partitions=['low'] must be two"),
        (["store=x.zarr", "node_down=kill"], "node_down and node_up must be given together"),
        (["only=[rank_killed]"], "setting store is missing"),
        (["store=x.zarr", "only=[rank_killed]"], "the launcher ended with 2 in place of 0; its last line: cohort "),
    ],
)
def test_bad_settings_are_one_sentence(words: list[str], sentence: str, run: Runner, tmp_path: Path) -> None:
    done = run("slurm.bench.faults", *words, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert sentence in done.stderr


def test_every_fault_says_how_it_is_done() -> None:
    everything = on_slurm(Settings("x.zarr", "slurm", partitions=["low", "high"], node_down="kill", node_up="start"))
    assert {"out_of_time", "preempted", "first_node_lost", "last_node_lost"} <= everything.keys()
    assert all(fault.how for fault in (*LOCAL.values(), *everything.values()))


def test_the_package_and_the_command_say_how_to_use_them(run: Runner) -> None:
    import slurm.bench

    assert "python -m slurm.bench.faults store=" in (slurm.bench.__doc__ or "")
    done = run("slurm.bench.faults", "--help")
    assert done.returncode == 0, done.stderr
    for words in ("python -m slurm.bench.faults store=", "node_down=", "a small cohort"):
        assert words in done.stdout

"""The journal says where the time goes, and its times add up."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from distsynth.tracking.journal import read
from distsynth.training.timing import system

ENV = {**os.environ, "OMP_NUM_THREADS": "1"}
PARTS = ("data", "compute", "communication", "checkpoint")


def train(run: Path, store: Path, *words: str, ranks: int = 1) -> list[dict[str, float]]:
    """The values of every line of losses in the journal of a run of one stage."""
    start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    command = [sys.executable, *start, "-m", "distsynth.train", f"run={run}", f"data.store={store}", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=ENV, timeout=300)
    assert done.returncode == 0, done.stderr
    lines, _ = read(run / "journal.jsonl")
    return [line["values"] for line in lines if "joint/lr" in line.get("values", {})]


@pytest.fixture(scope="module")
def words(tiny: tuple[str, ...]) -> tuple[str, ...]:
    return (
        *tiny,
        "variant=siso",
        "method.segmentor.epochs=0",
        "train.steps_per_epoch=6",
        "train.log_every=2",
        "evaluate.baselines=false",
    )


def test_every_line_shows_where_the_time_went(store: Path, words: tuple[str, ...], tmp_path: Path) -> None:
    """Two ranks: the parts add up to the step, slices per second to the batch over it, and ranks do wait for each other."""
    lines = train(tmp_path / "run", store, *words, "train.checkpoint_minutes=0", ranks=2)
    assert len(lines) == 6  # 2 epochs of 6 updates, every other one
    for values in lines:
        parts = [values[f"time/{part}_s"] for part in PARTS]
        assert all(part >= 0 for part in parts)
        assert sum(parts) == pytest.approx(values["time/step_s"], rel=1e-3)
        assert values["time/slices_per_s"] == pytest.approx(4 / values["time/step_s"], rel=0.2)
        assert values["time/communication_s"] > 0
        assert 0.05 < values["system/memory_gb"] < 8
        assert values["system/cpu_percent"] > 0
        assert {f"joint/grad_norm/{name}" for name in ("critic", "generator", "segmentor")} <= values.keys()
    assert lines[1]["time/checkpoint_s"] > 0
    assert not (tmp_path / "run" / "profile").exists()


def test_without_timing_the_journal_has_only_the_losses_and_the_same_ones(
    store: Path, words: tuple[str, ...], tmp_path: Path
) -> None:
    """With train.profile there is a trace of three updates."""
    plain = train(tmp_path / "plain", store, *words, "train.timing=false")
    timed = train(tmp_path / "timed", store, *words, "train.profile=true")
    assert not [name for values in plain for name in values if name.startswith(("time/", "system/")) or "grad_norm" in name]
    assert plain == [{name: value for name, value in values.items() if name in plain[0]} for values in timed]
    trace = json.loads(gzip.decompress((tmp_path / "timed" / "profile" / "updates.json.gz").read_bytes()))
    names = [event["name"] for event in trace["traceEvents"] if "name" in event]
    assert len({name for name in names if name.startswith("ProfilerStep")}) == 3
    assert "aten::convolution" in names


LATE = """
import sys, time, torch
from distsynth.ranks.world import world
from distsynth.training.timing import Timing
from distsynth.settings import LimitSettings
from torch.nn.parallel import DistributedDataParallel

class Slow(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x): return x.clone()
    @staticmethod
    def backward(ctx, g):
        time.sleep(0.3 if int(sys.argv[1]) == ranks.rank else 0)
        return g

with world("cpu", LimitSettings()) as ranks:
    timing = Timing(ranks, True)
    network = DistributedDataParallel(torch.nn.Linear(4, 4))
    timing.watch(network)
    ranks.barrier()
    timing.begin()
    for _ in range(3):
        Slow.apply(network(torch.ones(2, 4, requires_grad=True))).sum().backward()
        timing.backward_ended()
    timing.updates = 3
    mine = sum(end - sent for sent, end in timing.waits) / 3
    everyone = ranks.gather(mine)
    mean = timing.values()["time/communication_s"]
    if ranks.leads:
        print(everyone, mean)
"""


def test_communication_is_the_wait_for_the_slower_rank(tmp_path: Path, run: Any) -> None:
    """One rank's backward pass takes 0.3 s longer: the other waits that long, the slow one hardly at all."""
    (tmp_path / "late.py").write_text(LATE)
    done = run("torch.distributed.run", "--standalone", "--nproc-per-node=2", str(tmp_path / "late.py"), "1")
    assert done.returncode == 0, done.stderr
    waited = [float(part) for part in done.stdout.replace("[", "").replace("]", "").replace(",", "").split()]
    quick, slow, mean = waited
    assert 0.25 < quick < 0.6
    assert slow < 0.15
    assert mean == pytest.approx((quick + slow) / 2, rel=1e-3)


def test_the_gradient_norm_is_that_of_all_parameters() -> None:
    from distsynth.training.engine import gradient_norm

    network = torch.nn.Linear(2, 1)
    (network(torch.tensor([[3.0, 4.0]])) * 2).sum().backward()
    assert float(gradient_norm(network)) == pytest.approx((6.0**2 + 8.0**2 + 2.0**2) ** 0.5)


def test_a_gpu_whose_utilisation_is_unknown_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """NVML's errors have classes of their own."""

    def unsupported(device: torch.device) -> int:
        raise Exception("NVMLError_NotSupported")

    monkeypatch.setattr(torch.cuda, "utilization", unsupported)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 2e9)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    values = system(torch.device("cuda"))
    assert values["system/gpu_memory_gb"] == 2
    assert "system/gpu_percent" not in values

"""Compiled losses are the same losses, and a machine without a compiler trains without."""

import os
import re
import subprocess
import sys
from pathlib import Path

import torch

UPDATES = """
import sys, torch
from dataclasses import replace
from distsynth.bench.synthetic import method_of, noise
from distsynth.config import compose
from distsynth.training.distributed import World
from distsynth.training.engine import Engine

torch.set_num_threads(1)
config = compose(sys.argv[1:])
weights = []
for compiling in (False, True):
    config.train.compile = compiling
    method, size = method_of(config, 32)
    method.double()
    stage = replace(method.stages(config.train)[-1], objectives=("critic",))
    engine = Engine(method, stage, config.train, World(0, 1, 0, torch.device("cpu")))
    batch = noise(config.variant, 2, size)
    batch = replace(batch, **{name: getattr(batch, name).double() for name in ("sources", "targets", "brain", "tumour")})
    engine.warm_up(batch)
    for _ in range(5):
        engine.minimise("critic", batch)
    weights.append(method.state_dict())
import torch._dynamo
graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
print(graphs, max(float((weights[0][name] - weights[1][name]).abs().max()) for name in weights[0]))
"""
SMALL = ("variant=siso", "method=tcmgan_small", "method.generator.width=2", "method.generator.depth=2", "method.critic.width=2",
         "method.critic.depth=2", "method.segmentor.width=2")  # fmt: skip


def test_the_compiled_critics_loss_gives_the_same_weights(tmp_path: Path) -> None:
    """Five updates of the critic in float64: generator, critic, and the penalty's second derivative."""
    (tmp_path / "updates.py").write_text(UPDATES)
    done = subprocess.run([sys.executable, str(tmp_path / "updates.py"), *SMALL], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stdout
    graphs, difference = done.stdout.split()
    assert int(graphs) >= 3  # it was compiled
    assert float(difference) < 1e-9


def test_without_a_compiler_one_sentence_says_so_and_the_run_is_the_plain_one(
    store: Path, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    weights = []
    for name, words in (("plain", []), ("asked", ["train.compile=true"])):
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "CXX": "/nowhere/g++",
            "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"),
        }
        command = [sys.executable, "-m", "distsynth.train", f"run={tmp_path / name}", f"data.store={store}", *tiny, *words]
        only = ["variant=siso", "method.segmentor.epochs=0", "train.epochs=1", "evaluate.floors=false"]
        done = subprocess.run([*command, *only], capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, done.stderr
        warnings = re.findall(r"^warning: train.compile.*$", done.stdout, re.M)
        assert len(warnings) == len(words), done.stdout
        newest = sorted((tmp_path / name / "checkpoints").glob("step-*.pt"))[-1]
        weights.append(torch.load(newest, weights_only=True)["method"])
    assert "Traceback" not in done.stdout + done.stderr
    assert "/nowhere/g++" in warnings[0] or "compiler" in warnings[0].lower()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])

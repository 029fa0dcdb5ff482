"""Compiled losses equal uncompiled ones, and a machine without a compiler trains uncompiled."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distsynth.methods.registry import names

UPDATES = """
import sys, torch
from dataclasses import replace
from omegaconf import OmegaConf
from distsynth.bench.synthetic import method_of, noise, shipped
from distsynth.config import typed
from distsynth.networks import keyed
from distsynth.ranks.world import World
from distsynth.training.engine import Engine
from distsynth.training.rehearsal import warm_up

torch.set_num_threads(1)
# Noise is float32 in any run, and a compiled logarithm or cosine rounds its last bit otherwise: all else is compared.
keyed.normal = torch.compiler.disable(keyed.normal)
tree = OmegaConf.structured(shipped(f"{sys.argv[1]}_small"))

def narrow(node):
    for name in node:
        if name in ("width", "blocks"):
            node[name] = min(node[name], 4 if name == "width" else 1)
        elif OmegaConf.is_dict(node[name]):
            narrow(node[name])

narrow(tree.method)
config, weights = typed(tree), []
for compiling in (False, True):
    config.train.compile = compiling
    method, size = method_of(config, 32)
    method.double()
    stage = method.stages(config.train)[-1]
    engine = Engine(method, stage, config.train, World(0, 1, 0, torch.device("cpu")))
    batch = noise(config.variant, 2, size, kind=method)
    batch = batch.map(lambda tensor: tensor.double(), batch.keys)
    warm_up(engine, batch)
    for update in range(5):
        stage.update(replace(batch, update=update), engine)
    weights.append(method.state_dict())
import torch._dynamo
graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
names = [name for name in weights[0] if not name.endswith("_extra_state")]
print(graphs, len(engine.losses), max(float((weights[0][name] - weights[1][name]).abs().max()) for name in names))
"""
full = pytest.mark.full


@pytest.mark.parametrize("method", ["unet", *(pytest.param(name, marks=full) for name in names() if name != "unet")])
def test_a_compiled_method_gets_the_same_weights(method: str, tmp_path: Path) -> None:
    """Five updates in float64, of all networks, the penalties' second derivatives included."""
    (tmp_path / "updates.py").write_text(UPDATES)
    done = subprocess.run([sys.executable, str(tmp_path / "updates.py"), method], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stdout
    graphs, losses, difference = done.stdout.split()
    print(f"{method}: {graphs} graphs, {difference}")
    assert int(graphs) >= int(losses)  # all were compiled
    assert float(difference) < 1e-9


def test_without_a_compiler_one_sentence_is_printed_and_the_run_is_uncompiled(
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
        only = ["variant=siso", "method.segmentor.epochs=0", "train.epochs=1", "evaluate.baselines=false"]
        done = subprocess.run([*command, *only], capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, done.stderr
        warnings = re.findall(r"^warning: train.compile.*$", done.stdout, re.M)
        assert len(warnings) == len(words), done.stdout
        newest = sorted((tmp_path / name / "checkpoints").glob("step-*.pt"))[-1]
        weights.append(torch.load(newest, weights_only=True)["method"])
    assert "Traceback" not in done.stdout + done.stderr
    assert "/nowhere/g++" in warnings[0] or "compiler" in warnings[0].lower()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])

"""train.ema: the running average of the weights, compared with the recursion written out, and what it may change in a run."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from workbench import CPU, count, engine_for, paired

from distsynth.config import compose
from distsynth.methods import registry
from distsynth.training import memory
from distsynth.training.ema import EMA
from distsynth.training.engine import Engine
from preprocess.shared.errors import SettingError

UPDATES = 30


@pytest.mark.parametrize("ema", [0.5, 0.9])
def test_the_average_is_the_recursion_written_out(ema: float) -> None:
    config = compose(["method=pix2pix_small", f"train.ema={ema}"])
    method = registry.method("pix2pix")(config.method, config.variant, (32, 32), 0).double()
    engine, batch = engine_for(method, config.train), paired(method)
    wanted = {name: p.detach().clone() for name, p in method.named_parameters()}
    for t in range(1, UPDATES + 1):
        engine.update(replace(batch, update=t - 1))
        d = min(ema, t / (9 + t))
        wanted = {name: d * wanted[name] + (1 - d) * p.detach() for name, p in method.named_parameters()}
    assert wanted.keys() == engine.ema.weights.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(engine.ema.weights[name], value, rtol=1e-10, atol=1e-12)
    trained = {name: p.detach().clone() for name, p in method.named_parameters()}
    with engine.ema.in_place():
        for name, parameter in method.named_parameters():
            torch.testing.assert_close(parameter.detach(), wanted[name], rtol=1e-10, atol=1e-12)
    assert all(torch.equal(p, trained[name]) for name, p in method.named_parameters())


def test_a_stage_before_the_last_is_not_averaged() -> None:
    config = compose(["method=tcmgan_small", "train.ema=0.9"])
    method = registry.method("tcmgan")(config.method, config.variant, (64, 64), 0)
    first, last = (Engine(method, stage, config.train, CPU) for stage in method.stages(config.train))
    assert not first.ema.weights
    assert len(last.ema.weights) == len(list(method.parameters()))


def test_the_memory_plan_includes_the_average() -> None:
    plans = []
    for ema in (0, 0.9):
        config = compose(["method=unet_small", f"train.ema={ema}"])
        method = registry.method("unet")(config.method, config.variant, (32, 32), 0)
        plans.append(memory.plan(engine_for(method.double(), config.train), paired(method)))
    assert plans[1].parameters - plans[0].parameters == 8 * count(method)  # float64


def test_averages_missing_from_a_checkpoint_start_from_the_weights() -> None:
    layer = torch.nn.Linear(2, 2)
    average = EMA(layer, 0.9)
    torch.nn.init.constant_(layer.weight, 3)
    average.load({"bias": torch.ones(2)})
    assert (average.weights["weight"] == 3).all()
    assert (average.weights["bias"] == 1).all()


@pytest.mark.parametrize("ema", [-0.1, 1, 1.5])
def test_an_invalid_decay_is_refused(ema: float) -> None:
    with pytest.raises(SettingError, match=r"train\.ema=.* must be at least 0 and below 1"):
        compose([f"train.ema={ema}"])


def test_the_average_changes_what_is_saved_and_scored_but_not_the_training(
    store: Path, tiny: tuple[str, ...], tmp_path: Path, run: Callable[..., Any]
) -> None:
    """It is also what the last validation scored: best.pt holds the average if that validation was the best so far, which here it always
    is."""
    kept = {}
    for ema in ("0", "0.8"):
        words = (
            *tiny,
            "train.epochs=1",
            f"train.ema={ema}",
            "evaluate.figures=0",
            f"data.store={store}",
            f"run={tmp_path / ema}",
        )
        done = run("distsynth.train", *words)
        assert done.returncode == 0, done.stderr
        checkpoints = tmp_path / ema / "checkpoints"
        newest, best = (
            torch.load(path, weights_only=True) for path in (max(checkpoints.glob("step-*.pt")), checkpoints / "best.pt")
        )
        kept[ema] = newest["method"], newest["average"], best["method"]
    (plain, none, plainly), (trained, average, averaged) = kept["0"], kept["0.8"]
    assert not none
    assert all(torch.equal(plain[name], value) and torch.equal(plainly[name], value) for name, value in trained.items())
    assert all(torch.equal(averaged[name], average.get(name, value)) for name, value in trained.items())
    assert any(not torch.equal(averaged[name], value) for name, value in trained.items())

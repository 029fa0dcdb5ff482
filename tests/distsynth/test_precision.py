"""Precision follows the GPU's generation; layout and half precision leave the maths what it was."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from workbench import CPU

from distsynth.bench.synthetic import method_of, noise
from distsynth.config import compose
from distsynth.data.intensity_map import IntensityMap
from distsynth.data.slices import SliceFeed
from distsynth.ranks.world import World
from distsynth.training.engine import Engine, unwrapped
from distsynth.training.model import build
from distsynth.training.precision import allow_tf32, choose, lay_out, resolve
from preprocess.cohort import Cohort
from preprocess.shared.errors import SettingError

V100, T4, A100, H100, PASCAL = (7, 0), (7, 5), (8, 0), (9, 0), (6, 1)


def test_auto_takes_what_the_generation_is_good_at() -> None:
    assert [choose("auto", gpu) for gpu in (None, PASCAL, V100, T4, A100, H100)] == [
        "fp32",
        "fp32",
        "fp16",
        "fp16",
        "bf16",
        "bf16",
    ]


@pytest.mark.parametrize(("asked", "gpus"), [("fp32", (None, PASCAL, V100, H100)), ("fp16", (V100, T4, H100)), ("bf16", (None, A100)),
                                             ("tf32", (A100, H100))])  # fmt: skip
def test_what_is_asked_for_is_given(asked: str, gpus: tuple[tuple[int, int] | None, ...]) -> None:
    assert [choose(asked, gpu) for gpu in gpus] == [asked] * len(gpus)  # type: ignore[arg-type]


@pytest.mark.parametrize(("asked", "gpu", "sentence"), [
    ("bf16", T4, "train.precision=bf16 needs a GPU of compute capability 8.0 (Ampere) or later and this one has 7.5: use fp16"),
    ("tf32", V100, "this one has 7.0: use fp16"),
    ("bf16", PASCAL, "this one has 6.1: use fp32"),
    ("fp16", None, "train.precision=fp16 needs a GPU"),
    ("tf32", None, "train.precision=tf32 needs a GPU"),
])  # fmt: skip
def test_what_the_gpu_cannot_do_is_refused_saying_what_would_do(asked: str, gpu: tuple[int, int] | None, sentence: str) -> None:
    with pytest.raises(SettingError) as refused:
        choose(asked, gpu)  # type: ignore[arg-type]
    assert sentence in str(refused.value)


def test_fp32_is_not_tf32() -> None:
    """torch's own default lets cuDNN take TF32 for float32 convolutions."""
    assert resolve("auto", torch.device("cpu")) is torch.float32
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize("allowed", [True, False])
def test_torch_reads_tf32_by_its_new_and_its_old_names(allowed: bool) -> None:
    """By both, or torch.compile would end on some of its versions."""
    try:
        allow_tf32(allowed)
        assert torch.get_float32_matmul_precision() == ("high" if allowed else "highest")
        convolutions, products = torch.backends.cudnn.conv, torch.backends.cuda.matmul  # type: ignore[attr-defined]
        assert (convolutions.fp32_precision == "tf32", products.fp32_precision == "tf32") == (allowed, allowed)
        assert (torch.backends.cudnn.allow_tf32, products.allow_tf32) == (allowed, allowed)
    finally:
        allow_tf32(False)


Updated = Callable[..., tuple[dict[str, torch.Tensor], dict[str, float]]]


@pytest.fixture(scope="module")
def updated(store: Path, tiny: tuple[str, ...]) -> Updated:
    """Three updates of the last stage on one rank: the weights, and the mean losses."""

    def update(*words: str, double: bool = False) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
        config = compose([f"data.store={store}", *tiny, *words])
        cohort = Cohort.open(store)
        model = build(config, cohort, IntensityMap.of(cohort, cohort.split("gan")))
        model.method.to(torch.float64 if double else torch.float32)
        lay_out(model.method, config.train.channels_last)
        stage = model.method.stages(config.train)[-1]
        engine = Engine(model.method, stage, config.train, World(0, 1, 0, torch.device("cpu")))
        feed = SliceFeed(cohort, cohort.split("gan"), config.variant, model.mapping, config.data, model.size, engine.world.share)
        for batch in feed.batches(stage.name, 0, 0, stage.batch, range(3), 0, 1):
            images = {name: getattr(batch, name).double() for name in ("sources", "targets", "brain", "tumour")} if double else {}
            stage.update(replace(batch, **images), engine)
            engine.running_losses.updates += 1
        return model.method.state_dict(), engine.losses_since_last(3)

    return update


def test_under_tf32_the_penalty_and_its_backward_pass_take_all_bits(tiny: tuple[str, ...]) -> None:
    config = compose([*tiny, "data.store=none"])
    method, size = method_of(config, 32)
    stage = method.stages(config.train)[-1]
    engine = Engine(method, stage, config.train, World(0, 1, 0, torch.device("cpu")))
    seen: dict[str, set[bool]] = {name: set() for name in engine.losses}

    def look(name: str) -> None:
        seen[name].add(torch.backends.cudnn.allow_tf32)

    for name, objective in engine.objectives.items():
        loss = unwrapped(engine.losses[name])
        loss.run = lambda batch, name=name, run=loss.run: (look(name), run(batch))[1]
        next(objective.network.parameters()).register_hook(lambda _, name=name: look(name))
    try:
        allow_tf32(True)  # as on an Ampere GPU that was asked for it
        engine.update(noise(config.variant, 2, size))
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        allow_tf32(False)
    assert seen == {"critic": {False}, "generator": {True}, "segmentor": {True}}


def test_channels_last_is_only_a_layout(updated: Updated) -> None:
    first, _ = updated(double=True)
    last, _ = updated("train.channels_last=true", double=True)
    assert last["critic.trunk.0.weight"].is_contiguous(memory_format=torch.channels_last)
    assert not first["critic.trunk.0.weight"].is_contiguous(memory_format=torch.channels_last)
    assert max(float((first[name] - last[name]).abs().max()) for name in first) < 1e-9


def test_bf16_trains_with_nearly_the_same_losses_and_a_float32_penalty(updated: Updated, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    monkeypatch.setattr("distsynth.methods.losses.gradient_penalty", spy := penalty_spy(seen))
    assert spy is not None
    (_, full), (weights, half) = updated(), updated("train.precision=bf16")
    assert seen == {torch.float32}
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert full != half
    assert half == pytest.approx(full, rel=0.05, abs=0.05)


def penalty_spy(seen: set[torch.dtype]) -> Callable[..., torch.Tensor]:
    """The gradient penalty, noting the type of what the critic says inside it."""
    from distsynth.methods.losses import gradient_penalty

    def spy(critic: Callable[[torch.Tensor], torch.Tensor], *rest: torch.Tensor) -> torch.Tensor:
        def noted(image: torch.Tensor) -> torch.Tensor:
            said = critic(image)
            seen.add(said.dtype)
            return said

        return gradient_penalty(noted, *rest)

    return spy


class Mixed(World):
    """Two ranks on GPUs of two generations."""

    def gather(self, value: Any) -> list[Any]:
        return [value, torch.bfloat16]


def test_ranks_whose_gpus_take_different_arithmetic_are_refused() -> None:
    config = compose(["method=unet_small"])
    method, _ = method_of(config, 32)
    with pytest.raises(SettingError, match=r"GPUs would take bfloat16 and float32: set train\.precision"):
        Engine(method, method.stages(config.train)[-1], config.train, Mixed(0, 2, 0, torch.device("cpu")))


def test_a_run_goes_on_on_a_gpu_that_needs_a_scaler_where_the_last_had_none_and_back() -> None:
    config = compose(["method=pix2pix_small"])
    method, size = method_of(config, 32)
    without, scaled = (Engine(method, method.stages(config.train)[-1], config.train, CPU) for _ in range(2))
    scaled.scalers = {name: torch.amp.GradScaler("cpu", init_scale=256.0) for name in scaled.scalers}
    without.stage.update(noise(config.variant, 2, size), without)
    scaled.load_state_dict(without.state_dict())
    assert all(scaler.get_scale() == 256 for scaler in scaled.scalers.values())
    scaled.stage.update(noise(config.variant, 2, size), scaled)
    without.load_state_dict(scaled.state_dict())
    assert not any(scaler.is_enabled() for scaler in without.scalers.values())

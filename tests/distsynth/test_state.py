"""All of a method's state survives a stop: averages, a pool of images, the phase of its critic, and its random draws."""

import signal
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distsynth import preflight
from distsynth.config import Config
from distsynth.data.batch import Batch
from distsynth.methods import registry
from distsynth.methods.contract import Method, Objective, Stage, Step, Terms
from distsynth.modalities import Variant
from distsynth.ranks.preemption import Stopped, StopRequest
from distsynth.ranks.world import World
from distsynth.run_directory import RunDirectory
from distsynth.settings import DataSettings, TrainSettings
from distsynth.tracking.journal import read
from distsynth.training import checkpoint
from distsynth.training.trainer import Trainer
from preprocess.shared.settings import setting


@dataclass
class RememberingSettings:
    name: str = setting("remembering", "the method")


class Remembering(Method):
    """Dropout, an exponential moving average, a pool of past images, and a generator that moves after every third critic."""

    Settings = RememberingSettings

    def __init__(self, settings: Any, variant: Variant, size: tuple[int, int], seed: int) -> None:
        super().__init__(settings, variant, size, seed)
        torch.manual_seed(seed)
        self.generator = nn.Sequential(nn.Conv2d(len(variant.inputs), len(variant.outputs), 3, padding=1), nn.Dropout(0.5))
        self.critic = nn.Conv2d(len(variant.outputs), 1, 3)
        self.ema = deepcopy(self.generator).requires_grad_(False)
        self.register_buffer("phase", torch.zeros((), dtype=torch.int64))
        self.pool: list[Tensor] = []

    @classmethod
    def stride(cls, settings: Any, size: tuple[int, int]) -> int:
        return 1

    def get_extra_state(self) -> dict[str, Any]:
        return {"pool": self.pool}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.pool = list(state["pool"])

    def objectives(self) -> dict[str, Objective]:
        return {"generator": Objective(self.generator, self.move), "critic": Objective(self.critic, self.criticise)}

    def stages(self, train: TrainSettings) -> list[Stage]:
        main = (train.epochs, train.batch, train.lr, train.schedule)
        return [Stage("only", "gan", ("generator", "critic"), self.update, self.compare, *main)]

    def update(self, batch: Batch, step: Step) -> None:
        with torch.no_grad():
            self.pool = [*self.pool, self.generator(batch.sources)][-3:]
        step.minimise("critic", batch)
        self.phase += 1
        if self.phase % 3 == 0:
            step.minimise("generator", batch)
            with torch.no_grad():
                for kept, new in zip(self.ema.parameters(), self.generator.parameters(), strict=True):
                    kept.lerp_(new, 0.5)

    def move(self, batch: Batch) -> tuple[Tensor, Terms]:
        loss = (self.generator(batch.sources) - batch.targets).square().mean()
        return loss, {"g_loss": loss}

    def criticise(self, batch: Batch) -> tuple[Tensor, Terms]:
        pool = self.pool or [batch.targets]
        fake = pool[int(torch.randint(len(pool), ()))]
        loss = (self.critic(fake) - 1).square().mean() + self.critic(batch.targets).square().mean()
        return loss, {"d_loss": loss}

    def synthesise(self, sources: Tensor, brain: Tensor) -> Tensor:
        made: Tensor = self.ema(sources)
        return made * brain + brain - 1


def train(run: Path, store: Path, stop: Callable[[int], bool]) -> dict[str, Any]:
    """Train, asking to stop where `stop` says so of the number of updates; the newest checkpoint."""
    config = Config(
        Variant("simo", ["t2"], ["t1", "t1c"]),
        RememberingSettings(),
        DataSettings(store=str(store)),
        TrainSettings(epochs=2, steps_per_epoch=8, batch=2, log_every=4, lr=1e-2),
    )
    request = StopRequest()
    trainer = Trainer(config, preflight.check(config, 1), RunDirectory(run), World(0, 1, 0, torch.device("cpu")), request)
    agree = trainer.agree

    def asking(number: int, due: bool) -> tuple[int, bool]:
        return agree(signal.SIGTERM if stop(trainer.at.total) else number, due)

    trainer.agree = asking  # type: ignore[method-assign]
    try:
        trainer.fit()
    except Stopped:
        assert any(stop(total) for total in range(17))
    newest = checkpoint.newest(run / "checkpoints")
    assert newest is not None
    return newest[0]


def losses(run: Path) -> list[tuple[int, dict[str, float]]]:
    lines = read(run / "journal.jsonl")[0]
    logged = [(line["step"], line["values"]) for line in lines if "only/d_loss" in line.get("values", {})]
    return [(step, {name: value for name, value in values.items() if name.startswith("only/")}) for step, values in logged]


def test_a_stop_at_any_update_changes_nothing(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "method", lambda name: Remembering)
    through = train(tmp_path / "through", store, lambda total: False)
    stops = iter([1, 5, 7, 8, 13])
    for at in stops:
        assert train(tmp_path / "stopped", store, lambda total, at=at: total == at)["position"]["total"] == at
    stopped = train(tmp_path / "stopped", store, lambda total: False)
    assert stopped["position"] == through["position"]
    for name, value in through["method"].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(stopped["method"][name], value), name
    pools = (run["method"]["_extra_state"]["pool"] for run in (through, stopped))
    assert all(torch.equal(a, b) for a, b in zip(*pools, strict=True))
    assert [step for step, _ in losses(tmp_path / "through")] == [4, 8, 12, 16]
    assert losses(tmp_path / "stopped") == losses(tmp_path / "through")

"""The settings of the trainer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from preprocess.errors import SettingError
from preprocess.settings import setting


@dataclass
class ScheduleSettings:
    """The learning rate as a share of `train.lr`, a pure function of the epoch."""

    name: Literal["constant", "triangular", "steps"] = setting("constant", "constant, triangular or steps")
    floor: float = setting(0.2, "triangular: the lowest share")
    half_period: float = setting(25, "triangular: epochs from the highest to the lowest share, and back")
    epochs: list[int] = setting([], "steps: the epochs at which the share changes")
    shares: list[float] = setting([], "steps: the share from each of those epochs on")

    def __post_init__(self) -> None:
        if len(self.epochs) != len(self.shares):
            raise SettingError(
                f"schedule.epochs has {len(self.epochs)} entries and schedule.shares {len(self.shares)}: give one each"
            )
        if self.half_period <= 0:
            raise SettingError(f"schedule.half_period={self.half_period} must be above 0 epochs")


@dataclass
class TrainSettings:
    """Optimisation, precision, validation and checkpoints of the main stage."""

    epochs: int = setting(200, "passes over the training slices")
    batch: int = setting(1, "slices per update over all ranks together")
    micro_batch: int = setting(0, "slices a rank takes through the networks at once; the rest accumulates (0: all)")
    steps_per_epoch: int = setting(0, "updates per epoch (0: every slice once, the last incomplete batch dropped)")
    lr: float = setting(2e-4, "Adam's highest learning rate; the schedule gives the share of it")
    betas: tuple[float, float] = setting((0.9, 0.999), "Adam's two decay rates")
    schedule: ScheduleSettings = setting(ScheduleSettings, "how the learning rate moves")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = setting(
        "auto", "auto: bf16 from compute capability 8.0 on, fp16 with a scaler on Volta and Turing, fp32 on CPUs"
    )
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "auto: a GPU where there is one")
    log_every: int = setting(10, "updates between two lines of losses in the journal")
    validate_every: int = setting(1, "epochs between two whole-volume validations")
    checkpoint_minutes: float = setting(10, "minutes between two checkpoints within an epoch; each epoch's end has one too")
    stuck_minutes: float = setting(10, "minutes after which a rank that waits for another gives up")

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "log_every", "validate_every"):
            if getattr(self, name) < 1:
                raise SettingError(f"train.{name}={getattr(self, name)} must be at least 1")
        for name in ("micro_batch", "steps_per_epoch"):
            if getattr(self, name) < 0:
                raise SettingError(f"train.{name}={getattr(self, name)} must not be negative")
        if not self.lr > 0:
            raise SettingError(f"train.lr={self.lr} must be above 0")

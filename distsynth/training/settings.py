"""The settings of the trainer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from preprocess.errors import SettingError
from preprocess.settings import setting


@dataclass
class ScheduleSettings:
    """The learning rate as a share of `train.lr`, a pure function of the epoch."""

    name: Literal["constant", "triangular", "steps", "linear"] = setting("constant", "constant, triangular, steps or linear")
    floor: float = setting(0.2, "triangular: the lowest share")
    half_period: float = setting(25, "triangular: epochs from the highest to the lowest share, and back")
    epochs: list[int] = setting([], "steps: the epochs at which the share changes")
    shares: list[float] = setting([], "steps: the share from each of those epochs on")
    flat: float = setting(100, "linear: epochs at the highest share")
    decay: float = setting(100, "linear: epochs after those in which it falls to nothing")

    def __post_init__(self) -> None:
        if len(self.epochs) != len(self.shares):
            raise SettingError(
                f"schedule.epochs has {len(self.epochs)} entries and schedule.shares {len(self.shares)}: give one each"
            )
        if self.half_period <= 0:
            raise SettingError(f"schedule.half_period={self.half_period} must be above 0 epochs")
        if self.flat < 0 or self.decay < 0:
            raise SettingError(f"schedule.flat={self.flat} and schedule.decay={self.decay} must not be negative")


@dataclass
class LimitSettings:
    """Seconds without progress after which the whole run ends, saying which rank it was."""

    silence: float = setting(20, "a rank's process gives no sign of life: it is dead, stopped or cut off")
    start: float = setting(300, "until all ranks have joined and the cohort is open")
    first_step: float = setting(900, "a stage's slices and its first update, compiling included")
    step: float = setting(25, "within an update; four times the slowest so far where that is more")
    validation: float = setting(600, "from one patient to the next in a validation")
    evaluation: float = setting(7200, "the scoring after training, floors and figures included")
    checkpoint: float = setting(300, "writing a checkpoint, which goes on beside the training")

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value >= 1:
                raise SettingError(f"train.limits.{name}={value} must be at least 1 second")


@dataclass
class TrainSettings:
    """Optimisation, precision, validation and checkpoints of the main stage."""

    epochs: int = setting(200, "passes over the training slices")
    batch: int = setting(1, "slices per update over all ranks together")
    micro_batch: int = setting(0, "slices a rank takes through the networks at once; the rest accumulates (0: all)")
    steps_per_epoch: int = setting(0, "updates per epoch (0: every slice once, the last incomplete batch dropped)")
    lr: float = setting(2e-4, "Adam's highest learning rate; the schedule gives the share of it")
    betas: tuple[float, float] = setting((0.9, 0.999), "Adam's two decay rates")
    weight_decay: float = setting(0.0, "Adam's L2 penalty on the weights")
    schedule: ScheduleSettings = setting(ScheduleSettings, "how the learning rate moves")
    ema: float = setting(
        0.0,
        "validate and keep a running average of the weights, this share of it old at each update, e.g. 0.999 (0: the weights)",
    )
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = setting(
        "auto", "auto: bf16 from compute capability 8.0 on, fp16 with a scaler on Volta and Turing, fp32 on CPUs and older GPUs"
    )
    channels_last: bool = setting(
        False, "store images channels last, which tensor cores prefer and instance norms do not: try it"
    )
    init_from: str = setting("", "a run whose best checkpoint gives the first weights, where names and shapes agree")
    freeze: list[str] = setting([], "weights that stay as they are: names or their beginnings, e.g. generator.down")
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "auto: a GPU where there is one")
    log_every: int = setting(10, "updates between two lines of losses in the journal")
    compile: bool = setting(False, "compile the losses (minutes at the start, worth it for long runs on GPUs)")
    insight: bool = setting(True, "journal where the time goes, memory and gradient norms with the losses")
    profile: bool = setting(False, "write a torch profiler trace of a few updates into the run's folder profile/ (rank 0)")
    validate_every: int = setting(1, "epochs between two whole-volume validations")
    checkpoint_minutes: float = setting(
        10, "minutes between two checkpoints within an epoch; its end has one too where that costs under 1 % of the time"
    )
    limits: LimitSettings = setting(LimitSettings, "when a run that makes no progress is ended")

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "log_every", "validate_every"):
            if getattr(self, name) < 1:
                raise SettingError(f"train.{name}={getattr(self, name)} must be at least 1")
        for name in ("micro_batch", "steps_per_epoch"):
            if getattr(self, name) < 0:
                raise SettingError(f"train.{name}={getattr(self, name)} must not be negative")
        if not 0 <= self.ema < 1:
            raise SettingError(f"train.ema={self.ema} must be at least 0 and less than 1")
        if not self.lr > 0:
            raise SettingError(f"train.lr={self.lr} must be above 0")

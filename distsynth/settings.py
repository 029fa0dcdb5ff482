"""The settings of data, training and evaluation: one dataclass each. Every part of distsynth may read them; they import none of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from preprocess.shared.errors import SettingError
from preprocess.shared.settings import required, setting


@dataclass
class DataSettings:
    """Which cohort, and how its slices reach the networks."""

    store: str = required("the cohort, as made by python -m preprocess.to_zarr")
    fold: int = setting(0, "which fold of a cohort that was split in several (split.folds= of to_zarr)")
    external: dict[str, str] = setting({}, "other cohorts, name: store, on whose every subject the best checkpoint is scored too")
    clip: bool = setting(True, "clip the intensities at the record's bounds on reading (the report: 1 % at each end)")
    flip: bool = setting(True, "augment by left-right flips")
    rotate: bool = setting(True, "augment by rotations of 90 and 180 degrees")
    min_brain: float = setting(0.02, "leave out training slices with less than this share of brain (0 to 1)", least=0, most=1)

    def __post_init__(self) -> None:
        for name in self.external:
            if name in ("val", "test") or Path(name).name != name:
                raise SettingError(
                    f"data.external.{name} cannot name a cohort in the tables beside val and test: give it another name"
                )


@dataclass
class ScheduleSettings:
    """The learning rate as a share of `train.lr`, a pure function of the epoch."""

    name: Literal["constant", "triangular", "steps", "linear"] = setting("constant", "constant, triangular, steps or linear")
    floor: float = setting(0.2, "triangular: the lowest share", least=0)
    half_period: float = setting(25, "triangular: epochs from the highest to the lowest share, and back", above=0)
    epochs: list[int] = setting([], "steps: the epochs at which the share changes")
    shares: list[float] = setting([], "steps: the share from each of those epochs on")
    flat: float = setting(100, "linear: epochs at the highest share", least=0)
    decay: float = setting(100, "linear: epochs after those in which it falls to nothing", least=0)

    def __post_init__(self) -> None:
        if len(self.epochs) != len(self.shares):
            raise SettingError(
                f"schedule.epochs has {len(self.epochs)} entries and schedule.shares {len(self.shares)}: give one each"
            )


@dataclass
class LimitSettings:
    """Seconds without progress after which the whole run ends, saying which rank it was."""

    silence: float = setting(20, "a rank's process gives no sign of life: it is dead, stopped or cut off", least=1)
    start: float = setting(300, "until all ranks have joined and the cohort is open", least=1)
    first_step: float = setting(900, "a stage's slices and its first update, compiling included", least=1)
    step: float = setting(25, "within an update; four times the slowest so far where that is more", least=1)
    validation: float = setting(600, "from one patient to the next in a validation", least=1)
    evaluation: float = setting(
        7200, "fitting the baselines, and from one patient to the next in the scoring after training", least=1
    )
    checkpoint: float = setting(300, "writing a checkpoint, which goes on beside the training", least=1)


@dataclass
class TrainSettings:
    """Optimisation, precision, validation and checkpoints of the main stage."""

    epochs: int = setting(200, "passes over the training slices", least=1)
    batch: int = setting(1, "slices per update over all ranks together", least=1)
    micro_batch: int = setting(0, "slices a rank takes through the networks at once; the rest accumulates (0: all)", least=0)
    steps_per_epoch: int = setting(0, "updates per epoch (0: every slice once, the last incomplete batch dropped)", least=0)
    lr: float = setting(2e-4, "Adam's highest learning rate; the schedule gives the share of it", above=0)
    betas: tuple[float, float] = setting((0.9, 0.999), "Adam's two decay rates")
    weight_decay: float = setting(0.0, "Adam's L2 penalty on the weights", least=0)
    schedule: ScheduleSettings = setting(ScheduleSettings, "how the learning rate moves")
    ema: float = setting(
        0.0,
        "validate and keep a running average of the weights, this share of it old at each update, e.g. 0.999 (0: the weights)",
        least=0,
        below=1,
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
    log_every: int = setting(10, "updates between two lines of losses in the journal", least=1)
    compile: bool = setting(False, "compile the losses (minutes at the start, worth it for long runs on GPUs)")
    timing: bool = setting(True, "journal where the time goes, memory and gradient norms with the losses")
    profile: bool = setting(False, "write a torch profiler trace of a few updates into the run's folder profile/ (rank 0)")
    validate_every: int = setting(1, "epochs between two whole-volume validations", least=1)
    checkpoint_minutes: float = setting(
        10, "minutes between two checkpoints within an epoch; its end has one too where that costs under 1 % of the time"
    )
    limits: LimitSettings = setting(LimitSettings, "when a run that makes no progress is ended")

    def __post_init__(self) -> None:
        s = self.schedule
        if s.name == "linear" and s.flat + s.decay < self.epochs:
            raise SettingError(
                f"train.epochs={self.epochs} goes on after the learning rate has come to 0: train.schedule.flat={s.flat:g} and "
                f"train.schedule.decay={s.decay:g} must add up to at least that"
            )


@dataclass
class EvaluateSettings:
    """What is scored after training, with the best checkpoint."""

    figures: int = setting(2, "test patients, and patients of each external cohort, that get a figure")
    baselines: bool = setting(True, "score the baselines beside: copy, mean image, voxel-wise regressor")
    judge: str = setting(
        "", "a run of segment or tcmgan whose segmentor, frozen, tells by Dice how much of the tumour the images show"
    )

"""The settings of data, training and evaluation: one dataclass each. Every part of distsynth may read them; they import nothing of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from preprocess.shared.errors import SettingError
from preprocess.shared.settings import required, setting


@dataclass
class DataSettings:
    """Which cohort to use, and how its slices are prepared for the networks."""

    store: str = required("the cohort, made by python -m preprocess.to_zarr")
    fold: int = setting(0, "which fold of a cohort that was split into several (split.folds= of to_zarr)")
    external: dict[str, str] = setting(
        {}, "other cohorts (name: store); the best checkpoint is also scored on all of their subjects"
    )
    clip: bool = setting(
        True, "clip the intensities on reading, at the bounds stored in the cohort (the report: 1 % at each end)"
    )
    flip: bool = setting(True, "augment by left-right flips")
    rotate: bool = setting(True, "augment by rotations of 90 and 180 degrees")
    min_brain: float = setting(0.02, "leave out training slices of which less than this share is brain (0 to 1)", least=0, most=1)

    def __post_init__(self) -> None:
        for name in self.external:
            if name in ("val", "test") or Path(name).name != name:
                raise SettingError(
                    f"data.external.{name} cannot name a cohort: val and test are splits, and a name has no slash; choose another"
                )


@dataclass
class ScheduleSettings:
    """The learning rate as a share of `train.lr`, a pure function of the epoch."""

    name: Literal["constant", "triangular", "steps", "linear"] = setting("constant", "constant, triangular, steps or linear")
    floor: float = setting(0.2, "triangular: the lowest share", least=0)
    half_period: float = setting(25, "triangular: epochs from the highest to the lowest share, and the same back", above=0)
    epochs: list[int] = setting([], "steps: the epochs at which the share changes")
    shares: list[float] = setting([], "steps: the share from each of these epochs on")
    flat: float = setting(100, "linear: epochs at the highest share", least=0)
    decay: float = setting(100, "linear: epochs after that, during which it falls to 0", least=0)

    def __post_init__(self) -> None:
        if len(self.epochs) != len(self.shares):
            raise SettingError(
                f"schedule.epochs has {len(self.epochs)} entries and schedule.shares {len(self.shares)}: give one share per epoch"
            )


@dataclass
class LimitSettings:
    """Seconds without progress after which the whole run ends, naming the rank that caused it."""

    silence: float = setting(20, "no heartbeat from a rank: its process is dead, stopped or disconnected", least=1)
    start: float = setting(300, "until all ranks have joined and the cohort is open", least=1)
    first_step: float = setting(900, "loading a stage's slices and making its first update, including compilation", least=1)
    step: float = setting(25, "an update; or four times the slowest update so far if that is longer", least=1)
    validation: float = setting(600, "from one patient to the next in a validation", least=1)
    evaluation: float = setting(
        7200, "fitting the baselines, and from one patient to the next in the scoring after training", least=1
    )
    checkpoint: float = setting(300, "writing a checkpoint, which continues in the background", least=1)


@dataclass
class TrainSettings:
    """Optimisation, precision, validation and checkpoints."""

    epochs: int = setting(200, "passes over the training slices", least=1)
    batch: int = setting(1, "slices per update, all ranks together", least=1)
    micro_batch: int = setting(0, "slices that a rank processes at once, accumulating gradients (0: all)", least=0)
    steps_per_epoch: int = setting(0, "updates per epoch (0: every slice once; the last incomplete batch is dropped)", least=0)
    lr: float = setting(2e-4, "Adam's highest learning rate; the schedule sets the share of it", above=0)
    betas: tuple[float, float] = setting((0.9, 0.999), "Adam's two decay rates")
    weight_decay: float = setting(0.0, "Adam's L2 penalty on the weights", least=0)
    schedule: ScheduleSettings = setting(ScheduleSettings, "how the learning rate changes")
    ema: float = setting(
        0.0,
        "validate and keep a running average of the weights, with this decay per update, e.g. 0.999 (0: the weights themselves)",
        least=0,
        below=1,
    )
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = setting(
        "auto", "auto: bf16 from compute capability 8.0, fp16 with a loss scaler on Volta and Turing, fp32 on CPUs and older GPUs"
    )
    channels_last: bool = setting(False, "store images channels last: faster for tensor cores, slower for instance norms; try it")
    init_from: str = setting("", "a run whose best checkpoint gives the initial weights, where names and shapes match")
    init_partial: bool = setting(False, "let init_from give less than half of the weights; the others start new")
    freeze: list[str] = setting([], "weights that are not trained: names or prefixes, e.g. generator.down")
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "auto: a GPU if there is one")
    log_every: int = setting(10, "updates between two lines of losses in the journal", least=1)
    compile: bool = setting(False, "compile the losses (takes minutes at the start; worth it for long runs on GPUs)")
    timing: bool = setting(True, "also write times, memory and gradient norms to the journal")
    profile: bool = setting(False, "write a torch profiler trace of a few updates to the run's folder profile/ (rank 0)")
    validate_every: int = setting(1, "epochs between two whole-volume validations", least=1)
    checkpoint_minutes: float = setting(
        10, "minutes between two checkpoints within an epoch; also one at its end if that takes less than 1 % of the time"
    )
    limits: LimitSettings = setting(LimitSettings, "when to end a run that makes no progress")

    def __post_init__(self) -> None:
        s = self.schedule
        if s.name == "linear" and s.flat + s.decay < self.epochs:
            raise SettingError(
                f"train.epochs={self.epochs} is longer than the schedule, which ends at a learning rate of 0: "
                f"train.schedule.flat={s.flat:g} and train.schedule.decay={s.decay:g} must add up to at least train.epochs"
            )


@dataclass
class EvaluateSettings:
    """What is scored after training, using the best checkpoint."""

    figures: int = setting(2, "number of test patients, and of patients of each external cohort, that get a figure")
    baselines: bool = setting(True, "also score the baselines: copy, mean image, voxel-wise regressors")
    judge: str = setting(
        "", "a run of segment or tcmgan whose frozen segmentor scores the images: Dice of the tumour it segments in them"
    )

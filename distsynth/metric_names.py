"""The names of all numbers in journals, scores.json and MLflow: put together and taken apart here only.

flair/brain/psnr                     a score: MODALITY/REGION/METRIC
val/flair/brain/psnr                 the score at a validation during training
best/test/flair/brain/psnr           the score of the best checkpoint on a cohort, once training has ended
joint/g_loss, joint/lr               a loss, or the learning rate, of a stage of training
joint/grad_norm/generator            the gradient's norm of one of the stage's objectives
joint/loss_scale/generator           fp16: the factor by which its loss is multiplied
joint/skipped/generator              fp16: the share of its updates that were skipped because a gradient overflowed
time/step_s, time/slices_per_s       where the time of an update goes
system/memory_gb                     what the machine is doing
"""

from __future__ import annotations

REGIONS = ("brain", "tumour", "tumour_raw", "volume")
METRICS = ("psnr", "ssim", "nmae", "dice", "judge_dice")
OVER_BASELINE = "psnr_over_best_baseline"

VALIDATION, BEST = "val", "best"
CLOCK, MACHINE = "time", "system"
SLICES_PER_SECOND = f"{CLOCK}/slices_per_s"


def score(modality: str, region: str, metric: str) -> str:
    return f"{modality}/{region}/{metric}"


def score_parts(name: str) -> tuple[str, str, str]:
    """Modality, region and metric of a score's name."""
    modality, region, metric = name.split("/")
    return modality, region, metric


def at_validation(score: str) -> str:
    return f"{VALIDATION}/{score}"


def validated(name: str) -> str | None:
    """The score that a validation's name holds; None for any other name."""
    head, _, rest = name.partition("/")
    return rest if head == VALIDATION else None


def on_cohort(cohort: str, score: str) -> str:
    return f"{cohort}/{score}"


def of_best(name: str) -> str:
    """Of the best checkpoint: a score on a cohort."""
    return f"{BEST}/{name}"


def in_stage(stage: str, term: str) -> str:
    """A loss, learning rate or gradient norm of a stage."""
    return f"{stage}/{term}"


def term(name: str) -> str | None:
    """The loss, or `lr`, that a name holds; None for any other name."""
    head, _, rest = name.partition("/")
    return None if head in (VALIDATION, BEST, CLOCK, MACHINE) or "/" in rest else rest


def gradient_norm(objective: str) -> str:
    return f"grad_norm/{objective}"


def loss_scale(objective: str) -> str:
    return f"loss_scale/{objective}"


def skipped(objective: str) -> str:
    return f"skipped/{objective}"


def seconds(part: str) -> str:
    """Of an update or of a run's start."""
    return f"{CLOCK}/{part}_s"


def machine(quantity: str) -> str:
    return f"{MACHINE}/{quantity}"


def repeatable(name: str) -> bool:
    """Whether the number is the same when a run is repeated; the clock's and the machine's are not."""
    return name.partition("/")[0] not in (CLOCK, MACHINE)

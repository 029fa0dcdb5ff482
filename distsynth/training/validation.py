"""Whole-volume validation on held-out patients, shared out over the ranks."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from distsynth import metric_names
from distsynth.data.cohorts import read_image
from distsynth.methods.contract import Stage
from distsynth.ranks.preemption import StopRequest
from distsynth.ranks.world import World
from distsynth.training.model import Model
from preprocess.cohort import Cohort


def validate(
    model: Model, stage: Stage, cohort: Cohort, subjects: Sequence[str], clip: bool, world: World, stop: StopRequest
) -> dict[str, float]:
    """The stage's scores, `modality/region/metric`: means over the subjects that have the modality, the same on every rank. Raises Stopped on
    every rank if one was asked to stop."""
    model.method.eval()
    mine = {}
    with torch.no_grad():
        for subject in stop.before(subjects[world.rank :: world.size]):
            mine[subject] = scores_of(model, stage, cohort, subject, clip, world.device)
            world.watchdog.move()
    stop.agree(world)
    all_scores = {subject: scores for part in world.gather(mine) for subject, scores in part.items()}
    values: dict[str, list[float]] = {}
    for subject in sorted(all_scores):
        for name, score in all_scores[subject].items():
            values.setdefault(name, []).append(score)
    return {name: sum(each) / len(each) for name, each in values.items()}


def scores_of(model: Model, stage: Stage, cohort: Cohort, subject: str, clip: bool, device: torch.device) -> dict[str, float]:
    """A subject's scores, `modality/region/metric`, for the modalities that it has; no tumour scores where it has no segmentation. Raises
    StoreError if its image is damaged."""
    image = read_image(cohort, subject, model.variant.modalities, clip, incomplete=True)
    scores = stage.validate(model.patient(image, cohort.labels(subject)).to(device))
    record = cohort.record(subject)
    regions = {"brain", "tumour"} if record.has_labels else {"brain"}
    parts = {name: metric_names.score_parts(name) for name in scores}
    return {
        name: scores[name] for name, (modality, region, _) in parts.items() if modality in record.modalities and region in regions
    }

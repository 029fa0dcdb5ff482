"""Whole-volume validation on held-out patients, shared out over the ranks."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from distsynth.data.volumes import read_image
from distsynth.methods.method import Stage
from distsynth.training.distributed import World
from distsynth.training.model import Model
from distsynth.training.preemption import StopRequest
from preprocess.cohort import Cohort


def validate(
    model: Model, stage: Stage, cohort: Cohort, subjects: Sequence[str], clip: bool, world: World, stop: StopRequest
) -> dict[str, float]:
    """The stage's scores, averaged over the subjects, the same on every rank. Raises Stopped, on every rank, if one was asked to stop."""
    model.method.eval()
    mine = {}
    with torch.no_grad():
        for subject in stop.before(subjects[world.rank :: world.size]):
            patient = model.patient(read_image(cohort, subject, model.variant.modalities, clip), cohort.labels(subject))
            mine[subject] = stage.validate(patient.to(world.device))
            world.pulse.move()
    stop.agree(world)
    found = {subject: scores for part in world.gather(mine) for subject, scores in part.items()}
    names = next(iter(found.values()))
    return {name: sum(found[subject][name] for subject in sorted(found)) / len(found) for name in names}

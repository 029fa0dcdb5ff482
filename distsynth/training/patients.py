"""Which patients of a split a stage trains on, and which ones validation scores."""

from __future__ import annotations

from distsynth.config import Config
from distsynth.data.cohorts import scored
from distsynth.methods import registry
from preprocess.cohort import Cohort
from preprocess.shared.errors import StoreError


def patients(config: Config, cohort: Cohort, split: str, purpose: str) -> list[str]:
    """The subjects of a split; for validation only those that can be scored. Raises StoreError, naming the purpose, if there are none."""
    members, kind = cohort.split(split), registry.method(config.method.name)
    subjects = scored(cohort, members, config.variant) if split == "val" else members
    lacking = "" if subjects or not members else f" with the inputs and an output of variant {config.variant.name}"
    if subjects and kind.tumours and not (split == "val" and kind.images):
        subjects = [subject for subject in subjects if cohort.record(subject).has_labels]
        lacking = " with a segmentation"
    if subjects:
        return subjects
    example = "split.segmentor=0.5" if split == "segmentor" else "split.segmentor=0 split.val=0.5"
    what = f"cohort {cohort.path} has no patients{lacking} in split {split} for {purpose}"
    raise StoreError(
        f"{what}: repeat its to_zarr command with other split.* settings, such as {example}, or choose another method"
    )

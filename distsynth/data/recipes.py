"""Whether a cohort's images are made as those that a model was trained on: the same voxels, bias correction and clip bounds.

What may differ: the crop, the type and chunks of the store, and how contrasts were brought onto one grid.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from preprocess.cohort import Cohort
from preprocess.recipe import Recipe
from preprocess.shared.errors import StoreError
from preprocess.shared.settings import flatten

SAME = 0.02  # relative difference of voxel sizes that makes none


def spacings(cohort: Cohort, subjects: Collection[str]) -> list[list[float]]:
    """The (z, y, x) mm of the subjects' stored voxels, each once; as scanned they may differ."""
    return [list(each) for each in sorted({tuple(cohort.record(subject).spacing) for subject in subjects})]


def refuse_other(
    setting: str, cohort: Cohort, subjects: Collection[str], recipe: Mapping[str, Any], trained: Sequence[Sequence[float]]
) -> None:
    """Raise StoreError if a cohort, named by `setting`, was made by another recipe than the training's, or with voxels of other sizes than the
    `trained` ones; empty where these are not known."""
    named = f"{setting}={cohort.path}"
    theirs, ours = of_images(cohort.recipe), of_images(recipe)
    for key in ours:
        if theirs[key] != ours[key]:
            right = f"{key}={str(ours[key]).lower() if isinstance(ours[key], bool) else ours[key]}"
            right = f"'{right}'" if "[" in right else right
            what = f"{named} was made with {key}={theirs[key]} and the training's cohort with {ours[key]}"
            raise StoreError(f"{what}: make it again with to_zarr {right} and another store=")
    if not trained:
        return
    low, high = np.min(trained, axis=0) * (1 - SAME), np.max(trained, axis=0) * (1 + SAME)
    for subject in subjects:
        voxel = np.array(cohort.record(subject).spacing)
        if (voxel < low).any() or (voxel > high).any():
            raise StoreError(
                f"{named} holds {subject} with voxels of {size(voxel)} mm and the training's cohort has {' or '.join(map(size, trained[:2]))} mm: "
                f"{remedy(trained)}"
            )


def other_tumour(setting: str, cohort: Cohort, recipe: Mapping[str, Any]) -> str:
    """A sentence if a cohort's tumour is made of other labels than the training's, which may be right where its labels are numbered otherwise; else
    nothing. Enhancing tumour is 4 until 2022 and 3 from 2023 on."""
    theirs, ours = (sorted({3 if label == 4 else label for label in Recipe.of(each).labels}) for each in (cohort.recipe, recipe))
    if theirs == ours:
        return ""
    words = [
        f"labels={labels}" if labels else "all labels" for labels in (Recipe.of(cohort.recipe).labels, Recipe.of(recipe).labels)
    ]
    what = f"{setting}={cohort.path} counts {words[0]} as tumour and the training's cohort {words[1]}"
    return f"warning: {what}: compare their tumour scores only if these mean the same"


def of_images(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that change what a network sees, with the defaults of those that an older version lacked."""
    whole = Recipe.of(recipe)
    kept = {"n4": asdict(whole.n4) if whole.n4.enabled else {"enabled": False}, "clip_percent": whole.clip_percent}
    return dict(flatten(kept, "recipe."))


def size(voxel: Any) -> str:
    """(z, y, x) mm for people, who write x first."""
    return " x ".join(f"{mm:.3g}" for mm in reversed(list(voxel)))


def remedy(trained: Sequence[Sequence[float]]) -> str:
    """What to do about voxels of another size: the recipe resamples to isotropic ones only."""
    edges = {round(mm, 3) for voxel in trained for mm in voxel}
    if max(edges) <= min(edges) * (1 + SAME):
        return f"make it again with to_zarr recipe.spacing={min(edges):g} and another store="
    return "leave it out, or make both cohorts with the same recipe.spacing="

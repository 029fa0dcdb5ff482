"""What the tests of synthesis share: patients from the phantoms, calls of the command, and what it wrote."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from distsynth import synthesise
from preprocess.cohort import Cohort

UNET = ("method=unet_small", "method.width=4", "method.depth=2", "data.rotate=false")
WORDS = {"t1": "t1", "t1c": "t1ce", "t2": "t2", "flair": "flair", "seg": "seg", "mask": "mask"}


def fitting(store: Path, split: str) -> str:
    cohort = Cohort.open(store)
    return next(s for s in cohort.split(split) if cohort.record(s).brain_voxels_lost == 0)


def folder_of(phantoms: Path, name: str) -> Path:
    return next(phantoms.glob(f"*/{name}"))


def some_of(patient: Path, place: Path, *kinds: str) -> Path:
    """A copy of a patient with only these files."""
    folder = place / patient.name
    folder.mkdir(parents=True)
    for kind in kinds:
        shutil.copy(patient / f"{patient.name}_{WORDS[kind]}.nii.gz", folder)
    return folder


def call(*words: object) -> int:
    return synthesise.main([str(word) for word in words])


def report(out: Path) -> dict[str, Any]:
    """What became of each patient."""
    content = json.loads((out / "report.json").read_text())
    return {each["patient"]: each for each in content["patients"]}


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}

"""MRI contrast synthesis: data feeds, networks, methods, training, evaluation, synthesis and tracking.

import distsynth
model = distsynth.load("runs/first")                        # or "model.zip"
images = model.synthesise(t1="t1.nii.gz", t2="t2.nii.gz")   # {"flair": nibabel image}
cohort = distsynth.Cohort.open("data/brats.zarr")
"""

import os
from importlib import import_module
from typing import Any

# torch reads this when it is imported: a lost rank is reported in one sentence (distsynth.ranks.watchdog), not by pages of C++ frames.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

__all__ = ["Cohort", "load"]
PLACES = {"Cohort": "preprocess.cohort", "load": "distsynth.synthesis.models"}


def __getattr__(name: str) -> Any:
    """Import what Python users need when they need it: the commands start without torch."""
    if name not in PLACES:
        raise AttributeError(f"module 'distsynth' has no attribute {name!r}")
    return getattr(import_module(PLACES[name]), name)

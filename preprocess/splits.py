"""Splitting a cohort by patient into the segmentor's half, the GAN's half, val and test.

80 % train, 20 % test; the training part is halved, one half to pre-train the segmentor and the other for the GAN; a tenth of
the GAN's half is `val` (report, section on the data; val is ours, so that test is touched once). Two time points of a patient
never separate, and grades are spread evenly.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from preprocess.errors import SettingError
from preprocess.settings import setting

SPLITS = ("segmentor", "gan", "val", "test")


@dataclass
class SplitSettings:
    """Shares of the patients."""

    test: float = setting(0.2, "share of the patients that are tested on; 1 for a cohort that is only tested on")
    segmentor: float = setting(0.5, "share of the rest that pre-trains the segmentor")
    val: float = setting(0.1, "share of what is left after that which chooses checkpoints and runs")
    seed: int = setting(0, "another seed, another split")

    def __post_init__(self) -> None:
        for name in ("test", "segmentor", "val"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingError(f"split.{name}={getattr(self, name)} must lie between 0 and 1")


def split(grades: Mapping[str, str], settings: SplitSettings) -> dict[str, list[str]]:
    """Patients (name -> grade) by split, each list sorted; the same for any order of the mapping.

    Patients are ordered by grade and, within it, by a hash of seed and name; each split then takes every so-manieth of them,
    which keeps the grades even. A share between 0 and 1 takes at least one patient and leaves at least one, where there are two
    to divide: from five patients on no split is empty, and of fewer it is val that goes without.
    """
    order = sorted(grades, key=lambda patient: (grades[patient], hashed(patient, settings.seed)))
    test, rest = take(order, settings.test)
    segmentor, rest = take(rest, settings.segmentor)
    val, gan = take(rest, settings.val)
    chosen = {"segmentor": segmentor, "gan": gan, "val": val, "test": test}
    return {name: sorted(chosen[name]) for name in SPLITS}


def take(patients: list[str], share: float) -> tuple[list[str], list[str]]:
    """An evenly spread `share` of an ordered list, and the others."""
    n = len(patients)
    count = round(share * n)
    if 0 < share < 1 and n >= 2:
        count = min(max(count, 1), n - 1)
    picked = {((2 * i + 1) * n) // (2 * count) for i in range(count)}
    return [p for i, p in enumerate(patients) if i in picked], [p for i, p in enumerate(patients) if i not in picked]


def hashed(patient: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{patient}".encode()).hexdigest()

"""Splitting a cohort by patient into the segmentor's half, the GAN's half, val and test.

By shares: 80 % train, 20 % test; the training part is halved, one half to pre-train the segmentor and the other for the GAN; a tenth of
the GAN's half is `val` (report, section on the data; val is ours, so that test is touched once). Or by counts (the report's 22/23/10 and
125/125/35), in k folds, or from the user's own list. Two time points of a patient never separate, and grades are spread evenly.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from preprocess.shared.errors import SettingError
from preprocess.shared.settings import setting

SPLITS = ("segmentor", "gan", "val", "test")
Fold = dict[str, list[str]]  # subjects by split


class Member(NamedTuple):
    """One subject that is to be assigned."""

    subject: str
    patient: str
    grade: str


@dataclass
class SplitSettings:
    """Shares or counts of the patients."""

    test: float = setting(0.2, "share of the patients that are tested on; 1 for a cohort that is only tested on")
    segmentor: float = setting(0.5, "share of the rest that pre-trains the segmentor")
    val: float = setting(0.1, "share of what is left after that which chooses checkpoints and runs")
    counts: list[int] = setting([], "patients of segmentor, GAN (val included) and test in place of shares, e.g. [125,125,35]")
    folds: int = setting(1, "so many folds, each testing another part of the patients; data.fold= chooses one in training")
    file: str = setting(
        "", "an own list: a CSV with the columns split and patient or subject; who is not in it stays out (split=FILE)"
    )
    seed: int = setting(0, "another seed, another split")

    def __post_init__(self) -> None:
        for name in ("test", "segmentor", "val"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingError(f"split.{name}={getattr(self, name)} must lie between 0 and 1")
        if self.counts and (len(self.counts) != 3 or min(self.counts) < 0):
            raise SettingError(f"split.counts={list(self.counts)} must be three numbers: segmentor, GAN, test, e.g. [125,125,35]")
        if self.folds < 1:
            raise SettingError(f"split.folds={self.folds} must be at least 1")
        if (self.folds > 1) + bool(self.counts) + bool(self.file) > 1:
            raise SettingError("give one of split.counts, split.folds and split.file: they are different ways to split")


def split(members: Sequence[Member], settings: SplitSettings) -> list[Fold]:
    """The folds (one, unless `folds` asks for more), each with its subjects sorted; the same for any order of the members.

    Patients are ordered by grade and, within it, by a hash of seed and name; each split then takes every so-manieth of them,
    which keeps the grades even. A share between 0 and 1 takes at least one patient and leaves at least one, where there are two
    to divide: from five patients on no split is empty, and of fewer it is val that goes without.

    Raises SettingError if there are too few patients, or if an own list is unreadable, names a stranger or separates a patient.
    """
    if settings.file:
        return [listed(members, Path(settings.file))]
    grades = {m.patient: m.grade for m in sorted(members, reverse=True)}  # a patient's first time point has the last word
    order = sorted(grades, key=lambda patient: (grades[patient], hashed(patient, settings.seed)))
    if settings.folds > max(1, len(order)):
        raise SettingError(f"split.folds={settings.folds} needs as many patients, and there are {len(order)}: ask for fewer")
    return [subjects_of(members, patients) for patients in assigned(order, settings)]


def assigned(order: list[str], settings: SplitSettings) -> list[Fold]:
    """Ordered patients by split, for each fold."""
    if settings.counts:
        return [by_counts(order, settings)]
    if settings.folds == 1:
        test, rest = take(order, wanted(settings.test, len(order)))
        return [by_shares(test, rest, settings)]
    tested = [order[fold :: settings.folds] for fold in range(settings.folds)]
    return [by_shares(test, [p for p in order if p not in set(test)], settings) for test in tested]


def by_shares(test: list[str], rest: list[str], settings: SplitSettings) -> Fold:
    """Those that are not tested on, shared out."""
    segmentor, rest = take(rest, wanted(settings.segmentor, len(rest)))
    val, gan = take(rest, wanted(settings.val, len(rest)))
    return {"segmentor": segmentor, "gan": gan, "val": val, "test": test}


def by_counts(order: list[str], settings: SplitSettings) -> Fold:
    """So many patients for each; the others are in no split. Raises SettingError if there are fewer."""
    if sum(settings.counts) > len(order):
        raise SettingError(
            f"split.counts={list(settings.counts)} needs {sum(settings.counts)} patients and there are {len(order)}: ask for fewer"
        )
    chosen, _ = take(order, sum(settings.counts))
    test, rest = take(chosen, settings.counts[2])
    segmentor, gan = take(rest, settings.counts[0])
    val, gan = take(gan, wanted(settings.val, len(gan)))
    return {"segmentor": segmentor, "gan": gan, "val": val, "test": test}


def wanted(share: float, patients: int) -> int:
    """How many a share takes: at least one and not all, where it lies between 0 and 1 and there are two."""
    count = round(share * patients)
    return min(max(count, 1), patients - 1) if 0 < share < 1 and patients >= 2 else count


def take(patients: list[str], count: int) -> tuple[list[str], list[str]]:
    """`count` evenly spread ones of an ordered list, and the others."""
    picked = {((2 * i + 1) * len(patients)) // (2 * count) for i in range(count)}
    return [p for i, p in enumerate(patients) if i in picked], [p for i, p in enumerate(patients) if i not in picked]


def subjects_of(members: Sequence[Member], patients: Fold) -> Fold:
    """Each split's subjects, every time point of its patients."""
    home = {patient: name for name, chosen in patients.items() for patient in chosen}
    return {name: sorted(m.subject for m in members if home.get(m.patient) == name) for name in SPLITS}


def listed(members: Sequence[Member], path: Path) -> Fold:
    """The user's own list, as it is. Raises SettingError naming the file and the name that is wrong."""
    homes: dict[str, tuple[str, str]] = {}  # by patient: the split, and the name that put it there
    fold: Fold = {name: [] for name in SPLITS}
    by_name: dict[str, list[Member]] = {}
    for member in members:
        for name in {member.subject, member.patient}:
            by_name.setdefault(name, []).append(member)
    for name, wanted_split in read_list(path):
        if name not in by_name:
            raise SettingError(
                f"split.file={path} names {name}, which is no subject or patient of this cohort: correct or remove it"
            )
        for member in by_name[name]:
            home, because = homes.setdefault(member.patient, (wanted_split, name))
            if home != wanted_split:
                raise SettingError(
                    f"split.file={path} leaks: patient {member.patient} is in {home} ({because}) and in {wanted_split} ({name}): "
                    "keep all its time points on one side"
                )
            fold[wanted_split].append(member.subject)
    return {name: sorted(set(subjects)) for name, subjects in fold.items()}


def read_list(path: Path) -> list[tuple[str, str]]:
    """(name, split) of each row. Raises SettingError."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, skipinitialspace=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SettingError(f"split.file={path} cannot be read ({error}): give a CSV file") from error
    found = []
    for number, row in enumerate(rows, 2):
        name, home = row.get("subject") or row.get("patient"), row.get("split")
        if not name or not home:
            raise SettingError(f"split.file={path} line {number}: expected the columns split and patient or subject")
        if home not in SPLITS:
            raise SettingError(f"split.file={path} line {number}: {home!r} is no split: choose from {', '.join(SPLITS)}")
        found.append((name, home))
    if not found:
        raise SettingError(f"split.file={path} holds no row: expected the columns split and patient or subject")
    return found


def hashed(patient: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{patient}".encode()).hexdigest()

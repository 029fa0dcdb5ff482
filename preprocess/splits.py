"""Splits a cohort by patient: the segmentor's half and the GAN's half of the training patients, val and test.

By shares: 80 % train, 20 % test; one half of the training patients pre-trains the segmentor, the other trains the GAN, and a tenth of the
GAN's half is `val` (the source report's section on the data; val is our addition, so that test is used only once). Or by counts (the
report's 22/23/10 and 125/125/35), in k folds, or from the user's list. All time points of a patient are in the same split, and each split
has about the same share of each grade.
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
from preprocess.shared.tables import Names, table

NAMES = ("subject", "patient", "participant_id")  # columns of a user's list, the first that a row has
SPLITS = ("segmentor", "gan", "val", "test")
Fold = dict[str, list[str]]  # subjects by split


class Member(NamedTuple):
    """A subject to assign."""

    subject: str
    patient: str
    grade: str


@dataclass
class SplitSettings:
    """Shares or counts of the patients."""

    test: float = setting(0.2, "share of the patients for testing; 1 for a cohort used only for testing")
    segmentor: float = setting(0.5, "share of the rest for pre-training the segmentor")
    val: float = setting(0.1, "share of what is then left for choosing checkpoints and runs")
    counts: list[int] = setting([], "patients for segmentor, GAN (with val) and test, in place of shares, e.g. '[125,125,35]'")
    folds: int = setting(1, "number of folds, each with other test patients; data.fold= chooses one in training")
    file: str = setting(
        "", "your own split: a CSV with the columns split and patient or subject; others are in no split (split=FILE)"
    )
    seed: int = setting(0, "each seed gives another split")

    def __post_init__(self) -> None:
        for name in ("test", "segmentor", "val"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingError(f"split.{name}={getattr(self, name)} must lie between 0 and 1")
        if self.counts and (len(self.counts) != 3 or min(self.counts) < 0):
            raise SettingError(
                f"split.counts={list(self.counts)} must be three numbers: segmentor, GAN, test, e.g. split.counts='[125,125,35]'"
            )
        if self.folds < 1:
            raise SettingError(f"split.folds={self.folds} must be at least 1")
        if (self.folds > 1) + bool(self.counts) + bool(self.file) > 1:
            raise SettingError("give one of split.counts, split.folds and split.file: they are different ways to split")


def split(members: Sequence[Member], settings: SplitSettings) -> list[Fold]:
    """The folds (one, unless `folds` is larger), each with its subjects sorted; the order of the members does not matter.

    Patients are ordered by grade and, within a grade, by a hash of seed and name; each split takes evenly spaced ones, so that each has
    about the same share of each grade. A share between 0 and 1 of two or more patients takes at least one and leaves at least one: with
    five patients or more no split is empty, with fewer val can be.

    Raises SettingError if there are too few patients, or if the user's list is unreadable, names an unknown subject or separates a patient.
    """
    if settings.file:
        return [listed(members, Path(settings.file))]
    grades = {m.patient: m.grade for m in sorted(members, reverse=True)}  # a patient's first time point comes last and decides
    order = sorted(grades, key=lambda patient: (grades[patient], hashed(patient, settings.seed)))
    if settings.folds > max(1, len(order)):
        raise SettingError(f"split.folds={settings.folds} needs as many patients, and there are {len(order)}: give fewer folds")
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
    """A fold of the test patients and the rest, which is divided by shares."""
    segmentor, rest = take(rest, wanted(settings.segmentor, len(rest)))
    val, gan = take(rest, wanted(settings.val, len(rest)))
    return {"segmentor": segmentor, "gan": gan, "val": val, "test": test}


def by_counts(order: list[str], settings: SplitSettings) -> Fold:
    """A fold by numbers of patients; the others are in no split. Raises SettingError if there are too few."""
    if sum(settings.counts) > len(order):
        raise SettingError(
            f"split.counts={list(settings.counts)} needs {sum(settings.counts)} patients, and there are {len(order)}: give smaller numbers"
        )
    chosen, _ = take(order, sum(settings.counts))
    test, rest = take(chosen, settings.counts[2])
    segmentor, gan = take(rest, settings.counts[0])
    val, gan = take(gan, wanted(settings.val, len(gan)))
    return {"segmentor": segmentor, "gan": gan, "val": val, "test": test}


def wanted(share: float, patients: int) -> int:
    """The number of patients in a share; between 0 and 1, it is at least one and not all of two or more."""
    count = round(share * patients)
    return min(max(count, 1), patients - 1) if 0 < share < 1 and patients >= 2 else count


def take(patients: list[str], count: int) -> tuple[list[str], list[str]]:
    """`count` evenly spaced patients of an ordered list, and the others."""
    picked = {((2 * i + 1) * len(patients)) // (2 * count) for i in range(count)}
    return [p for i, p in enumerate(patients) if i in picked], [p for i, p in enumerate(patients) if i not in picked]


def subjects_of(members: Sequence[Member], patients: Fold) -> Fold:
    """Each split's subjects: all time points of its patients."""
    home = {patient: name for name, chosen in patients.items() for patient in chosen}
    return {name: sorted(m.subject for m in members if home.get(m.patient) == name) for name in SPLITS}


def listed(members: Sequence[Member], path: Path) -> Fold:
    """The split that the user's list gives. Raises SettingError naming the file and the name that is wrong."""
    homes: dict[str, tuple[str, str]] = {}  # by patient: the split, and the name in the list that decided it
    fold: Fold = {name: [] for name in SPLITS}
    by_name: dict[str, list[Member]] = {}
    for member in members:
        for name in {member.subject, member.patient}:
            by_name.setdefault(name, []).append(member)
    known = Names(by_name)
    for written, wanted_split in read_list(path):
        name = known.find(written) or written
        if name not in by_name:
            raise SettingError(
                f"split.file={path} names {name}, which is not a subject or patient of this cohort: correct or remove it"
            )
        for member in by_name[name]:
            home, first = homes.setdefault(member.patient, (wanted_split, name))
            if home != wanted_split:
                raise SettingError(
                    f"split.file={path} leaks: patient {member.patient} is in {home} ({first}) and in {wanted_split} ({name}): "
                    "put all time points of a patient into one split"
                )
            fold[wanted_split].append(member.subject)
    return {name: sorted(set(subjects)) for name, subjects in fold.items()}


def read_list(path: Path) -> list[tuple[str, str]]:
    """(name, split) of each row. Raises SettingError."""
    try:
        rows = table(path)
    except (OSError, ValueError, csv.Error) as error:
        raise SettingError(f"split.file={path} cannot be read ({error}): give a CSV file") from error
    listed_rows = []
    for number, row in enumerate(rows, 2):
        name, home = next((row[column] for column in NAMES if row.get(column)), ""), row.get("split", "").lower()
        if not name or not home:
            raise SettingError(f"split.file={path} line {number}: expected the columns split and patient or subject")
        if home not in SPLITS:
            raise SettingError(f"split.file={path} line {number}: {home!r} is not a split: choose from {', '.join(SPLITS)}")
        listed_rows.append((name, home))
    if not listed_rows:
        raise SettingError(f"split.file={path} has no rows: expected the columns split and patient or subject")
    return listed_rows


def hashed(patient: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{patient}".encode()).hexdigest()

"""Finding the cases of a BRATS folder: which files belong to which patient, by the challenge's names of each year.

2018-2021   NAME_t1 NAME_t1ce NAME_t2 NAME_flair NAME_seg      (.nii or .nii.gz), HGG/ and LGG/ folders or name_mapping.csv
2023 on     NAME-t1n NAME-t1c NAME-t2w NAME-t2f NAME-seg
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from preprocess.errors import CaseError, UserError

MODALITIES = ("t1", "t1c", "t2", "flair")
SUFFIXES = {
    **{"_t1": "t1", "_t1ce": "t1c", "_t2": "t2", "_flair": "flair", "_seg": "seg"},
    **{"-t1n": "t1", "-t1c": "t1c", "-t2w": "t2", "-t2f": "flair", "-seg": "seg"},
}
FILE_NAME = re.compile(r"(?P<case>.+)(?P<suffix>_t1|_t1ce|_t2|_flair|_seg|-t1n|-t1c|-t2w|-t2f|-seg)\.nii(\.gz)?", re.IGNORECASE)


@dataclass(frozen=True)
class Case:
    """One subject's files, by modality, and `seg` where there is one."""

    name: str
    patient: str
    grade: str  # "HGG", "LGG" or "unknown"
    files: dict[str, Path]
    problem: str = ""  # the sentence why it cannot be used, where discovery knows one

    def check(self, require: Sequence[str] = MODALITIES) -> None:
        """Raise CaseError if a required modality is missing, or if discovery found a problem with the case."""
        if self.problem:
            raise CaseError(self.problem)
        if missing := [m for m in require if m not in self.files]:
            raise CaseError(f"{self.name}: no {', '.join(missing)} file beside {self.files[next(iter(self.files))].name}")


@dataclass(frozen=True)
class Found:
    """What discovery makes of a folder."""

    cases: list[Case]
    layout: str
    why: str  # one or two lines for the user: what was found, and what was left out


def discover(source: Path, layout: str = "auto", pattern: str = "", names: Mapping[str, str] | None = None) -> Found:
    """All cases below `source`, sorted by name; those that cannot be used are among them (see `Case.check`).

    Raises UserError if the folder is absent or holds no case.
    """
    if not source.is_dir():
        raise UserError(f"source={source} is not a folder: give the folder that holds the BRATS cases")
    found: dict[str, dict[str, Path]] = {}
    twice: dict[str, str] = {}
    for path in sorted(files_below(source)):
        if match := FILE_NAME.fullmatch(path.name):
            name, kind = match["case"], SUFFIXES[match["suffix"].lower()]
            if found.setdefault(name, {}).setdefault(kind, path) != path:
                twice[name] = f"{name}: {path} is a second file of one modality: remove one of the two"
    cases = {name: files for name, files in found.items() if set(files) & set(MODALITIES)}
    if not cases:
        looked_for = "NAME_t1.nii.gz, NAME_t1ce, NAME_t2, NAME_flair (BRATS 2018-2021) and NAME-t1n, -t1c, -t2w, -t2f (2023 on)"
        raise UserError(f"source={source} holds no case: looked for {looked_for}")
    grades = mapped_grades(source)
    found_cases = [
        Case(name, patient_of(name), grade_of(name, files, grades), files, twice.get(name, ""))
        for name, files in sorted(cases.items())
    ]
    return Found(found_cases, "brats2018", f"{len(found_cases)} cases")


def files_below(source: Path) -> Iterator[Path]:
    """All files, through linked folders too (shared file systems often link cases in), but not `._` files, which macOS leaves."""
    seen = set()
    for folder, folders, names in os.walk(source, followlinks=True):
        seen.add(Path(folder).resolve())
        folders[:] = [f for f in folders if (Path(folder) / f).resolve() not in seen]  # a link to a parent would never end
        yield from (Path(folder) / name for name in names if not name.startswith("."))


def patient_of(name: str) -> str:
    """The patient behind a case: BRATS numbers the time points of a patient in the last part of the name."""
    time_point = re.fullmatch(r"((?i:brats)1[789]_.+)_\d+|(BraTS-.+-\d+)-\d{3}", name)
    return next((part for part in time_point.groups() if part), name) if time_point else name


def grade_of(name: str, files: dict[str, Path], mapped: dict[str, str]) -> str:
    """HGG or LGG from the nearest parent folder of that name, else from name_mapping.csv, else "unknown"."""
    folders = [part.upper() for part in reversed(next(iter(files.values())).parts[:-1])]
    return next((folder for folder in folders if folder in ("HGG", "LGG")), mapped.get(name, "unknown"))


def mapped_grades(source: Path) -> dict[str, str]:
    """Grades by case name from the challenge's name_mapping*.csv, which has a Grade column and one column of names a year."""
    grades: dict[str, str] = {}
    for path in sorted(source.rglob("name_mapping*.csv")):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                if (grade := (row.get("Grade") or "").upper()) in ("HGG", "LGG"):
                    grades |= {name: grade for name in row.values() if isinstance(name, str) and name.lower().startswith("brats")}
    return grades

"""HGG or LGG: from the nearest folder of that name, else from tables among the data."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path

from preprocess.shared.tables import Names, table
from preprocess.source.contents import absence

# WHO grades as BRATS groups them: high grade is III and IV
GRADES = {
    "HGG": "HGG",
    "LGG": "LGG",
    "1": "LGG",
    "2": "LGG",
    "3": "HGG",
    "4": "HGG",
    "I": "LGG",
    "II": "LGG",
    "III": "HGG",
    "IV": "HGG",
}


NAMES = ("subject", "patient", "participant", "case")  # columns of names, as are those that end in id


def grade_in(path: Path) -> str:
    """The grade that the nearest folder above the file is named after, or an empty string."""
    return next((folder.upper() for folder in reversed(path.absolute().parts[:-1]) if folder.upper() in ("HGG", "LGG")), "")


def listed_grades(files: Iterable[Path]) -> tuple[dict[str, str], list[str]]:
    """Grades by the name of a case or patient, from the tables among `files`, and a sentence for each table that cannot be read: none is needed. If
    two tables differ, the one listed later here counts.

    survival*.csv         the challenge's survival tables; without a column Grade all HGG, since the survival task had only patients
                          with glioblastoma (Bakas et al. 2018, arXiv:1811.02629)
    participants.tsv      BIDS: participant_id and grade
    name_mapping*.csv     the challenge's: Grade, and a column of names for each year
    """
    files = sorted(files)
    grades: dict[str, str] = {}
    unread: list[str] = []
    for pattern, default in (("survival*.csv", "HGG"), ("participants.tsv", ""), ("name_mapping*.csv", "")):
        for path in files:
            if fnmatch(path.name.lower(), pattern):
                try:
                    grades |= {name: grade for name, grade in rows(path, default) if grade}
                except (OSError, csv.Error, ValueError) as error:
                    why = getattr(error, "strerror", None) or str(error)
                    unread.append(f"left out: {path.name} cannot be read ({why}): its grades are unknown")
    return grades, unread


def rows(path: Path, default: str) -> Iterator[tuple[str, str]]:
    """(name, grade) for every name in a column of names; the grade is empty if the table does not give it."""
    if why := absence(path):
        raise ValueError(why)
    for cells in table(path):
        column = next((name for name in cells if name == "grade"), next((name for name in cells if name.endswith("grade")), ""))
        grade = graded(cells[column]) if column else default
        yield from ((name, grade) for column, name in cells.items() if column.endswith("id") or column in NAMES)


def graded(text: str) -> str:
    """HGG or LGG for `4`, `4.0`, `IV`, `WHO grade IV` or `HGG`; empty for others."""
    plain = re.sub(r"^(WHO)?[\s_]*(GRADE|G)?[\s_]*(?=[1-4I])|(\.0|°)$", "", text.strip().upper())
    return GRADES.get(plain, "")


def by_known_name(listed: Mapping[str, str], names: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """The listed grades by the names of cases and patients that they mean, and a sentence if none, or some of BIDS's, mean a case."""
    known = Names(names)
    found = {written: known.find(written) for written in listed}
    grades = {name: listed[written] for written, name in found.items() if name and name != written}
    grades |= {name: listed[name] for name in found.values() if name in listed}  # what is written exactly so counts
    strange = [written for written, name in found.items() if not name]
    if not strange or (found and len(strange) < len(found) and not any(name.startswith("sub-") for name in strange)):
        return grades, []
    return grades, [f"{len(strange)} of {len(found)} names in the tables of grades match no case, such as {strange[0]}"]

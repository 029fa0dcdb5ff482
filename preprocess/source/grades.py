"""HGG or LGG: from the nearest folder of that name, else from tables among the data."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path

from preprocess.shared.errors import UserError

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


def grade_in(path: Path) -> str:
    """The grade that the nearest folder above the file is named after, or an empty string."""
    return next((folder.upper() for folder in reversed(path.absolute().parts[:-1]) if folder.upper() in ("HGG", "LGG")), "")


def listed_grades(files: Iterable[Path]) -> dict[str, str]:
    """Grades by the name of a case or patient, from the tables among `files`; if two tables differ, the one listed later here counts.

    survival*.csv         the challenge's survival tables; without a column Grade all HGG, since the survival task had only patients
                          with glioblastoma (Bakas et al. 2018, arXiv:1811.02629)
    participants.tsv      BIDS: participant_id and grade
    name_mapping*.csv     the challenge's: Grade, and a column of names for each year
    """
    files = sorted(files)
    grades: dict[str, str] = {}
    for pattern, default in (("survival*.csv", "HGG"), ("participants.tsv", ""), ("name_mapping*.csv", "")):
        for path in files:
            if fnmatch(path.name.lower(), pattern):
                try:
                    grades |= {name: grade for name, grade in rows(path, default) if grade}
                except (OSError, csv.Error) as error:
                    raise UserError(f"{path} cannot be read ({error}): correct or remove it") from error
    return grades


def rows(path: Path, default: str) -> Iterator[tuple[str, str]]:
    """(name, grade) for every name in a column of names; the grade is empty if the table does not give it."""
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        for row in csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ","):
            cells = {
                (column or "").strip().lower(): (value or "").strip() for column, value in row.items() if isinstance(value, str)
            }
            grade = GRADES.get(cells["grade"].upper(), "") if "grade" in cells else default
            yield from ((name, grade) for column, name in cells.items() if column.endswith("id"))

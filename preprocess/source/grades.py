"""HGG or LGG: from the nearest folder of that name, else from tables among the data."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path

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
                    why = error.strerror if isinstance(error, OSError) else str(error)
                    unread.append(f"left out: {path.name} cannot be read ({why}): its grades are unknown")
    return grades, unread


def rows(path: Path, default: str) -> Iterator[tuple[str, str]]:
    """(name, grade) for every name in a column of names; the grade is empty if the table does not give it."""
    text = decoded(path)
    for row in csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if path.suffix.lower() == ".tsv" else ","):
        cells = {(column or "").strip().lower(): (value or "").strip() for column, value in row.items() if isinstance(value, str)}
        grade = GRADES.get(cells["grade"].upper(), "") if "grade" in cells else default
        yield from ((name, grade) for column, name in cells.items() if column.endswith("id"))


def decoded(path: Path) -> str:
    """A table's text: UTF-8, Excel's UTF-16, or else Latin-1. Raises OSError if it cannot be read, ValueError if it is no text."""
    if why := absence(path):
        raise ValueError(why)
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    if b"\0" in content:
        raise ValueError("it is not text")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")

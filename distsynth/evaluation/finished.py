"""The patients that an evaluation has scored, stored until all scores are written, so that a killed evaluation resumes with the others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distsynth.ranks.world import World
from preprocess.shared.errors import StoreError
from preprocess.shared.files import read_bytes

Row = dict[str, Any]
Patient = tuple[str, str]  # the cohort's name in the tables, the subject


class Finished:
    """Rows of scores by patient; each rank appends to its own file, `finished-RANK.jsonl`."""

    def __init__(self, folder: Path, made_of: str, world: World) -> None:
        """Reads what an earlier evaluation with the same `made_of` has stored, on any number of ranks."""
        self.folder, self.made_of, self.world = folder, made_of, world
        stored = dict(read(folder, made_of)) if world.leads else None
        self.rows: dict[Patient, list[Row]] = world.gather(stored)[0] or {}
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, patient: Patient, rows: list[Row]) -> None:
        """Store the rows of a patient that this rank has scored, in the form of scores.json."""
        self.rows[patient] = rows
        with (self.folder / f"finished-{self.world.rank}.jsonl").open("a") as file:
            file.write("\n" + json.dumps([self.made_of, patient, rows]) + "\n")  # the line before it may be incomplete

    def clear(self) -> None:
        """Delete the files, once the scores are written."""
        for path in self.folder.glob("finished-*.jsonl"):
            path.unlink()


def read(folder: Path, made_of: str) -> Iterator[tuple[Patient, list[Row]]]:
    """Every patient stored by an evaluation with this `made_of`; incomplete lines and those of other evaluations are skipped."""
    for path in sorted(folder.glob("finished-*.jsonl")):
        try:
            text = read_bytes(path).decode(errors="replace")
        except OSError as error:
            raise StoreError(f"{path} cannot be read ({error.strerror}): remove it") from error
        for line in text.splitlines():
            try:
                of, (cohort, subject), rows = json.loads(line)
            except (ValueError, TypeError, RecursionError):  # empty, or cut off when the process was killed
                continue
            if of == made_of:
                yield (cohort, subject), rows

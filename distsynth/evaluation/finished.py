"""The patients that an evaluation has finished, kept until its scores are written: a stopped or killed one goes on with the others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distsynth.ranks.world import World

Row = dict[str, Any]
Patient = tuple[str, str]  # the cohort's name in the tables, the subject


class Finished:
    """Rows by patient; each rank adds to a file of its own, `finished-RANK.jsonl`."""

    def __init__(self, folder: Path, made_of: str, world: World) -> None:
        """Takes up what is there of an evaluation of the same `made_of`, whatever the number of ranks then."""
        self.folder, self.made_of, self.world = folder, made_of, world
        there = dict(read(folder, made_of)) if world.leads else None
        self.rows: dict[Patient, list[Row]] = world.gather(there)[0] or {}
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, patient: Patient, rows: list[Row]) -> None:
        """A patient of this rank's is done: its rows, as scores.json has them."""
        self.rows[patient] = rows
        with (self.folder / f"finished-{self.world.rank}.jsonl").open("a") as file:
            file.write("\n" + json.dumps([self.made_of, patient, rows]) + "\n")  # whatever torn line may stand before it

    def clear(self) -> None:
        """The scores are written."""
        for path in self.folder.glob("finished-*.jsonl"):
            path.unlink()


def read(folder: Path, made_of: str) -> Iterator[tuple[Patient, list[Row]]]:
    """Every patient that is kept of an evaluation of `made_of`; lines that are torn or another's are passed over."""
    for path in sorted(folder.glob("finished-*.jsonl")):
        for line in path.read_text(errors="replace").splitlines():
            try:
                of, (cohort, subject), rows = json.loads(line)
            except ValueError:  # empty, or torn by a kill
                continue
            if of == made_of:
                yield (cohort, subject), rows

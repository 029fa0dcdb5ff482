"""What a call asks of every patient, and what became of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from distsynth.modalities import Modality
from preprocess.shared.errors import SettingError
from preprocess.source.doubts import Checks
from preprocess.source.layouts import MODALITIES


@dataclass(frozen=True)
class Options:
    """How patients are synthesised."""

    outputs: str | list[str] = "missing"  # or "all", or contrasts
    resample: str = ""
    coregister: bool = False
    flip: bool = False
    continued: bool = False
    threads: int = 0
    checks: Checks = "refuse"


@dataclass
class Outcome:
    """What became of a patient, as report.json has it."""

    patient: str
    status: Literal["synthesised", "kept", "nothing missing", "set aside"]
    outputs: dict[str, str] = field(default_factory=dict)  # by contrast, the file
    by: dict[str, str] = field(default_factory=dict)  # by contrast, the run
    why: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def line(self) -> str:
        """For the terminal."""
        if self.status == "set aside":
            return f"set aside: {self.why}"
        by = {output: f" by {run}" for output, run in self.by.items()}
        made = ", ".join(f"{Modality(output).title}{by.get(output, '')} {path}" for output, path in self.outputs.items())
        return "; ".join([f"{self.patient}: {self.status}{' ' if made else ''}{made}", *self.notes])


def listed_outputs(given: Any) -> str | list[str]:
    """`missing`, `all`, or contrasts: `t1c`, `t1c,flair` or a list. Raises SettingError for anything else."""
    if given in ("missing", "all"):
        return str(given)
    names = given.split(",") if isinstance(given, str) else list(given) if isinstance(given, Sequence) else [given]
    if not names or (wrong := [name for name in names if name not in MODALITIES]):
        what = wrong[0] if names else given
        raise SettingError(
            f"outputs={what} must be missing, all, or contrasts among {', '.join(MODALITIES)}, e.g. outputs='[t1c,flair]'"
        )
    return list(dict.fromkeys(names))

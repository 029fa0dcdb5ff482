"""What a call asks of every patient, and what became of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from distsynth.modalities import Modality


@dataclass(frozen=True)
class Options:
    """How patients are synthesised."""

    outputs: str | list[str] = "missing"  # or "all", or contrasts
    resample: str = ""
    coregister: bool = False
    flip: bool = False
    continued: bool = False
    threads: int = 0


@dataclass
class Outcome:
    """What became of a patient, as report.json has it."""

    patient: str
    status: Literal["synthesised", "kept", "nothing missing", "set aside"]
    outputs: dict[str, str] = field(default_factory=dict)  # by contrast, the file
    why: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def line(self) -> str:
        """For the terminal."""
        if self.status == "set aside":
            return f"set aside: {self.why}"
        made = ", ".join(f"{Modality(output).title} {path}" for output, path in self.outputs.items())
        return "; ".join([f"{self.patient}: {self.status}{' ' if made else ''}{made}", *self.notes])

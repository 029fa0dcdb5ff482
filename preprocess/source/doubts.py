"""What is odd about a case, in two grades: said, while the case goes in, and known to be wrong, for which the case is set aside."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from preprocess.shared.errors import CaseError

Checks = Literal["refuse", "warn"]


@dataclass
class Doubts:
    """Collects what is odd about a case while it is read."""

    case: str
    checks: Checks = "refuse"
    noted: list[tuple[str, str]] = field(default_factory=list)  # kind of file, or empty for all; one sentence

    def say(self, kind: str, what: str) -> None:
        """Note what the user should know and may accept."""
        self.noted.append((kind, what))

    def refuse(self, kind: str, what: str) -> None:
        """Raise CaseError for what is known to be wrong; with checks=warn note it."""
        if self.checks == "refuse":
            also = "".join(f"; also: {sentence}" for _, sentence in self.noted[:1])  # which may be the cause
            raise CaseError(f"{self.case}: {what} (checks=warn takes the case as it is){also}")
        self.say(kind, what)

"""The state of each run, read from its journal: a live table on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from distsynth import metric_names
from distsynth.tracking.journal import read

if TYPE_CHECKING:
    from rich.table import Table

    from slurm.sweep import Run

SHOWN = ("g_loss", "d_loss", "s_loss", "g_rec")
# By region and metric of a validation's score: what its number is. PSNR is shown as soon as there is one.
VALIDATION = {("brain", "psnr"): ("PSNR", ".1f", " dB"), ("tumour", "dice"): ("Dice", ".2f", "")}


@dataclass
class RunState:
    """A run as its journal describes it."""

    run: Run
    state: str = "waiting"  # waiting, running, finished, failed, stopped
    reason: str = ""
    progress: dict[str, Any] = field(default_factory=dict)
    terms: dict[str, float] = field(default_factory=dict)  # the latest losses
    scores: dict[str, float] = field(default_factory=dict)  # of the latest validation, by MODALITY/REGION/METRIC
    started: float = 0.0
    latest: float = 0.0
    offset: int = 0

    @property
    def ended(self) -> bool:
        return self.state in ("finished", "failed")

    def update(self) -> bool:
        """Read the journal's new lines; whether there were any."""
        lines, self.offset = read(self.run.directory.journal, self.offset)
        for line in lines:
            self.take(line)
        return bool(lines)

    def take(self, line: dict[str, Any]) -> None:
        self.latest = line["time"] / 1000
        if line["kind"] == "start":
            self.state, self.reason = "running", ""
            self.started = self.started or self.latest
        elif line["kind"] == "progress":
            self.progress = line
        elif line["kind"] == "metrics":
            values = line["values"]
            self.terms |= {term: value for key, value in values.items() if (term := metric_names.term(key))}
            self.scores |= {score: value for key, value in values.items() if (score := metric_names.validated(key))}
        elif line["kind"] == "end":
            self.state, self.reason = line["status"], line["reason"]

    @property
    def where(self) -> str:
        p = self.progress
        return f"{p['stage']} {p['epoch']}/{p['epochs']}" if p else ""

    @property
    def losses(self) -> str:
        return " ".join(f"{name} {self.terms[name]:.3g}" for name in SHOWN if name in self.terms)

    @property
    def validation(self) -> str:
        """By output: the PSNR in the brain, or while only a segmentor is trained the Dice of the tumour."""
        parts = [(*metric_names.score_parts(name), value) for name, value in self.scores.items()]
        for kind, (title, digits, unit) in VALIDATION.items():
            if each := [f"{modality} {value:{digits}}" for modality, *of, value in parts if tuple(of) == kind]:
                return f"val {title} {', '.join(each)}{unit}"
        return ""

    @property
    def elapsed(self) -> str:
        seconds = int((self.latest if self.ended else time.time()) - self.started) if self.started else 0
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}" if seconds else ""


def table(states: Sequence[RunState], title: str) -> Table:
    """All runs, one per row."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=Text(title), title_justify="left", expand=False)
    for name in ("run", "state", "stage and epoch", "time", "losses", "validation"):
        drawn.add_column(name, no_wrap=name in ("run", "time"), overflow="fold")
    colours = {"finished": "green", "failed": "red", "running": "cyan"}
    for s in states:
        state = Text(s.state, style=colours.get(s.state, "dim"))
        others = map(Text, (s.where, s.elapsed, s.losses, s.validation))  # a journal's words are no markup
        drawn.add_row(Text(s.run.name), state, *others)
    return drawn


class Display:
    """Shows the states: redrawn in place on a terminal, else a line for each change of state or epoch."""

    def __init__(self, states: Sequence[RunState], title: str) -> None:
        self.states, self.title = states, title
        self.printed: dict[str, str] = {}
        self.live: Any = None

    def __enter__(self) -> Display:
        if sys.stdout.isatty():
            from rich.live import Live

            self.live = Live(table(self.states, self.title), refresh_per_second=2)
            self.live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self.live is not None:
            self.show()
            self.live.__exit__(*error)

    def show(self) -> None:
        if self.live is not None:
            self.live.update(table(self.states, self.title))
            return
        for s in self.states:
            key = f"{s.state} {s.where}".strip()
            if s.state != "waiting" and self.printed.get(s.run.name) != key:
                self.printed[s.run.name] = key
                print(f"{s.run.name}: {key} {s.elapsed} {s.losses} {s.validation} {s.reason}".rstrip(), flush=True)

"""Writes the page: it contains everything, loads nothing, and escapes every name."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from preprocess.shared.files import write_atomically

PIXELS_PER_INCH = (
    160 / 100
)  # a figure's pixels for one pixel of the page: sharp on a high-resolution screen, and in the size it was drawn for


@dataclass(frozen=True)
class Table:
    """Rows under column names; the columns `numbers` are aligned right, and a `tall` table scrolls."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[int] = ()
    caption: str = ""
    tall: bool = False


@dataclass
class Section:
    """A heading with a figure, tables, or both."""

    title: str
    caption: str = ""
    figure: Path | None = None
    dark: bool = False  # a figure of images, on black
    lines: Sequence[str] = ()
    tables: Sequence[Table] = ()
    number: int = field(default=0, init=False)

    @property
    def anchor(self) -> str:
        return "".join(letter if letter.isalnum() else "-" for letter in self.title.lower())

    @property
    def image(self) -> str:
        """The figure's file in base64."""
        return base64.b64encode(self.figure.read_bytes()).decode() if self.figure else ""

    @property
    def width(self) -> int:
        """In pixels of the page; a PNG has its own width at byte 16."""
        assert self.figure is not None
        return round(int.from_bytes(self.figure.read_bytes()[16:20]) / PIXELS_PER_INCH)

    @property
    def wide(self) -> bool:
        return self.figure is not None and self.width > 640


def write(path: Path, sections: Sequence[Section], **texts: Any) -> None:
    """Write the page: the sections in order, and `name`, `read`, `facts` and `footer` where page.html has them."""
    from jinja2 import Environment

    for number, section in enumerate((s for s in sections if s.figure), 1):
        section.number = number
    template = Environment(autoescape=True, trim_blocks=True).from_string(Path(__file__).with_name("page.html").read_text())
    write_atomically(path, template.render(sections=sections, **texts))

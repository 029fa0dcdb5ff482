"""Tables that people and Excel write: which separator, which encoding, and whether an id has BIDS's `sub-`, is read from them."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterable
from pathlib import Path

SEPARATORS = "\t,;"


def table(path: Path) -> list[dict[str, str]]:
    """The rows as cells by the column's name in lower case. Raises OSError if the file cannot be read, ValueError or csv.Error if it is no table."""
    text = decoded(path.read_bytes())
    head = next((line for line in text.splitlines() if line.strip()), "")
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(SEPARATORS, key=head.count), skipinitialspace=True)
    return [
        {(column or "").strip().lower(): value.strip() for column, value in row.items() if isinstance(value, str)}
        for row in reader
    ]


def decoded(content: bytes) -> str:
    """UTF-8, Excel's UTF-16, or else Latin-1. Raises ValueError if it is no text."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    if b"\0" in content:
        raise ValueError("it is not text")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


class Names:
    """Names that a table may write without `sub-`, or in other case."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = set(names)
        self.loose: dict[str, set[str]] = {}
        for name in self.names:
            self.loose.setdefault(loosened(name), set()).add(name)

    def find(self, written: str) -> str:
        """The name that was meant; empty if none, or if it could be several."""
        meant = {written} if written in self.names else self.loose.get(loosened(written), set())
        return next(iter(meant)) if len(meant) == 1 else ""


def loosened(name: str) -> str:
    return name.strip().casefold().removeprefix("sub-")

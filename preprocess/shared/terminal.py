"""What reaches the terminal: names from files, folders and servers are shown there, and never obeyed as commands to it."""

from __future__ import annotations

import builtins
from typing import Any

# Control characters but tab and newline; what turns a line's direction round; the bytes of a file's name that are no UTF-8.
RANGES = ((0, 8), (11, 31), (127, 159), (0x200E, 0x200F), (0x2028, 0x202E), (0x2066, 0x2069), (0xD800, 0xDFFF))
TABLE = {point: chr(point).encode("unicode_escape").decode() for first, last in RANGES for point in range(first, last + 1)}


def plain(text: str) -> str:
    """The text, with control characters as \\x1b."""
    return text.translate(TABLE)


def print_plain() -> None:
    """From now on `print` and rich's texts show control characters as \\x1b."""
    from rich import control

    original = builtins.print

    def printed(*values: Any, sep: str | None = " ", **options: Any) -> None:
        original(plain((" " if sep is None else sep).join(map(str, values))), **options)

    vars(builtins)["print"] = printed
    vars(control)["_CONTROL_STRIP_TRANSLATE"].update(TABLE)  # of every Text; rich writes its own sequences elsewhere

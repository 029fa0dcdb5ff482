"""The user's own names: a path below the source, written with fields and stars, as a layout."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence

from preprocess.shared.errors import SettingError
from preprocess.source.layouts import BELOW, KINDS, LAYOUTS, SOURCE, WORD, Layout, rule

FIELDS = ("case", "modality", "patient", "grade")
FIELD = r"(\{\w*\}|\*\*/|\*)"
NAMES = ("auto", *(layout.name for layout in LAYOUTS), "pattern")
OTHER_NAMES = {
    **{f"brats{year}": "brats2018" for year in (2017, 2019, 2020, 2021, 2022)},
    **{f"brats{year}": "brats2023" for year in (2024, 2025, 2026)},
    **dict.fromkeys(("decathlon", "nnunet", "nnunetv2", "nnunet_raw"), "msd"),
}
SYNTAX = (
    "a pattern is a path below source with {case}, {modality} and perhaps {patient} and {grade}, * for any part of a name, **/ for any folders "
    "and | between several; WORDS.WORD=KIND gives your words for t1, t1c, t2, flair, seg and mask"
)


def candidates(layout: str, pattern: str, names: Mapping[str, str], words: str = "names") -> tuple[Layout, ...]:
    """The layouts that the settings allow; `words` is what the command calls `names`. Raises SettingError for an unknown layout or settings that
    contradict each other."""
    layout = layout.lower()
    if layout not in NAMES:
        near = OTHER_NAMES.get(layout) or next(iter(difflib.get_close_matches(layout, NAMES, n=1)), "")
        meant = f"; did you mean layout={near}?" if near else ""
        raise SettingError(f"layout={layout} is not known: choose from {', '.join(NAMES)}{meant}")
    if bool(pattern) != (layout == "pattern") and not (pattern and layout == "auto"):
        raise SettingError(
            f"layout={layout} and pattern={pattern or '(none)'} contradict each other: pattern= needs layout=pattern; {syntax(words)}"
        )
    if names and not pattern:
        raise SettingError(f"{words}= gives the words of a pattern: give pattern= too; {syntax(words)}")
    if pattern:
        return (from_pattern(pattern, names, words),)
    return tuple(each for each in LAYOUTS if layout in ("auto", each.name))


def syntax(words: str = "names") -> str:
    return SYNTAX.replace("WORDS.", f"{words}.")


def from_pattern(pattern: str, names: Mapping[str, str], words: str = "names") -> Layout:
    """The layout of a path template below the source. Raises SettingError, with the syntax.

    It must contain {case} and {modality}, and may contain {patient} and {grade}. Each matches the shortest text without a slash that fits;
    the same field twice matches the same text. `*` is any part of a name, `**/` any folders, and a file may fit any of several templates with
    `|` between them. `names` adds words for the kinds.
    """
    templates = [parsed(each) for each in pattern.split("|")]
    for parts in templates:
        fields = [part[1:-1] for part in parts[1::2] if part.startswith("{")]
        if unknown := [field for field in fields if field not in FIELDS]:
            raise SettingError(f"pattern={pattern} has the unknown field {{{unknown[0]}}}: {syntax(words)}")
        if missing := [field for field in FIELDS[:2] if field not in fields]:
            example = "for example {case}/*_{modality}.nii.gz"
            raise SettingError(f"pattern={pattern} lacks {{{missing[0]}}}: {syntax(words)}; {example}")
    if wrong := [word for word, kind in names.items() if kind not in KINDS or not word]:
        raise SettingError(f"{words}.{wrong[0]}={names[wrong[0]]} must be one of {', '.join(KINDS)}")
    kinds = {kind: kind for kind in KINDS} | {word.lower(): kind for word, kind in names.items()}
    return Layout("pattern", pattern, tuple(rule(SOURCE + "".join(pieces(parts)), kinds) for parts in templates))


def parsed(pattern: str) -> list[str]:
    """A pattern split at its fields and stars, which stand at the odd places."""
    return re.split(FIELD, pattern.strip().removeprefix("./"))


def pieces(parts: Sequence[str]) -> Iterator[str]:
    """The pieces of a regular expression for a pattern that was split at its fields and stars."""
    seen = set()
    for number, part in enumerate(parts):
        field = part[1:-1]
        if number % 2 == 0:
            yield re.escape(part)
        elif part in seen:
            yield f"(?P={'word' if field == 'modality' else field})"
        elif field in FIELDS:
            seen.add(part)
            yield WORD if field == "modality" else f"(?P<{field}>[^/]+?)"
        else:
            yield "[^/]*" if part == "*" else BELOW

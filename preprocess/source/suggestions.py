"""Advice on patterns that works when it is followed: each is tried on the files before it is given."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from preprocess.source.choice import Choice, Named, shown
from preprocess.source.layouts import KINDS, MODALITIES, SOURCE, Layout
from preprocess.source.patterns import from_pattern, parsed, pieces

MOST = 16  # words in a suggested command
EXTENSION = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)


def selecting(source: Path, files: Sequence[Path], choices: Mapping[str, Choice], words: str) -> str:
    """The words of a command that take one file of each kind of every case, where there are several; empty if no simple pattern does."""
    for separator in "_-":
        for extension in (".nii.gz", ".nii", ".nii*"):
            names = named_words(choices, separator, extension)
            pattern = f"**/{{case}}{separator}{{modality}}{extension}"
            if 0 < len(names) <= MOST and selects(source, files, choices, from_pattern(pattern, names)):
                needed = {word: kind for word, kind in names.items() if word != kind}
                given = [f"pattern={pattern}", *(f"{words}.{word}={kind}" for word, kind in needed.items())]
                return shlex.join(given)
    return ""


def named_words(choices: Mapping[str, Choice], separator: str, extension: str) -> dict[str, str]:
    """What follows the case's name in the files to take, with its kind; nothing if a file is named in another way."""
    words: dict[str, str] = {}
    for name, choice in choices.items():
        for kind, each in choice.left.items():
            path = preferred(each, extension).path
            word = EXTENSION.sub("", path.name).removeprefix(f"{name}{separator}")
            if not re.fullmatch(r"[\w+-]+", word) or word == path.name or words.setdefault(word, kind) != kind:
                return {}
    return words


def preferred(named: Sequence[Named], extension: str) -> Named:
    return next((each for each in named if each.path.name.lower().endswith(extension)), named[0])


def selects(source: Path, files: Sequence[Path], choices: Mapping[str, Choice], layout: Layout) -> bool:
    """Whether the layout takes, of every case and kind, exactly one of the files that are left."""
    taken: Counter[tuple[str, str]] = Counter()
    for path in files:
        if (match := layout.match(f"/source/{path.relative_to(source).as_posix()}")) and match.case in choices:
            if path not in [each.path for each in choices[match.case].left.get(match.kind, ())]:
                return False
            taken[match.case, match.kind] += 1
    return dict(taken) == {(name, kind): 1 for name, choice in choices.items() for kind in choice.left}


def diagnosis(source: Path, files: Sequence[Path], pattern: str, words: str) -> str:
    """Why a pattern fits none of the files, by the example of one."""
    example = next((path.relative_to(source) for path in files if EXTENSION.search(path.name)), None)
    if example is None:
        return ""
    place = f"/source/{example.as_posix()}"
    if word := free_word(pattern, place):
        kinds = ", ".join(KINDS)
        return f"{shown(example)} fits if {word} is a word for a contrast: give {words}.{word}=KIND with one of {kinds}"
    if not pattern.startswith("**/") and (word := free_word(f"**/{pattern}", place)):
        deeper = f"begin the pattern with **/ ({shown(example)} lies in {len(example.parts) - 1} folders)"
        return deeper if word.lower() in MODALITIES else f"{deeper}, and give {words}.{word}=KIND"
    return f"{shown(example)} has another form than the pattern"


def free_word(pattern: str, place: str) -> str:
    """The text at {modality} if the pattern fits a path with any text there; else empty."""
    regex = SOURCE + "".join(pieces(parsed(pattern))).replace("\0", "(?P<word>[^/]+?)")
    match = re.fullmatch(regex, place, re.IGNORECASE)
    return match["word"] if match else ""

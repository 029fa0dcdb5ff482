"""Advice on patterns that works when it is followed: each is tried on the files before it is given."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from preprocess.source.choice import Choice, Named, shown
from preprocess.source.layouts import KINDS, MODALITIES, SOURCE, Layout, looks_like
from preprocess.source.patterns import from_pattern, parsed, pieces

MOST, MOST_FOLDERS = 16, 6  # words in a suggested command, and folders in its pattern
EXTENSION = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)


def selecting(source: Path, files: Sequence[Path], choices: Mapping[str, Choice], words: str) -> str:
    """The words of a command that take one file of each kind of every case, where there are several; empty if no simple pattern does."""
    choices = {name: replace(choice, left=by_looks(choice.left)) for name, choice in choices.items()}
    every = [(name, kind, each) for name, choice in choices.items() for kind, named in choice.left.items() for each in named]
    common = Counter((kind, word_of(name, each)) for name, kind, each in every)
    for folder in favourites(source, choices):
        for separator in "_-":
            for extension in (".nii.gz", ".nii", ".nii*"):
                picked = {
                    (name, kind): preferred(source, name, by_commonness(name, kind, named, common), separator, extension, folder)
                    for name, choice in choices.items()
                    for kind, named in choice.left.items()
                }
                names = named_words(picked, separator)
                for pattern in templates(source, picked, separator, extension) if 0 < len(names) <= MOST else ():
                    if selects(source, files, choices, from_pattern(pattern, names)):
                        given = [f"{words}.{word}={kind}" for word, kind in names.items() if word != kind]
                        return shlex.join([f"pattern={pattern}", *given])
    return ""


def by_looks(left: Mapping[str, Sequence[Named]]) -> dict[str, list[Named]]:
    """A case's files, where one of several T1w or T2w looks like a contrast that the case lacks, as acq-post_T1w does, as that contrast."""
    kinds = {kind: list(named) for kind, named in left.items()}
    for kind, named in left.items():
        for each in named if len(named) > 1 and kind in MODALITIES else ():
            looks = looks_like(each.path.name)
            if looks and looks not in kinds and len(kinds[kind]) > 1:
                kinds[kind].remove(each)
                kinds[looks] = [each]
    return kinds


def favourites(source: Path, choices: Mapping[str, Choice]) -> list[str]:
    """Folders from which to take the files of kinds that have several, in the order in which to try them; first no particular one."""
    several = [
        (name, each) for name, choice in choices.items() for named in choice.left.values() if len(named) > 1 for each in named
    ]
    return ["", *list(dict.fromkeys(folder_of(source, name, each.path) for name, each in several))[:MOST_FOLDERS]]


def folder_of(source: Path, name: str, path: Path) -> str:
    """A file's folder as in a pattern: the fields in place of the case's name, or of BIDS's subject and session."""
    patient, _, session = name.partition("_ses-")
    fields = {name: "{case}"} if not session else {patient: "{patient}", f"ses-{session}": "{case}"}
    parts = path.relative_to(source).parts[:-1]
    return "".join(f"{fields.get(part, '*' if name in part else part)}/" for part in parts)


def templates(source: Path, picked: Mapping[tuple[str, str], Named], separator: str, extension: str) -> Iterator[str]:
    """The patterns to try, the simplest first: any folders, those of the case's name, and the folders of the files themselves."""
    plain = f"{{case}}{separator}{{modality}}{extension}"
    yield f"**/{plain}"
    yield f"**/{{case}}/**/{plain}"
    sessions = any("_ses-" in name for name, _ in picked)
    file = f"{{patient}}_{plain}" if sessions else plain
    if sessions:
        yield f"**/{{patient}}/{{case}}/**/{file}"
    folders = sorted({folder_of(source, name, each.path) for (name, _), each in picked.items()})
    if len(folders) <= MOST_FOLDERS:
        yield "|".join(f"{folder}{file}" for folder in folders)


def by_commonness(name: str, kind: str, named: Sequence[Named], common: Mapping[tuple[str, str], int]) -> list[Named]:
    """First the file that is named as most cases' files of its kind."""
    return sorted(named, key=lambda each: -common[kind, word_of(name, each)])


def word_of(name: str, named: Named) -> str:
    """What follows the case's name in a file's."""
    return EXTENSION.sub("", named.path.name).removeprefix(name)


def named_words(picked: Mapping[tuple[str, str], Named], separator: str) -> dict[str, str]:
    """What follows the case's name in the files to take, with its kind; nothing if a file is named in another way."""
    words: dict[str, str] = {}
    for (name, kind), each in picked.items():
        word = EXTENSION.sub("", each.path.name).removeprefix(f"{name}{separator}")
        if not re.fullmatch(r"[\w+-]+", word) or word == each.path.name or words.setdefault(word, kind) != kind:
            return {}
    return words


def preferred(source: Path, name: str, named: Sequence[Named], separator: str, extension: str, folder: str) -> Named:
    """The first file that a pattern can name and that lies in the folder."""

    def rank(each: Named) -> tuple[bool, bool, bool]:
        file = each.path.name
        return (
            not file.startswith(f"{name}{separator}"),
            bool(folder) and folder_of(source, name, each.path) != folder,
            not file.lower().endswith(extension),
        )

    return min(named, key=rank)


def selects(source: Path, files: Sequence[Path], choices: Mapping[str, Choice], layout: Layout) -> bool:
    """Whether the layout takes, of every case and kind, exactly one of the files that are left, and makes no other case."""
    taken: Counter[tuple[str, str]] = Counter()
    for path in files:
        if not (match := layout.match(f"/source/{path.relative_to(source).as_posix()}")):
            continue
        if match.name in choices:
            if path not in [each.path for each in choices[match.name].left.get(match.kind, ())]:
                return False
            taken[match.name, match.kind] += 1
        elif match.kind in MODALITIES:
            return False
    return dict(taken) == {(name, kind): 1 for name, choice in choices.items() for kind in choice.left}


def diagnosis(source: Path, files: Sequence[Path], pattern: str, words: str) -> str:
    """Why a pattern fits none of the files, by the example of one."""
    example = next((path.relative_to(source) for path in files if EXTENSION.search(path.name)), None)
    if example is None:
        return ""
    place = f"/source/{example.as_posix()}"
    pattern = next((each for each in pattern.split("|") if free_word(each, place)), pattern.split("|")[0])
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

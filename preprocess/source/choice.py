"""Which of the files that bear a case's name are the case: one for each kind, or one sentence on why that is not known."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from preprocess.source.images import Volume
from preprocess.source.layouts import KINDS, MODALITIES, NATIVE, Layout, Match

RUN = re.compile(r"_run-([^_.]+)", re.IGNORECASE)
SPACE = re.compile(r"_space-([^_.]+)", re.IGNORECASE)


@dataclass(frozen=True)
class Named:
    """A file, or a volume of a 4-D file, with what its path tells."""

    path: Path
    layout: Layout
    match: Match
    volume: Volume | None = None

    @property
    def is_bids(self) -> bool:
        return self.layout.name == "bids"

    @property
    def named_space(self) -> str:
        """The space that BIDS's name gives, in lower case; empty if none."""
        named = SPACE.search(self.path.name) if self.is_bids else None
        return named.group(1).lower() if named else ""

    @property
    def space(self) -> str:
        """The template on whose grid it lies, as BIDS names it; empty for the patient's own or that of a contrast."""
        return "" if self.named_space in NATIVE else self.named_space

    @property
    def run(self) -> tuple[int, str]:
        """BIDS's run, in an order that puts run-2 before run-10 and a file without one first."""
        named = RUN.search(self.path.name)
        value = named.group(1) if named else ""
        return (int(value), "") if value.isdecimal() else (bool(value), value)


@dataclass(frozen=True)
class Choice:
    """A case's files, by kind all that are left of it; those that were left out as of other runs, or as in another space; and the sentence if it
    is not known which to take."""

    left: dict[str, list[Named]]
    dropped: list[Named]
    elsewhere: list[Named]
    problem: str = ""

    @property
    def files(self) -> dict[str, Named]:
        """The first of each kind."""
        return {kind: each[0] for kind, each in self.left.items()}


def choose(source: Path, name: str, named: Sequence[Named], run: str, pattern: Callable[[], str]) -> Choice:
    """Take one file of each kind.

    Of BIDS's files those of one space count (see `one_space`), and of runs the `first` or `last` one, as `run` says. All else is for the user
    to decide: two files of one kind, or contrasts from two folders that are not plainly one case. `pattern` gives words that would select.
    """
    kept, elsewhere = one_space(named)
    dropped: list[Named] = []
    left: dict[str, list[Named]] = {}
    for kind in KINDS:
        if of_kind := sorted((each for each in kept if each.match.kind == kind), key=lambda each: each.run):
            left[kind] = runs(of_kind, run) if run else of_kind
            dropped += [each for each in of_kind if each not in left[kind]]
    several = [kind for kind in left if len(left[kind]) > 1]
    problem = twins(source, name, left, several, pattern) if several else apart(source, name, left)
    return Choice(left, dropped, elsewhere, problem)


def apart(source: Path, name: str, left: Mapping[str, Sequence[Named]]) -> str:
    """The sentence on contrasts that lie in several folders which are not plainly one case; empty if they do not."""
    homes = {each.match.home: each.path.parent.relative_to(source) for kind in MODALITIES for each in left.get(kind, ())}
    if len(homes) < 2:
        return ""
    both = " and ".join(shown(homes[home]) for home in sorted(homes)[:2])
    what = "if they are two patients, rename one's files; if one, put its scans into one folder (links will do)"
    return f"{shown(name)}: its contrasts lie in {len(homes)} folders, {both}: {what}"


def one_space(named: Sequence[Named]) -> tuple[list[Named], list[Named]]:
    """The files of one space, and the others: the patient's own if an image lies in it, else the template's that has most of the images.
    So a mask or labels on a template's grid are never taken for images on the patient's own. Where all images lie on one template's grid, as
    BRATS's do on SRI24's, its mask and labels fit them, and the patient's own do not.

    The patient's own may be that of a contrast (space-T2w): of labels or masks that differ only so, and of images if each contrast has one
    without space-, those without it count."""
    images = [each.space for each in named if each.match.kind in MODALITIES]
    space = "" if "" in images or not images else max(sorted(set(images)), key=images.count)
    kept = [each for each in named if not each.is_bids or each.space == space]
    plain = {each.match.kind for each in kept if not each.named_space}
    if {each.match.kind for each in kept}.intersection(MODALITIES) <= plain:
        kept = [each for each in kept if each.match.kind not in MODALITIES or not each.named_space]
    named_so = {each.named_space for each in kept if each.match.kind in MODALITIES}
    best: dict[tuple[str, str], Named] = {}
    for each in sorted(kept, key=lambda each: (named_so != {each.named_space}, space_rank(each))):
        best.setdefault((each.match.kind, SPACE.sub("", str(each.path))), each)
    kept = [each for each in kept if each.match.kind in MODALITIES or each in best.values()]
    return kept, [each for each in named if each not in kept]


def space_rank(named: Named) -> int:
    return NATIVE.index(named.named_space) if named.named_space in NATIVE else -1


def runs(named: Sequence[Named], run: str) -> list[Named]:
    """The first or the last run of each group of files whose names differ only by their run."""
    groups: dict[str, list[Named]] = defaultdict(list)
    for each in named:
        groups[RUN.sub("", str(each.path)) if each.is_bids else str(each.path)].append(each)
    return [group[0 if run == "first" else -1] for group in groups.values()]


def twins(
    source: Path, name: str, left: Mapping[str, Sequence[Named]], several: Sequence[str], pattern: Callable[[], str]
) -> str:
    """The sentence on two files of one kind, with what is possible: a rule, a pattern that works, or new names."""
    kind, named = several[0], left[several[0]]
    first, second = named[:2]
    every = f"there are several files each of {', '.join(several)}: " * (len(several) > 1)
    both = " and ".join(shown(each.path.relative_to(source)) for each in (first, second))
    able = ["keep one"]
    if first.match.home != second.match.home and kind in MODALITIES:
        able.append("rename one's files if they are two patients")
    if all(len(runs(left[each], "first")) == 1 for each in several):
        able.append("set bids.run=first or bids.run=last")
    if words := pattern():
        able.append(f"select one with {words}")
    return f"{shown(name)}: {every}{both} are both its {kind}: {', or '.join(able)}"


def without_tissues(named: Iterable[Named], files: Iterable[Path]) -> list[Named]:
    """The files without the segmentations of tissues that fMRIPrep writes, which bear the name of a tumour's: maps of the tissues lie there too."""
    tissues = tissue_folders(files)
    return [n for n in named if not (n.is_bids and n.path.parent in tissues and re.search(r"_dseg\.nii", n.path.name))]


def tissue_folders(files: Iterable[Path]) -> set[Path]:
    return {path.parent for path in files if re.search(r"_label-(GM|WM|CSF)_probseg", path.name)}


def shown(path: str | Path) -> str:
    """A path as text that can be printed, even if its bytes are not UTF-8."""
    return os.fsencode(path).decode(errors="replace")

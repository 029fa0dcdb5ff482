"""Finds the cases of a folder: which files belong to which patient, from their names."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from preprocess.shared.errors import CaseError, UserError
from preprocess.source.grades import GRADES, grade_in, listed_grades
from preprocess.source.layouts import KINDS, LAYOUTS, MODALITIES, Layout, Match, candidates

# Time points of a patient are numbered in the last part of a case's name, but in 2020 and 2021 the last number is the patient's.
TIME_POINT = re.compile(
    r"(brats_.+_pat\d+)_\d+"  # 2015
    r"|(brats1[789]_.+)_\d+"
    r"|(brats-.+-\d+)-\d{3}"  # 2023 on
    r"|(sub-[^_]+)_ses-.+",  # BIDS
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Case:
    """One subject's files by kind: a modality, `seg` (labels) or `mask` (the brain)."""

    name: str
    patient: str
    grade: str  # "HGG", "LGG" or "unknown"
    files: dict[str, Path]
    problem: str = ""  # one sentence, if the file names show that it cannot be used

    def check(self, require: Sequence[str] = MODALITIES) -> None:
        """Raise CaseError if a required modality is missing, or if the file names show that the case cannot be used."""
        if self.problem:
            raise CaseError(self.problem)
        if missing := [m for m in require if m not in self.files]:
            raise CaseError(f"{self.name}: no {', '.join(missing)} file beside {self.files[next(iter(self.files))].name}")


@dataclass(frozen=True)
class Discovery:
    """The cases of a folder."""

    cases: list[Case]
    layout: str  # the name of the layout
    message: str  # a line or two for the user: the layout, the number of cases, and what was left out


def discover(source: Path, layout: str = "auto", pattern: str = "", names: Mapping[str, str] | None = None) -> Discovery:
    """All cases below `source`, sorted by name; those that cannot be used are among them (see `Case.check`).

    `auto` takes the one layout that matches the most images and never mixes two (a count of cases would mislead: BIDS's
    sub-X_FLAIR.nii.gz also matches brats2018). Raises SettingError for settings that contradict each other, and UserError if the
    folder is missing or holds no case.
    """
    allowed = candidates(layout, pattern, names or {})
    if not source.is_dir():
        raise UserError(f"source={source} is not a folder: give the folder that holds the BRATS cases")
    files, unlisted = files_below(source)
    matches = {each.name: matched(each, source, files) for each in (*LAYOUTS, *allowed)}
    best = max(allowed, key=lambda each: image_count(matches[each.name]))
    taken = matches[best.name]
    cases = gather(source, taken, listed_grades(files)) if image_count(taken) else []
    others = left_out(taken, {each.name: matches[each.name] for each in LAYOUTS if each != best})
    if not cases:
        raise UserError(no_case(source, allowed, files, others))
    first = f"layout {best.name}: {len(cases)} cases in {len(taken)} files named like {best.like}"
    return Discovery(cases, best.name, "\n".join([first, *others, *unlisted]))


def files_below(source: Path) -> tuple[list[Path], list[str]]:
    """All files, sorted, and a sentence for each folder that cannot be listed.

    Links are followed (shared file systems often contain cases as links). Hidden folders and the `._` files of macOS are skipped.
    """
    files, unlisted, seen = [], [], set()

    def skip(error: OSError) -> None:
        unlisted.append(f"left out: the folder {shown(error.filename)} cannot be listed ({error.strerror})")

    for folder, folders, names in os.walk(source, followlinks=True, onerror=skip):
        here = Path(folder)
        seen.add(here.resolve())
        # a link to a parent folder would be followed for ever
        folders[:] = [f for f in sorted(folders) if not f.startswith(".") and (here / f).resolve() not in seen]
        files += [here / name for name in names if not name.startswith("._")]
    return sorted(files), unlisted


def matched(layout: Layout, source: Path, files: Sequence[Path]) -> dict[Path, Match]:
    """The files whose names fit the layout."""
    root = f"/{source.resolve().name}/"
    matches = ((path, layout.match(root + path.relative_to(source).as_posix())) for path in files)
    return {path: match for path, match in matches if match}


def image_count(matches: Mapping[Path, Match]) -> int:
    return sum(match.kind in MODALITIES for match in matches.values())


def gather(source: Path, matches: Mapping[Path, Match], grades: Mapping[str, str]) -> list[Case]:
    """The files as cases, by name; labels or a mask without an image are not a case."""
    by_name: dict[str, dict[Path, Match]] = {}
    for path, match in matches.items():
        numbered = match.patient and not match.case.startswith(
            match.patient
        )  # a pattern's cases may be numbered within a patient
        by_name.setdefault(f"{match.patient}_{match.case}" if numbered else match.case, {})[path] = match
    return [case_of(source, name, by_name[name], grades) for name in sorted(by_name) if image_count(by_name[name])]


def case_of(source: Path, name: str, matches: dict[Path, Match], grades: Mapping[str, str]) -> Case:
    """The files of one name as a case."""
    first = {match.kind: (path, match) for path, match in reversed(list(matches.items()))}
    files = {kind: first[kind][0] for kind in KINDS if kind in first}
    problem = "" if is_safe(name) else f"{shown(name)}: a case cannot have this name: rename its files"
    if second := [path for path, match in matches.items() if path != files[match.kind]]:
        kind = matches[second[0]].kind
        both = " and ".join(shown(path.relative_to(source)) for path in (files[kind], second[0]))
        problem = problem or f"{shown(name)}: {both} are both its {kind}: keep one, or select one with pattern="
    path, match = first[next(iter(files))]
    patient = match.patient or patient_of(name)
    grade = GRADES.get(match.grade.upper()) or grade_in(path) or grades.get(name) or grades.get(patient) or "unknown"
    return Case(shown(name), shown(patient), grade, files, problem)


def is_safe(name: str) -> bool:
    """Whether a folder and a file can have the name, on this file system and on others to which the store may be copied."""
    return not name.startswith(".") and "\\" not in name and not any(unicodedata.category(c) in ("Cc", "Cs") for c in name)


def patient_of(name: str) -> str:
    """The patient of a case: time points of a patient must be in the same split."""
    match = TIME_POINT.fullmatch(name)
    return next(part for part in match.groups() if part) if match else name


def shown(path: str | Path) -> str:
    """A path as text that can be printed, even if its bytes are not UTF-8."""
    return os.fsencode(path).decode(errors="replace")


def left_out(taken: Mapping[Path, Match], others: Mapping[str, Mapping[Path, Match]]) -> list[str]:
    """A sentence for labels without images, and one for each other layout that matches images which the chosen one does not."""
    cases = {match.case for match in taken.values() if match.kind in MODALITIES}
    without_image = [path for path, match in taken.items() if match.case not in cases]
    lines = []
    if without_image:
        lines.append(f"left out: {len(without_image)} labels or masks without an image, such as {shown(without_image[0].name)}")
    for name, matches in others.items():
        images = [path for path in matches if path not in taken and matches[path].kind in MODALITIES]
        if more := [path for path in images if "_desc-synth_" not in path.name]:
            lines.append(
                f"left out: {len(more)} images named as in {name}, such as {shown(more[0].name)}: layout={name} reads them"
            )
    return lines


def no_case(source: Path, expected: Sequence[Layout], files: Sequence[Path], others: Sequence[str]) -> str:
    """The one sentence for a folder without cases."""
    like = "; ".join(f"{layout.like} ({layout.name})" for layout in expected)
    first = ", ".join(shown(path.relative_to(source)) for path in files[:3]) or "no file"
    hint = "" if others else ": if these are scans, describe their names with pattern="
    return f"source={source} holds no case: expected {like}; it holds {first}{hint}" + "".join(f"; {line}" for line in others)

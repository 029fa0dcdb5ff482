"""Finding the cases of a folder: which files belong to which patient, by the names that a layout gives them."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from preprocess.shared.errors import CaseError, UserError
from preprocess.source.grades import GRADES, grade_in, listed_grades
from preprocess.source.layouts import KINDS, LAYOUTS, Layout, Match, candidates
from preprocess.source.layouts import MODALITIES as MODALITIES

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
    """One subject's files, by kind: a modality, `seg` (labels) or `mask` (the brain) where there is one."""

    name: str
    patient: str
    grade: str  # "HGG", "LGG" or "unknown"
    files: dict[str, Path]
    problem: str = ""  # the sentence why it cannot be used, where its names alone tell

    def check(self, require: Sequence[str] = MODALITIES) -> None:
        """Raise CaseError if a required modality is missing, or if the names alone tell that the case cannot be used."""
        if self.problem:
            raise CaseError(self.problem)
        if missing := [m for m in require if m not in self.files]:
            raise CaseError(f"{self.name}: no {', '.join(missing)} file beside {self.files[next(iter(self.files))].name}")


@dataclass(frozen=True)
class Found:
    """What discovery makes of a folder."""

    cases: list[Case]
    layout: str
    why: str  # a line or two for the user: what was found, and what was left out


def discover(source: Path, layout: str = "auto", pattern: str = "", names: Mapping[str, str] | None = None) -> Found:
    """All cases below `source`, sorted by name; those that cannot be used are among them (see `Case.check`).

    `auto` takes the one layout that explains the most images and never mixes two (a count of cases would mislead: BIDS's
    sub-X_FLAIR.nii.gz also looks like brats2018's). Raises SettingError for settings that do not go together, and UserError if
    the folder is absent or holds no case.
    """
    allowed = candidates(layout, pattern, names or {})
    if not source.is_dir():
        raise UserError(f"source={source} is not a folder: give the folder that holds the BRATS cases")
    files, closed = files_below(source)
    matches = {each.name: matched(each, source, files) for each in (*LAYOUTS, *allowed)}
    best = max(allowed, key=lambda each: images(matches[each.name]))
    taken = matches[best.name]
    cases = gather(source, taken, listed_grades(files)) if images(taken) else []
    others = left_out(taken, {each.name: matches[each.name] for each in LAYOUTS if each != best})
    if not cases:
        raise UserError(nothing_found(source, allowed, files, others))
    why = f"layout {best.name}: {len(cases)} cases in {len(taken)} files named like {best.like}"
    return Found(cases, best.name, "\n".join([why, *others, *closed]))


def files_below(source: Path) -> tuple[list[Path], list[str]]:
    """All files, sorted, and a sentence for each folder that cannot be listed.

    Links are followed (shared file systems often link cases in); hidden folders and the `._` files that macOS leaves are not files
    of a case.
    """
    files, closed, seen = [], [], set()

    def cannot(error: OSError) -> None:
        closed.append(f"left out: the folder {shown(error.filename)} cannot be listed ({error.strerror})")

    for folder, folders, names in os.walk(source, followlinks=True, onerror=cannot):
        here = Path(folder)
        seen.add(here.resolve())
        # a link to a parent would never end
        folders[:] = [f for f in sorted(folders) if not f.startswith(".") and (here / f).resolve() not in seen]
        files += [here / name for name in names if not name.startswith("._")]
    return sorted(files), closed


def matched(layout: Layout, source: Path, files: Sequence[Path]) -> dict[Path, Match]:
    """What the layout makes of each file that it knows."""
    root = f"/{source.resolve().name}/"
    said = ((path, layout.match(root + path.relative_to(source).as_posix())) for path in files)
    return {path: match for path, match in said if match}


def images(matches: Mapping[Path, Match]) -> int:
    return sum(match.kind in MODALITIES for match in matches.values())


def gather(source: Path, matches: Mapping[Path, Match], grades: Mapping[str, str]) -> list[Case]:
    """The files of each name as a case; labels or a mask alone are none."""
    found: dict[str, dict[Path, Match]] = {}
    for path, match in matches.items():
        apart = match.patient and not match.case.startswith(match.patient)  # the pattern's cases may be numbered by patient
        found.setdefault(f"{match.patient}_{match.case}" if apart else match.case, {})[path] = match
    return [case_of(source, name, found[name], grades) for name in sorted(found) if images(found[name])]


def case_of(source: Path, name: str, matches: dict[Path, Match], grades: Mapping[str, str]) -> Case:
    """The files that one name goes with as a case."""
    said = {match.kind: (path, match) for path, match in reversed(list(matches.items()))}
    files = {kind: said[kind][0] for kind in KINDS if kind in said}
    problem = "" if is_safe(name) else f"{shown(name)}: a case cannot have this name: rename its files"
    if second := [path for path, match in matches.items() if path != files[match.kind]]:
        kind = matches[second[0]].kind
        both = " and ".join(shown(path.relative_to(source)) for path in (files[kind], second[0]))
        problem = problem or f"{shown(name)}: {both} are both its {kind}: keep one, or say which with pattern="
    path, match = said[next(iter(files))]
    patient = match.patient or patient_of(name)
    grade = GRADES.get(match.grade.upper()) or grade_in(path) or grades.get(name) or grades.get(patient) or "unknown"
    return Case(shown(name), shown(patient), grade, files, problem)


def is_safe(name: str) -> bool:
    """Whether the name can be that of a folder and a file in the store, here and wherever the store is copied to."""
    return not name.startswith(".") and "\\" not in name and not any(unicodedata.category(c) in ("Cc", "Cs") for c in name)


def patient_of(name: str) -> str:
    """The patient behind a case, whose time points share a split."""
    found = TIME_POINT.fullmatch(name)
    return next(part for part in found.groups() if part) if found else name


def shown(path: str | Path) -> str:
    """A path as text that can be printed, even if its bytes are not UTF-8."""
    return os.fsencode(path).decode(errors="replace")


def left_out(taken: Mapping[Path, Match], others: Mapping[str, Mapping[Path, Match]]) -> list[str]:
    """A sentence for labels without images, and one for each other layout that explains images which the taken one does not."""
    cases = {match.case for match in taken.values() if match.kind in MODALITIES}
    lonely = [path for path, match in taken.items() if match.case not in cases]
    lines = [f"left out: {len(lonely)} labels or masks of no image's case, such as {shown(lonely[0].name)}"] if lonely else []
    for name, matches in others.items():
        if more := [path for path in matches if path not in taken and matches[path].kind in MODALITIES]:
            lines.append(
                f"left out: {len(more)} images named as in {name}, such as {shown(more[0].name)}: layout={name} takes them"
            )
    return lines


def nothing_found(source: Path, looked_for: Sequence[Layout], files: Sequence[Path], others: Sequence[str]) -> str:
    """The one sentence for a folder without cases."""
    like = "; ".join(f"{layout.like} ({layout.name})" for layout in looked_for)
    first = ", ".join(shown(path.relative_to(source)) for path in files[:3]) or "no file at all"
    hint = "" if others else ": if these are scans, name them with pattern="
    return f"source={source} holds no case: looked for {like}; it holds {first}{hint}" + "".join(f"; {line}" for line in others)

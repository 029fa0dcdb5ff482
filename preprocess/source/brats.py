"""Finds the cases of a folder: which files belong to which patient, from their names."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from preprocess.shared.errors import CaseError, UserError
from preprocess.source import leftovers
from preprocess.source.choice import Choice, Named, choose, shown, without_tissues
from preprocess.source.decathlon import Dataset, dataset
from preprocess.source.grades import GRADES, by_known_name, grade_in, listed_grades
from preprocess.source.images import Volume
from preprocess.source.layouts import CHANNEL, KINDS, LAYOUTS, MODALITIES, STACK, Layout, looks_like, read
from preprocess.source.patterns import candidates, syntax
from preprocess.source.suggestions import diagnosis, selecting

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
    channels: dict[str, Volume] = field(
        default_factory=dict
    )  # kinds that are volumes of a 4-D file: number, and how many it holds
    renumber: dict[int, int] = field(default_factory=dict)  # BRATS's number of each label of the file, if any has another
    noted: list[tuple[str, str]] = field(
        default_factory=list
    )  # what its names leave open: kind of file, or empty for all, and a sentence

    def check(self, require: Sequence[str] = MODALITIES) -> None:
        """Raise CaseError if a required modality is missing, or if the file names show that the case cannot be used."""
        if self.problem:
            raise CaseError(self.problem)
        if missing := [m for m in require if m not in self.files]:
            why = "".join(f": {sentence}" for kind, sentence in self.noted if not kind)
            raise CaseError(f"{self.name}: no {', '.join(missing)} file beside {self.files[next(iter(self.files))].name}{why}")


@dataclass(frozen=True)
class Discovery:
    """The cases of a folder."""

    cases: list[Case]
    layout: str  # the name of the layout; of several, bids only if it is the only one, else that with most cases
    message: str  # for the user: each layout with its number of cases, and what was left out
    left_out: list[str]  # of that, the sentences on what a user would want in the cohort


def discover(
    source: Path,
    layout: str = "auto",
    pattern: str = "",
    names: Mapping[str, str] | None = None,
    run: str = "",
    words: str = "names",
) -> Discovery:
    """All cases below `source`, sorted by name; those that cannot be used are among them (see `Case.check`).

    `auto` takes every file that fits a layout, whichever; one that fits several belongs to the most specific (see `layouts.FIRST`). `run` is
    `first` or `last` of BIDS's runs; `words` is what the command calls `names`. Raises SettingError for settings that contradict each other, and
    UserError if the folder is missing or holds no case.
    """
    allowed = candidates(layout, pattern, names or {}, words)
    if not source.is_dir():
        raise UserError(f"source={source} is not a folder: give the folder that holds the BRATS cases")
    files, unlisted = files_below(source)
    datasets = cache(dataset)
    named, faults = expanded(without_tissues(matched(allowed, source, files), files), datasets)
    listed, unread_tables = listed_grades(files)
    by_name = gathered(named)
    intended = {name: choose(source, name, each, run or "first", str) for name, each in by_name.items()}
    suggest = cache(lambda: selecting(source, files, intended, words))
    choices = {name: choose(source, name, each, run, suggest) for name, each in by_name.items()}
    grades, strangers = by_known_name(listed, {each for name in by_name for each in (name, patient_in(by_name[name][0], name))})
    cases = [case_of(name, choice, grades, faults, datasets) for name, choice in choices.items()]
    left = left_out(source, files, named, choices, allowed)
    lost, unread = leftovers.not_taken(source, files, choices)
    left += lost
    if not cases:
        raise UserError(no_case(source, allowed, files, left, words))
    counts = lines_of_layouts(choices)
    made = sorted(
        {
            each.path
            for each in named
            if each.match.kind in MODALITIES and each.match.case not in by_name and not each.match.patient
        }
    )
    dropped = [path for choice in choices.values() for path in choice.dropped if path.match.kind in MODALITIES and run]
    by_rule = [f"bids.run={run}: {len(dropped)} images of other runs are not read"] * bool(dropped)
    by_rule += [f"not read: {len(made)} images made of a case's contrasts, such as {shown(made[0].name)}"] if made else []
    taken = {next(iter(choice.files.values())).layout.name for choice in choices.values()}
    main = counts[0][0] if len(taken) == 1 else next(name for name, _ in counts if name != "bids")
    by_rule += [*unread, *labels_elsewhere(source, choices)]
    labels = [choice.files["seg"] for choice in choices.values() if "seg" in choice.files]
    by_rule += sorted({datasets(each.path.parent).said for each in labels if each.layout.name == "msd"} - {""})
    sentences = [*(line for _, line in counts), *left, *unlisted, *by_rule, *unread_tables, *strangers]
    return Discovery(cases, main, "\n".join(sentences), [*left, *unlisted])


def labels_elsewhere(source: Path, choices: Mapping[str, Choice]) -> list[str]:
    """A sentence on labels that were joined to scans in another folder by their name only, outside BIDS and the Decathlon."""
    joined = []
    for choice in choices.values():
        scan, labels = next(iter(choice.files.values())), choice.files.get("seg")
        if labels and labels.layout.name not in ("bids", "msd") and labels.match.home != scan.match.home:
            joined.append([shown(each.path.relative_to(source)) for each in (labels, scan)])
    if not joined:
        return []
    return [f"the labels of {len(joined)} cases lie in other folders than their scans, such as {' for '.join(joined[0])}"]


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


def matched(layouts: Sequence[Layout], source: Path, files: Sequence[Path]) -> Iterator[Named]:
    """The files that fit one of the layouts."""
    root = f"/{source.resolve().name}/"
    for path in files:
        if fits := read(root + path.relative_to(source).as_posix(), layouts):
            yield Named(path, *fits)


def expanded(named: Sequence[Named], datasets: Callable[[Path], Dataset]) -> tuple[list[Named], dict[Path, str]]:
    """The files with each 4-D or numbered one as the contrasts that dataset.json gives it, and by file what is wrong with dataset.json."""
    every: list[Named] = []
    faults: dict[Path, str] = {}
    for each in named:
        if each.match.kind not in (STACK, CHANNEL):
            every.append(each)
            continue
        known = datasets(each.path.parent)
        if fault := known.fault or (each.match.kind == CHANNEL and known.unnumbered):
            faults[each.path] = fault
        if each.match.kind == STACK:
            every += [replace(each, match=replace(each.match, kind=kind), volume=v) for kind, v in known.contrasts.items()]
        else:
            number = int(each.path.name.partition(".nii")[0][-4:])
            every += [
                replace(each, match=replace(each.match, kind=kind)) for kind, (n, _) in known.contrasts.items() if n == number
            ]
    return every, faults


def gathered(named: Sequence[Named]) -> dict[str, list[Named]]:
    """The files by the name of their case, sorted; labels or a mask without an image are not a case, nor is CASE_t1ce_to where there is CASE."""
    by_name: dict[str, list[Named]] = defaultdict(list)
    for each in named:
        by_name[each.match.name].append(each)
    cases = {name: by_name[name] for name in sorted(by_name) if any(each.match.kind in MODALITIES for each in by_name[name])}
    return {name: each for name, each in cases.items() if not is_made(name, each[0], cases)}


def is_made(name: str, named: Named, cases: Mapping[str, Sequence[Named]]) -> bool:
    """Whether a name is that of another case in the same folder and a contrast: CASE_t1ce_to of CASE_t1ce_to_t1.nii.gz, a tool's output."""
    others = [other for other in leftovers.owners(name, cases) if cases[other][0].match.home == named.match.home]
    return not named.is_bids and any(looks_like(name[len(other) :]) for other in others)


def case_of(
    name: str, choice: Choice, grades: Mapping[str, str], faults: Mapping[Path, str], datasets: Callable[[Path], Dataset]
) -> Case:
    """The chosen files of one name as a case."""
    files = {kind: choice.files[kind] for kind in KINDS if kind in choice.files}
    first = next(iter(files.values()))
    problem = "" if is_safe(name) else f"{shown(name)}: a case cannot have this name: rename its files"
    fault = next((f"{shown(name)}: {faults[each.path]}" for each in files.values() if each.path in faults), "")
    patient = patient_in(first, name)
    listed = grades.get(name) or grades.get(patient)
    grade = GRADES.get(first.match.grade.upper()) or grade_in(first.path) or listed or "unknown"
    channels = {kind: each.volume for kind, each in files.items() if each.volume}
    paths = {kind: each.path for kind, each in files.items()}
    known = {kind: datasets(each.path.parent) for kind, each in files.items() if each.layout.name == "msd"}
    doubts = dict.fromkeys(
        doubt for kind, each in known.items() for doubt in each.doubts if (kind == "seg") == (doubt[0] == "seg")
    )
    renumber = known["seg"].renumber if "seg" in known else {}
    return Case(shown(name), shown(patient), grade, paths, problem or fault or choice.problem, channels, renumber, list(doubts))


def is_safe(name: str) -> bool:
    """Whether a folder and a file can have the name, on this file system and on others to which the store may be copied."""
    return not name.startswith(".") and "\\" not in name and not any(unicodedata.category(c) in ("Cc", "Cs") for c in name)


def patient_in(named: Named, case: str) -> str:
    """The patient that a file's path names, else that of its case's name."""
    return named.match.patient or patient_of(case)


def patient_of(name: str) -> str:
    """The patient of a case: time points of a patient must be in the same split."""
    match = TIME_POINT.fullmatch(name)
    return next(part for part in match.groups() if part) if match else name


def lines_of_layouts(choices: Mapping[str, Choice]) -> list[tuple[str, str]]:
    """Each layout's name, and a line with the number of its cases and files; the layout with most cases first."""
    layouts = {name: next(iter(choice.files.values())).layout for name, choice in choices.items()}
    lines = []
    for layout, count in Counter(layouts.values()).most_common():
        paths = {
            each.path for name in choices if layouts[name] is layout for left in choices[name].left.values() for each in left
        }
        lines.append((layout.name, f"layout {layout.name}: {count} cases in {len(paths)} files named like {layout.like}"))
    return lines


def left_out(
    source: Path, files: Sequence[Path], named: Sequence[Named], choices: Mapping[str, Choice], chosen: Sequence[Layout]
) -> list[str]:
    """A sentence for each sort of file that a user would want in the cohort and that no case has."""
    cases = {name: set(choice.left) for name, choice in choices.items()}
    taken = [each.path for choice in choices.values() for left in choice.left.values() for each in left]
    rest = set(files).difference(each.path for each in named)
    others = {} if len(chosen) > 1 else {
        each.path: each.layout.name for each in matched(LAYOUTS, source, sorted(rest)) if each.match.kind in (*MODALITIES, STACK, CHANNEL)
    }  # fmt: skip
    others = {path: name for path, name in others.items() if leftovers.is_lost(source, path, False, cases)}
    lost = leftovers.without_image(named, cases)
    maybe = leftovers.maybe_labels(source, sorted(rest - others.keys()), cases)
    unread = [path for path in leftovers.unread(source, sorted(rest), taken, cases) if path not in maybe]
    return leftovers.sentences(lost, maybe, unread, chosen, others, source)


def no_case(source: Path, expected: Sequence[Layout], files: Sequence[Path], left: Sequence[str], words: str) -> str:
    """The one sentence for a folder without cases."""
    like = "; ".join(f"{layout.like} ({layout.name})" for layout in expected)
    first = ", ".join(shown(path.relative_to(source)) for path in files[:3]) or "no file"
    pattern = expected[0].name == "pattern"
    others = [line for line in left if "named as in" in line]
    why = diagnosis(source, files, expected[0].like, words) if pattern else ""
    hint = "" if others or not files else why or f"if these are scans, describe their names with pattern=: {syntax(words)}"
    rest = f"; {why}" if why and others else f"; {hint}" if hint else ""
    return f"source={source} holds no case: expected {like}; it holds {first}" + "".join(f"; {line}" for line in others) + rest

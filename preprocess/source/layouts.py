"""How files are named: each layout gets from a file's path, by regular expressions, the case it belongs to and its kind.

brats2015   CASE/VSD.Brain.XX.O.MR_T1.NUMBER/VSD.Brain.XX.O.MR_T1.NUMBER.mha, MR_T1c, MR_T2, MR_Flair and OT, the labels
brats2018   CASE_t1 _t1ce _t2 _flair _seg _mask  (.nii or .nii.gz; 2017 to 2021)
brats2023   CASE-t1n -t1c -t2w -t2f -seg -mask   (2023 on)
bids        sub-X[_ses-Y]*_T1w, *_ce-LABEL_T1w, *_T2w, *_FLAIR in anat/, labels and brain masks in derivatives/
pattern     the user's own: a path below the source with {case} and {modality}

A kind is a modality, `seg` (the labels) or `mask` (the brain). Upper and lower case are equal.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from preprocess.shared.errors import SettingError

MODALITIES = ("t1", "t1c", "t2", "flair")
KINDS = (*MODALITIES, "seg", "mask")
FIELDS = ("case", "modality", "patient", "grade")
FIELD = r"(\{\w*\}|\*\*/|\*)"

Rule = tuple[
    re.Pattern[str], Mapping[str, str]
]  # for a whole path; its group `word` gives the kind (a rule without that group has one kind)


@dataclass(frozen=True)
class Match:
    """What a path tells about a file."""

    case: str
    kind: str
    patient: str = ""  # empty if the path does not tell
    grade: str = ""


@dataclass(frozen=True)
class Layout:
    """A naming scheme; `like` is an example for the user."""

    name: str
    like: str
    rules: tuple[Rule, ...]

    def match(self, path: str) -> Match | None:
        """What a path tells, or None if it does not fit; `path` begins with a slash and the name of the source folder."""
        for regex, kinds in self.rules:
            if fits := regex.fullmatch(path):
                groups = fits.groupdict()
                kind = kinds[(groups.get("word") or "").lower()]
                return Match(groups["case"], kind, groups.get("patient") or "", groups.get("grade") or "")
        return None


def rule(regex: str, kinds: Mapping[str, str]) -> Rule:
    """The rule of a `regex` for whole paths, in which WORD stands for any of the words of `kinds`."""
    words = "|".join(re.escape(word) for word in sorted(kinds, key=len, reverse=True))
    return re.compile(regex.replace(WORD, f"(?P<word>{words})"), re.IGNORECASE), kinds


WORD = "\0"
ANYWHERE = ".*?/"
SOURCE = "/[^/]*/"  # the folder's own name
BELOW = "(?:.*/)?"

# On some mirrors CASE_t1.nii is a folder, and the file in it has another name: the folder's name counts.
NIFTI = r"\.nii(?:\.gz)?(?:/[^/]+\.nii(?:\.gz)?)?"
VSD = {"mr_t1": "t1", "mr_t1c": "t1c", "mr_t2": "t2", "mr_flair": "flair", "ot": "seg"}
OF_2018 = {"t1": "t1", "t1ce": "t1c", "t2": "t2", "flair": "flair", "seg": "seg", "mask": "mask"}
OF_2023 = {"t1n": "t1", "t1c": "t1c", "t2w": "t2", "t2f": "flair", "seg": "seg", "mask": "mask"}

# BIDS. Images below derivatives/ do not count as raw ones (give that folder as source to use them). Labels and masks count wherever they
# lie, except those on a template's grid and the tissues and brain regions that fMRIPrep and FreeSurfer write.
SUBJECT = r"(?P<case>sub-[^_/]+(?:_ses-[^_/]+)?)"
ENTITIES = r"(?:_(?!ce-)[a-z0-9]+-[^_/]+)*"
RAW = rf"{SOURCE}(?!{BELOW}derivatives/){BELOW}anat/{SUBJECT}{ENTITIES}"
DERIVED = rf"{SOURCE}(?!{BELOW}derivatives/.*_space-(?!orig_|individual_|T1w_)){BELOW}{SUBJECT}(?:_[^/]+)?"
NO_ANATOMY = r"(?!.*/(?:fmriprep|smriprep|freesurfer|fastsurfer)[^/]*/)(?!.*_(?:desc-(?:aseg|aparc)|label-(?:GM|WM|CSF)_))"
LESION = r"_(?:dseg|seg|(?:label-(?!brain)[^_/]+|desc-(?:tumou?r|lesion)[^_/]*)(?:_[a-z0-9]+-[^_/]+)*_(?:mask|roi))"
BRAIN = r"_(?:desc|label)-brain(?:_[a-z0-9]+-[^_/]+)*_mask"
FILE = r"\.nii(?:\.gz)?"

LAYOUTS = (
    Layout(
        "brats2015",
        "CASE/VSD.Brain.XX.O.MR_T1.54512/….mha",
        (rule(rf"{ANYWHERE}(?P<case>(?!VSD\.)[^/]+)/(?:VSD\.[^/]+/)?VSD\.[^/]*?\.{WORD}(?:\.\d+)?\.mha", VSD),),
    ),
    Layout(
        "brats2018",
        "CASE_t1.nii.gz, CASE_t1ce, CASE_t2, CASE_flair",
        (
            rule(rf"{ANYWHERE}(?P<case>[^/]+)_{WORD}{NIFTI}", OF_2018),
            rule(rf"{ANYWHERE}(?P<case>[^/]+)/[^/]+_segm\.nii", {"": "seg"}),  # BraTS20_Training_355/W39_1998.09.19_Segm.nii
        ),
    ),
    Layout(
        "brats2023",
        "CASE-t1n.nii.gz, CASE-t1c, CASE-t2w, CASE-t2f",
        (rule(rf"{ANYWHERE}(?P<case>[^/]+)-{WORD}{NIFTI}", OF_2023),),
    ),
    Layout(
        "bids",
        "sub-X/anat/sub-X_T1w.nii.gz, …_ce-gadolinium_T1w, …_T2w, …_FLAIR",
        (
            rule(rf"{RAW}_ce-[^_/]+{ENTITIES}_T1w{FILE}", {"": "t1c"}),
            rule(rf"{RAW}_{WORD}{FILE}", {"t1w": "t1", "t2w": "t2", "flair": "flair"}),
            rule(rf"{NO_ANATOMY}{DERIVED}{LESION}{FILE}", {"": "seg"}),
            rule(rf"{DERIVED}{BRAIN}{FILE}", {"": "mask"}),
        ),
    ),
)
NAMES = ("auto", *(layout.name for layout in LAYOUTS), "pattern")


def candidates(layout: str, pattern: str, names: Mapping[str, str]) -> tuple[Layout, ...]:
    """The layouts that the settings allow. Raises SettingError for an unknown layout or settings that contradict each other."""
    if layout not in NAMES:
        raise SettingError(f"layout={layout} is not known: choose from {', '.join(NAMES)}")
    if bool(pattern) != (layout == "pattern") and not (pattern and layout == "auto"):
        raise SettingError(
            f"layout={layout} and pattern={pattern or '(none)'} contradict each other: pattern= needs layout=pattern"
        )
    if names and not pattern:
        raise SettingError("names= gives the words of a pattern: give pattern= too")
    if pattern:
        return (from_pattern(pattern, names),)
    return tuple(each for each in LAYOUTS if layout in ("auto", each.name))


def from_pattern(pattern: str, names: Mapping[str, str]) -> Layout:
    """The layout of a path template below the source. Raises SettingError.

    It must contain {case} and {modality}, and may contain {patient} and {grade}. Each matches the shortest text without a slash that fits;
    the same field twice matches the same text. `*` is any part of a name, `**/` any folders. `names` adds words for the kinds.
    """
    parts = re.split(FIELD, pattern.removeprefix("./"))
    fields = [part[1:-1] for part in parts[1::2] if part.startswith("{")]
    if unknown := [field for field in fields if field not in FIELDS]:
        known = ", ".join(f"{{{field}}}" for field in FIELDS)
        raise SettingError(f"pattern={pattern} has the unknown field {{{unknown[0]}}}: known are {known}")
    if missing := [field for field in FIELDS[:2] if field not in fields]:
        raise SettingError(f"pattern={pattern} lacks {{{missing[0]}}}: write for example {{case}}/*_{{modality}}.nii.gz")
    if wrong := [word for word, kind in names.items() if kind not in KINDS or not word]:
        raise SettingError(f"names.{wrong[0]}={names[wrong[0]]} must be one of {', '.join(KINDS)}")
    kinds = {kind: kind for kind in KINDS} | {word.lower(): kind for word, kind in names.items()}
    return Layout("pattern", pattern, (rule(SOURCE + "".join(pieces(parts)), kinds),))


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

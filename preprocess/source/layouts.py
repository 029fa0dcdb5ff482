"""How files are named: each layout gets from a file's path, by regular expressions, the case it belongs to and its kind.

brats2015   CASE/VSD.Brain.XX.O.MR_T1.NUMBER/VSD.Brain.XX.O.MR_T1.NUMBER.mha, MR_T1c, MR_T2, MR_Flair and OT, the labels
brats2018   CASE_t1 _t1ce _t2 _flair _seg _mask  (.nii or .nii.gz; 2017 to 2021)
brats2023   CASE-t1n -t1c -t2w -t2f -seg -mask   (2023 on)
bids        sub-X[_ses-Y]*_T1w, *_ce-LABEL_T1w, *_T2w, *_FLAIR in anat/, labels and brain masks in derivatives/
msd         imagesTr/CASE.nii.gz or imagesTs/CASE.nii.gz, 4-D: all contrasts in one file, or nnU-Net's CASE_0000.nii.gz, CASE_0001.nii.gz …;
            labelsTr/CASE.nii.gz
pattern     the user's own: a path below the source with {case} and {modality} (see patterns.py)

A file that fits several layouts belongs to the first of bids, brats2015, brats2023, brats2018, msd; and one that only BIDS would name so (below
derivatives/, in anat/, or with an entity such as desc- or space-) to bids or to none.

A kind is a modality, `seg` (the labels), `mask` (the brain), or of a dataset with a dataset.json `stack` (a 4-D file of contrasts) or `channel`
(one of the numbered files). Upper and lower case are equal.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

MODALITIES = ("t1", "t1c", "t2", "flair")
KINDS = (*MODALITIES, "seg", "mask")
STACK, CHANNEL = "stack", "channel"

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
    home: str = field(default="", compare=False)  # the folder that holds the case, the words of contrasts in it as `*`

    @property
    def name(self) -> str:
        """Of the case: a pattern's cases may be numbered within a patient."""
        return f"{self.patient}_{self.case}" if self.patient and not self.case.startswith(self.patient) else self.case


@dataclass(frozen=True, eq=False)
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
                patient, grade = groups.get("patient") or "", groups.get("grade") or ""
                return Match(groups["case"], kind, patient, grade, home(path, *fits.span("case")))
        return None


def home(path: str, start: int, end: int) -> str:
    """The folder in which a case lies whose name is path[start:end]: the one of this name, else the one that holds what begins with it. Folders
    that differ only by the word of a contrast are the same home: T1/CASE_t1.nii.gz and T2/CASE_t2.nii.gz are one case."""
    is_folder = path[start - 1] == "/" and path[end : end + 1] == "/"
    return TOKEN.sub("*", path[:end] if is_folder else path[: path.rindex("/", 0, start)])


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
OF_2018 = {"t1": "t1", "t1ce": "t1c", "t1c": "t1c", "t1gd": "t1c", "t2": "t2", "flair": "flair", "seg": "seg", "mask": "mask"}
OF_2023 = {"t1n": "t1", "t1c": "t1c", "t2w": "t2", "t2f": "flair", "seg": "seg", "mask": "mask"}

# BIDS. Images below derivatives/ do not count as raw ones (give that folder as source to use them). Labels and masks count wherever they
# lie, on a template's grid only for images on it (see choice.one_space), and except the tissues and brain regions that tools write, and what a
# label- does not call a tumour. One of several inversions or echoes is no T1w, T2w or FLAIR (BIDS gives such images suffixes of their own:
# MP2RAGE, MESE, MEGRE), nor is the phase of one.
NATIVE = (
    "orig",
    "individual",
    "scanner",
    "native",
    "t1w",
    "t2w",
    "flair",
)  # values of space- that are no template's, the best first
SUBJECT = r"(?P<case>sub-[^_/]+(?:_ses-[^_/]+)?)"
ENTITIES = r"(?:_(?!(?:ce|inv|echo)-|part-(?!mag_))[a-z0-9]+-[^_/]+)*"
RAW = rf"{SOURCE}(?!{BELOW}derivatives/){BELOW}anat/{SUBJECT}{ENTITIES}"
ANATOMICAL = rf"(?!.*/sub-[^/]*/(?:.*/)?(?:func|dwi|perf|fmap|pet)/)(?!.*_task-){SOURCE}"
IN_DERIVATIVES = rf"(?={BELOW}derivatives/)"
ON_TEMPLATE = rf"(?=.*_space-(?!(?:{'|'.join(NATIVE)})_))"
DERIVED = rf"{ANATOMICAL}(?!{IN_DERIVATIVES}{ON_TEMPLATE}){BELOW}{SUBJECT}(?:_[^/]+)?"
TEMPLATE = rf"{ANATOMICAL}{IN_DERIVATIVES}{ON_TEMPLATE}{BELOW}{SUBJECT}(?:_[^/]+)?"
TUMOUR = r"(?:L|WT|GTV|(?:brain|whole)?(?:tumou?rs?|lesions?|gliomas?))\d*"  # values of label-; L is BIDS's for a lesion
TISSUES = r"(?!.*_(?:desc-(?:aseg|aparc|head|skull|ribbon|air)|label-(?:GM|WM|CSF|BG)_))"
BY_TOOLS = rf"(?!.*(?:fmriprep|smriprep|freesurfer|fastsurfer)[^/]*/){TISSUES}"
NO_ANATOMY = rf"{BY_TOOLS}(?!.*_(?:label-(?!{TUMOUR}_)|(?:atlas|seg)-|desc-(?:brain|tissue|ventric|hippo|synthseg)))"
LABELLED = rf"_(?:label-{TUMOUR}|desc-(?:tumou?r|lesion)[^_/]*)(?:_[a-z0-9]+-[^_/]+)*_(?:mask|roi|d?seg)"
BRAIN = r"_(?:desc|label)-brain(?:_[a-z0-9]+-[^_/]+)*_mask"
FILE = r"\.nii(?:\.gz)?"
ONLY_BIDS = re.compile(
    r"/[^/]*/(?:.*/)?(?:derivatives/(?:.*/)?sub-[^/]*"
    r"|sub-[^_/]+_(?:[^/]*_)?(?:acq|ce|desc|dir|echo|hemi|inv|label|part|rec|res|run|space|task)-[^/]*)",
    re.IGNORECASE,
)

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
            rule(rf"{DERIVED}{LABELLED}{FILE}", {"": "seg"}),
            rule(rf"{NO_ANATOMY}{DERIVED}_d?seg{FILE}", {"": "seg"}),
            rule(rf"{DERIVED}{BRAIN}{FILE}", {"": "mask"}),
        ),
    ),
    Layout(
        "msd",
        "imagesTr/CASE.nii.gz, 4-D",
        (
            rule(rf"{ANYWHERE}imagesT[rs]/(?P<case>[^/]+)_\d\d\d\d{FILE}", {"": CHANNEL}),
            rule(rf"{ANYWHERE}imagesT[rs]/(?P<case>[^/]+?)(?<!_\d\d\d\d){FILE}", {"": STACK}),
            rule(rf"{ANYWHERE}labelsT[rs]/(?P<case>[^/]+?){FILE}", {"": "seg"}),
        ),
    ),
)
OFF_GRID = Layout(  # labels and masks of derivatives on a template's grid
    "bids",
    "",
    (
        rule(rf"{TEMPLATE}{LABELLED}{FILE}", {"": "seg"}),
        rule(rf"{NO_ANATOMY}{TEMPLATE}_d?seg{FILE}", {"": "seg"}),
        rule(rf"{TEMPLATE}{BRAIN}{FILE}", {"": "mask"}),
    ),
)
ANY_MASK = Layout(
    "bids", "", (rule(rf"{BY_TOOLS}{ANATOMICAL}{BELOW}{SUBJECT}(?:_[^/]+)?_(?:mask|roi|d?seg|probseg){FILE}", {"": "seg"}),)
)
FIRST = ("pattern", "bids", "brats2015", "brats2023", "brats2018", "msd")


def read(path: str, layouts: Iterable[Layout]) -> tuple[Layout, Match] | None:
    """The first of the layouts that a path fits, and what it tells; None if it fits none."""
    for layout in sorted(layouts, key=lambda each: FIRST.index(each.name)):
        if match := layout.match(path):
            return layout, match
        if layout.name == "bids" and ONLY_BIDS.match(path):
            off_grid = OFF_GRID.match(path)
            return (OFF_GRID, off_grid) if off_grid else None
    return None


# The words with which people and tools mark the contrasts of files and folders.
SPELLINGS = {
    "t1": "t1", "t1w": "t1", "t1n": "t1", "mprage": "t1", "t1weighted": "t1", "t1c": "t1c", "t1ce": "t1c", "t1gd": "t1c", "t1post": "t1c",
    "t1km": "t1c", "ct1": "t1c", "t1wce": "t1c", "t1wc": "t1c", "t1wgd": "t1c", "t1wpost": "t1c", "cet1": "t1c", "cet1w": "t1c", "ct1w": "t1c",
    "gdt1": "t1c", "gdt1w": "t1c", "t1cw": "t1c", "t2": "t2", "t2w": "t2", "t2weighted": "t2", "flair": "flair", "t2f": "flair", "t2flair": "flair",
    "t1gad": "t1c",
}  # fmt: skip
ENHANCED = {"gd", "gad", "gado", "ce", "post", "contrast", "gadolinium", "enhanced", "postcontrast", "postgd", "km"}
PLAIN = {
    "no",
    "non",
    "without",
    "wo",
    "pre",
    "before",
    "native",
    "unenhanced",
    "nonenhanced",
    "precontrast",
    "noncontrast",
    "nativ",
    "ohne",
}
NO_CONTRAST = {
    "star",
    "map",
    "mapping",
    "ratio",
    "rho",
    "subtraction",
    "difference",
}  # T2*, quantitative maps, what is computed of two
TOKEN = re.compile(rf"(?<![a-z0-9])(?:{'|'.join(sorted(SPELLINGS, key=len, reverse=True))})(?![a-z0-9])", re.IGNORECASE)


def looks_like(name: str) -> str:
    """The contrast that the words of a name suggest; empty if none."""
    name = re.sub(
        r"fluid.?attenuated.?inversion.?recovery",
        "flair",
        re.sub(r"(?<![a-z0-9])(t1w?)[ _-]?c(?![a-z0-9])", r"\1 ce", name.lower()),
    )
    words = re.split(
        r"[^a-z0-9]+", re.sub(r"\*", " star ", re.sub(r"(t1w?) ?\+ ?c\b", r"\1 ce", re.sub(r"\bw/o\b", "wo", name.lower())))
    )
    kinds = {SPELLINGS[word] for word in words if word in SPELLINGS}
    if NO_CONTRAST.intersection(words) or {"pre", "post"} <= {*words}:
        return ""
    if kinds == {"t1"} and ENHANCED.intersection(words) and not PLAIN.intersection(words):
        return "t1c"
    return next((kind for kind in ("t1c", "flair", "t2", "t1") if kind in kinds), "")

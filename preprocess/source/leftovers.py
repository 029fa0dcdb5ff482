"""What a folder holds that no case took, and that its owner would want to know of."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from preprocess.source.choice import Choice, Named, shown, tissue_folders
from preprocess.source.images import is_synthetic
from preprocess.source.layouts import ANY_MASK, CHANNEL, ONLY_BIDS, STACK, Layout, looks_like

SCANS = (".nii", ".nii.gz", ".mha")
CONVERTIBLE = (".img", ".nrrd", ".mgz", ".mhd", ".mnc")  # count only if their names are those of contrasts
RAW_BIDS = re.compile(r"sub-[^/]*_(T1w|T2w|FLAIR)\.nii(\.gz)?", re.IGNORECASE)
PARTS = re.compile(r"_(part|inv|echo)-", re.IGNORECASE)
PART_ADVICE = "one part, inversion or echo is no T1w, T2w or FLAIR: combine them, or link the one to take under a plain name"
SPACE_ADVICE = "files in another space than the case's scans, such as EXAMPLE: only those on the scans' own grids are taken"
MASK_ADVICE = (
    "masks of something else than a brain or tumour, such as EXAMPLE: a tumour's is called dseg, or label-tumor or label-lesion"
)
NO_SCAN = re.compile(  # maps, masks and transforms that tools write
    r"(?<![a-z])(masks?|segs?|dseg|segm(entation)?s?|labels?|roi|prob(seg|ability|abilities)?|pve|bias|fields?|warp|xfm|atlas|template|adc|fa|md"
    r"|dwi|dti|bold|synth)(?![a-z])",
    re.IGNORECASE,
)
LABELS = re.compile(  # of names that no layout has, such as CASE_GlistrBoost_ManuallyCorrected or CASE_tumor
    r"segm|seg(?![a-z])|label|tumou?r|lesion|glioma|truth|annotat|glistr|(?<![a-z])(gt|ot|roi)(?![a-z])", re.IGNORECASE
)
NO_LABELS = re.compile(
    r"prep|surfer|space-|brain|skull|head|bias|prob|pve|atlas|templ|tissue|aseg|aparc|ventric|synth|warp|xfm|(?<![a-z])([wg]m|csf|bg|to|bold|dwi|adc)(?![a-z])",
    re.IGNORECASE,
)
Kinds = Mapping[str, set[str]]  # by case, those that it has


def without_image(named: Sequence[Named], cases: Kinds) -> list[Named]:
    """Labels and masks of no case.

    Not those whose name begins with that of a case, or a case's with theirs: a mask that fMRIPrep made of all sessions, or a map on another grid;
    but labels, such as CASE_final_seg, if such a case has none.
    """
    known: dict[str, list[str]] = {}
    for name in cases:
        for end in (*cuts(name), len(name)):
            known.setdefault(name[:end], []).append(name)
    lost = []
    for each in named:
        if each.match.kind in (STACK, CHANNEL) or each.match.name in cases:
            continue
        near = owners(each.path.name, cases) or (known.get(each.match.case, []) if each.is_bids else [])
        labels = each.match.kind == "seg" or (LABELS.search(each.match.case) and not NO_LABELS.search(each.match.case))
        if not near or (labels and any("seg" not in cases[name] for name in near)):
            lost.append(each)
    return lost


def unread(source: Path, files: Sequence[Path], taken: Sequence[Path], cases: Kinds) -> list[Path]:
    """The images that look like scans and belong to no case.

    In a folder from which files were taken, and for names that begin with that of a case: those that look like a contrast which the case lacks, or
    like one of no case. So CASE_t1_bias beside CASE_t1 is nothing to speak of, and CASE_post beside them neither. In a folder from which nothing
    was taken: every image whose name is not that of a mask, a map or a transform. Of BIDS's names: raw T1w, T2w and FLAIR that the case lacks.
    Images that distsynth.synthesise wrote never count.
    """
    known, homes = set(taken), {path.parent for path in taken}
    lost = [path for path in files if path not in known and is_lost(source, path, path.parent in homes, cases)]
    return [path for path in lost if not is_synthetic(path)]


def maybe_labels(source: Path, files: Sequence[Path], cases: Kinds) -> list[Path]:
    """The images that no layout reads, bear the name of a case without labels or lie in its folder, and look like labels."""
    tissues, lost = tissue_folders(files), []
    for path in files:
        place = path.relative_to(source)
        stem = path.name.partition(".")[0]
        if not path.name.lower().endswith(SCANS) or path.parent in tissues or looks_like(path.name):
            continue
        named = [*owners(path.name, cases), *([stem] if stem in cases else [])] or [
            part for part in place.parts[:-1] if part in cases
        ]
        if not named or "seg" in cases[named[-1]]:
            continue
        rest = re.sub(rf"(?<![^\W_]){re.escape(named[-1])}(?![^\W_])", "", place.as_posix())
        looks = stem == named[-1] or LABELS.search(rest)
        if looks and not NO_LABELS.search(rest) and not ANY_MASK.match(f"/source/{place.as_posix()}"):
            lost.append(path)
    return [path for path in lost if not is_synthetic(path)]


def is_lost(source: Path, path: Path, beside: bool, cases: Kinds) -> bool:
    name = path.name.lower()
    looks = looks_like(name)
    if not name.endswith(SCANS) and not (name.endswith(CONVERTIBLE) and looks):
        return False
    place = f"/source/{path.relative_to(source).as_posix()}"
    if RAW_BIDS.fullmatch(path.name) or ONLY_BIDS.match(place):
        raw = RAW_BIDS.fullmatch(path.name) and not re.search(r"/derivatives/|_desc-synth_", place)
        enhanced = "_ce-" in name
        if not raw or (enhanced and looks != "t1" and looks != "t1c"):
            return False
        looks = "t1c" if enhanced else looks
    mine = owners(path.name, cases)
    if mine or beside:
        return bool(looks) and not any(looks in cases[case] for case in mine)
    return bool(looks) and not NO_SCAN.search(name) if looks else not NO_SCAN.search(f"{path.parent.name}/{name}")


def not_taken(source: Path, files: Sequence[Path], choices: Mapping[str, Choice]) -> tuple[list[str], list[str]]:
    """Sentences on BIDS's files that no case took because of their space, or of what they show: on those of a kind that the case now lacks, and on
    the others."""
    every = {
        each.path
        for choice in choices.values()
        for group in (*choice.left.values(), choice.dropped, choice.elsewhere)
        for each in group
    }
    lost: dict[str, list[Path]] = {}
    others: dict[str, list[Path]] = {}
    for choice in choices.values():
        for each in choice.elsewhere:
            (others if each.match.kind in choice.left else lost).setdefault(SPACE_ADVICE, []).append(each.path)
    bids = [name for name, choice in choices.items() if next(iter(choice.files.values())).is_bids]
    tissues = tissue_folders(files)
    for path in files if bids else ():
        match = (
            path not in every and path.parent not in tissues and ANY_MASK.match(f"/source/{path.relative_to(source).as_posix()}")
        )
        if match and match.case in bids:
            (others if "seg" in choices[match.case].left else lost).setdefault(MASK_ADVICE, []).append(path)
    return [left_behind("left out", *each) for each in lost.items()], [left_behind("not read", *each) for each in others.items()]


def left_behind(how: str, why: str, paths: Sequence[Path]) -> str:
    return f"{how}: {len(paths)} {why.replace('EXAMPLE', shown(paths[0].name))}"


def owners(name: str, cases: Collection[str]) -> list[str]:
    """The cases with whose name, and then no letter or digit, a file's name begins."""
    return [name[:end] for end in cuts(name) if name[:end] in cases]


def cuts(name: str) -> Iterator[int]:
    """Where a name could end: at each character that is no letter or digit."""
    return (at for at, character in enumerate(name) if at and not character.isalnum())


def sentences(
    lost: Sequence[Named],
    maybe: Sequence[Path],
    unread: Sequence[Path],
    chosen: Sequence[Layout],
    others: Mapping[Path, str],
    source: Path,
) -> list[str]:
    """What is left out, a sentence for each reason, with what to do. `others` are the layouts, by file, that were not `chosen`."""
    lines = []
    if lost:
        lines.append(f"left out: {len(lost)} labels or masks without an image, such as {shown(lost[0].path.name)}")
    if maybe:
        what = f"left out: {len(maybe)} images that may be the labels of cases without any, such as {shown(maybe[0].relative_to(source))}"
        lines.append(f"{what}: name them CASE_seg.nii.gz, in BIDS sub-X_dseg.nii.gz (links will do)")
    for layout in sorted(set(others.values())):
        of_it = [path for path, name in others.items() if name == layout]
        what = "layout=auto reads them too"
        if chosen[0].name == "pattern":
            what = "a pattern reads only what it describes: name them so (links will do), or put them into a store of their own"
        lines.append(f"left out: {len(of_it)} images named as in {layout}, such as {shown(of_it[0].name)}: {what}")
    rest = [path for path in unread if path not in others]
    for what, group in (
        (PART_ADVICE, [path for path in rest if PARTS.search(path.name)]),
        (name_them(chosen), [path for path in rest if not PARTS.search(path.name)]),
    ):
        if group:
            lines.append(
                f"left out: {len(group)} images that fit no layout, such as {shown(group[0].relative_to(source))}: {what}"
            )
    return lines


def name_them(chosen: Sequence[Layout]) -> str:
    like = next((layout.like for layout in chosen if layout.name == "brats2018"), chosen[0].like)
    return f"as NIfTI files named {like} (links will do) the same command adds them"

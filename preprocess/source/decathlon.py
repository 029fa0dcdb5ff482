"""What dataset.json says of a dataset of the Medical Segmentation Decathlon or nnU-Net: the contrasts of its images, and what its labels mean."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from preprocess.shared.files import read_bytes
from preprocess.source.images import Volume
from preprocess.source.layouts import looks_like

ORDER = ("FLAIR", "T1w", "t1gd", "T2w")  # of Task01_BrainTumour (Antonelli et al. 2022, doi:10.1038/s41467-022-30695-9)
MEANING = "1 is oedema, 2 the non-enhancing core, 3 enhancing"  # of its labels
OEDEMA, CORE, ENHANCING = 2, 1, 4  # BRATS's numbers
KNOWN = "edema, necrotic, non-enhancing, enhancing, or the regions whole tumor, tumor core and enhancing tumor"
NOT = r"(?:non|not|un)[^a-z0-9]*"
WORDS = (  # what a label's name holds, in lower case, and what that means; the core only counts where no other does
    (r"\bsnfh\b|flair hyperintens", OEDEMA),
    (r"o?edema|\bed\b|invaded", OEDEMA),
    (rf"{NOT}enhanc|necro|\b(?:ncr|nec|net|netc|ncrnet)\b", CORE),
    (r"(?<!non)(?<!not)(?<!un)(?<!non[^a-z])(?<!not[^a-z])enhanc|\bet\b|\bactive\b", ENHANCING),
)
EXAMPLE = 'write {"channel_names": {"0": "…", "1": "…"}} with FLAIR, T1w, t1gd or T2w for each number'
CONTRASTS = "T1, T1w, T1 Gd, T1ce, T2, T2w, FLAIR"


@dataclass(frozen=True)
class Dataset:
    """What a dataset.json says, or the Decathlon's order where there is none."""

    contrasts: dict[str, Volume]  # by kind the number of its volume, and how many a file holds
    fault: str = ""  # why the contrasts are not clear
    renumber: dict[int, int] = field(default_factory=dict)  # BRATS's number of each label, if any has another
    said: str = ""  # how labels are renumbered
    doubts: tuple[tuple[str, str], ...] = ()  # kind of file, or empty for all; what is not certain
    unnumbered: str = ""  # why it is not known which contrasts numbered files have


def dataset(folder: Path) -> Dataset:
    """What dataset.json beside a folder such as imagesTr says."""
    path = folder.parent / "dataset.json"
    in_order = {kind: (number, len(ORDER)) for number, kind in enumerate(map(looks_like, ORDER))}
    if not path.exists() and not path.is_symlink():
        what = f"there is no dataset.json beside {folder.name}: contrasts are read in the Decathlon's order {', '.join(ORDER)}"
        numbers = f"labels keep the numbers of the file (in the Decathlon {MEANING})"
        missing = f"dataset.json beside {folder.name} is missing, which says what _0000, _0001 … are: {EXAMPLE}"
        return Dataset(in_order, doubts=(("", f"{what}, and {numbers}: put the dataset's own there"),), unnumbered=missing)
    try:
        content = json.loads(read_bytes(path))
        listed = content.get("modality") or content["channel_names"]
        words = [str(listed[key]) for key in sorted(listed, key=int)] if isinstance(listed, dict) else [str(w) for w in listed]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        what = "is no JSON" if isinstance(error, ValueError | RecursionError) else "names no contrasts"
        what = f"cannot be read ({error.strerror or error})" if isinstance(error, OSError) else what
        return Dataset(in_order, f"dataset.json beside {folder.name} {what}: {EXAMPLE}")
    kinds = [contrast_of(word) for word in words]
    named = [kind for kind in kinds if kind]
    if not named or len(set(named)) < len(named):
        fault = f"dataset.json beside {folder.name} lists {', '.join(words)}: expected names such as {', '.join(ORDER)}"
        return Dataset(in_order, fault)
    contrasts = {kind: (number, len(words)) for number, kind in enumerate(kinds) if kind}
    unread = ", ".join(word for word, kind in zip(words, kinds, strict=True) if not kind)
    doubts = [("", f"dataset.json's {unread} is not read: the names of contrasts are {CONTRASTS}")] * bool(unread)
    renumber, said, doubt = labels(content.get("labels"))
    return Dataset(contrasts, "", renumber, said, (*doubts, *([("seg", doubt)] if doubt else [])))


def contrast_of(word: str) -> str:
    """The contrast of an image that dataset.json describes so; empty if it is none, or could be two."""
    plain = re.sub(r"flair", " flair ", word, flags=re.IGNORECASE)
    both = re.search(r"t1", word, re.IGNORECASE) and re.search(r"t2|flair", word, re.IGNORECASE)
    return "" if both else looks_like(plain)


def labels(listed: Any) -> tuple[dict[int, int], str, str]:
    """BRATS's numbers for the labels of dataset.json if any has another, a sentence on them, and what is not certain.

    `listed` has the name by number, or the numbers by name as in nnU-Net's second version, which may be regions: lists of numbers. The Decathlon
    has 1 for oedema, 2 for the core and 3 for enhancing tumour; BRATS has 2, 1 and 4.
    """
    try:
        names, regions = by_number(listed), by_region(listed)
    except (TypeError, ValueError, AttributeError):
        names, regions = {}, {}
    if regions:
        names = names_of(regions) or {number: f"in {name}" for name, numbers in regions.items() for number in numbers}
    meant = {number: meaning(name) for number, name in names.items() if number}
    shown = ", ".join(f"{number} ({name})" for number, name in sorted(names.items()) if number)
    if not meant:
        return {}, "", "dataset.json names no labels: they keep the numbers of the file, and BRATS's names in tables and figures"
    # the core of a dataset without enhancing tumour may hold it
    if not all(meant.values()) or (ENHANCING not in meant.values() and any(is_bare_core(name) for name in names.values())):
        what = f"labels keep the numbers of the file: {shown}: tables and figures name them as in BRATS (1 necrotic core, 2 oedema, 4 enhancing)"
        return {}, "", f"{what}; dataset.json's names that are known are {KNOWN}"
    if all(number == label for number, label in meant.items()):
        return {}, "", ""
    each = ", ".join(f"{number} ({names[number]}) to {label}" for number, label in sorted(meant.items()))
    return meant, f"labels are renumbered as in BRATS: {each}; labels= names the new numbers", ""


def by_number(listed: Any) -> dict[int, str]:
    """The names of labels by number."""
    if isinstance(listed, list):
        listed = dict(enumerate(listed))
    if all(str(key).lstrip("-").isdecimal() for key in listed):
        return {int(number): str(name) for number, name in listed.items()}
    return {int(single(number)): str(name) for name, number in listed.items() if not is_region(number)}


def by_region(listed: Any) -> dict[str, set[int]]:
    """The numbers of regions by name, if any of the labels is one."""
    if not isinstance(listed, Mapping) or not any(is_region(numbers) for numbers in listed.values()):
        return {}
    sets = {
        str(name): {int(n) for n in (numbers if isinstance(numbers, list) else [numbers])} for name, numbers in listed.items()
    }
    return {name: numbers for name, numbers in sets.items() if numbers != {0}}


def is_region(numbers: Any) -> bool:
    return isinstance(numbers, list) and len(numbers) > 1


def single(number: Any) -> Any:
    return number[0] if isinstance(number, list) else number


def names_of(regions: Mapping[str, set[int]]) -> dict[int, str]:
    """What the labels of BRATS's three regions are: each holds the next, and one label more. Empty for other regions."""
    known: dict[str, set[int]] = {}
    for name, numbers in regions.items():
        words = re.sub(r"[^a-z]+", " ", name.lower()).strip()
        region = next((key for key, names in REGIONS.items() if words in names), "")
        if not region or region in known:
            return {}
        known[region] = numbers
    if known.keys() != REGIONS.keys() or not known["WT"] > known["TC"] > known["ET"]:
        return {}
    parts = {"edema": known["WT"] - known["TC"], "non-enhancing core": known["TC"] - known["ET"], "enhancing": known["ET"]}
    return {number: name for name, numbers in parts.items() for number in numbers}


REGIONS = {
    "WT": ("wt", "whole tumor", "whole tumour", "whole", "complete tumor"),
    "TC": ("tc", "tumor core", "tumour core", "core"),
    "ET": ("et", "enhancing tumor", "enhancing tumour", "enhancing", "enhancing core"),
}


def meaning(name: str) -> int:
    """BRATS's number for a label of this name; 0 if it is not known, or would be two."""
    words = re.sub(r"[_/+,-]+", " ", name.lower())
    kinds = [kind for pattern, kind in WORDS if re.search(pattern, words)]
    if kinds[:1] == [OEDEMA] and re.search(WORDS[0][0], words):  # "surrounding non-enhancing FLAIR hyperintensity"
        return OEDEMA
    if not kinds:
        return CORE if is_bare_core(name) else 0
    return kinds[0] if len(set(kinds)) == 1 else 0


def is_bare_core(name: str) -> bool:
    return re.sub(r"[^a-z]+", " ", name.lower()).strip() in REGIONS["TC"]

"""The contrasts of a 4-D file of the Medical Segmentation Decathlon, and what its labels mean, by the dataset.json beside its folder."""

from __future__ import annotations

import json
from pathlib import Path

from preprocess.shared.files import read_bytes
from preprocess.source.images import Volume
from preprocess.source.layouts import looks_like

ORDER = ("FLAIR", "T1w", "t1gd", "T2w")  # of Task01_BrainTumour (Antonelli et al. 2022, doi:10.1038/s41467-022-30695-9)
MEANT = (("edema", 2), ("oedema", 2), ("non", 1), ("necro", 1), ("enhanc", 4))  # the first word that fits


def contrasts(folder: Path) -> dict[str, Volume]:
    """By kind the volume of the images in a folder, such as imagesTr, in the order of dataset.json beside it, else as in the Decathlon.

    Raises ValueError, with one sentence, if dataset.json cannot be read or does not name contrasts.
    """
    table = folder.parent / "dataset.json"
    try:
        content = json.loads(read_bytes(table)) if table.exists() or table.is_symlink() else {"modality": ORDER}
        listed = content.get("modality") or content["channel_names"]
        words = [str(listed[key]) for key in sorted(listed, key=int)] if isinstance(listed, dict) else [str(w) for w in listed]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        why = f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no content'})"
        raise ValueError(
            f"dataset.json beside {folder.name} does not tell the order of the contrasts {why}: correct it"
        ) from error
    kinds = [looks_like(word) for word in words]
    named = [kind for kind in kinds if kind]
    if not named or len(set(named)) < len(named):
        raise ValueError(f"dataset.json beside {folder.name} lists {', '.join(words)}: expected names such as {', '.join(ORDER)}")
    return {kind: (number, len(words)) for number, kind in enumerate(kinds) if kind}


def labels(folder: Path) -> dict[int, int]:
    """BRATS's number for each label of a folder, such as labelsTr, that dataset.json beside it names; empty where it does not name all of them.

    The Decathlon has 1 for oedema, 2 for the core and 3 for enhancing tumour; BRATS has 2, 1 and 4.
    """
    try:
        listed = json.loads(read_bytes(folder.parent / "dataset.json"))["labels"]
        names = {int(number): str(name).lower() for number, name in listed.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}
    known = {number: next((label for word, label in MEANT if word in name), 0) for number, name in names.items() if number}
    return known if known and all(known.values()) else {}

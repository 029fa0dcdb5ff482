"""The contrasts of a 4-D file of the Medical Segmentation Decathlon, by the dataset.json beside its folder."""

from __future__ import annotations

import json
from pathlib import Path

from preprocess.source.images import Volume
from preprocess.source.layouts import looks_like

ORDER = ("FLAIR", "T1w", "t1gd", "T2w")  # of Task01_BrainTumour (Antonelli et al. 2022, doi:10.1038/s41467-022-30695-9)


def contrasts(folder: Path) -> dict[str, Volume]:
    """By kind the volume of the images in a folder, such as imagesTr, in the order of dataset.json beside it, else as in the Decathlon.

    Raises ValueError, with one sentence, if dataset.json cannot be read or does not name contrasts.
    """
    table = folder.parent / "dataset.json"
    try:
        content = json.loads(table.read_bytes()) if table.exists() or table.is_symlink() else {"modality": ORDER}
        listed = content.get("modality") or content["channel_names"]
        words = [str(listed[key]) for key in sorted(listed, key=int)] if isinstance(listed, dict) else [str(w) for w in listed]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        why = f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no content'})"
        raise ValueError(
            f"dataset.json beside {folder.name} does not tell the order of the contrasts {why}: correct it"
        ) from error
    kinds = [looks_like(word) for word in words]
    named = [kind for kind in kinds if kind]
    if not named or len(set(named)) < len(named):
        raise ValueError(f"dataset.json beside {folder.name} lists {', '.join(words)}: expected names such as {', '.join(ORDER)}")
    return {kind: (number, len(words)) for number, kind in enumerate(kinds) if kind}

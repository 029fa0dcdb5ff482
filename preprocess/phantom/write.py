"""Writes phantoms as files, in BRATS 2018's layout; their ground truth is in OUT/truth."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from preprocess.phantom.subject import FIELD_OF_VIEW, grade_of, make
from preprocess.shared.errors import UserError
from preprocess.shared.files import write_atomically


def claim(out: Path, identity: dict[str, Any]) -> None:
    """Make the folder, or check that it holds phantoms of the same seed and spacing. Raises UserError."""
    file = out / "truth" / "phantom.json"
    if file.is_file():
        if (existing := json.loads(file.read_text())) != identity:
            raise UserError(f"out={out} holds phantoms of {existing}, not of {identity}: give another out=")
        return
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"out={out} holds other files: give an empty folder")
    write_atomically(file, json.dumps(identity))


def write_subject(out: Path, seed: int, spacing: float, number: int) -> bool:
    """Write one subject, complete or not at all. Returns False if it existed."""
    import nibabel as nib

    grade, name = grade_of(seed, number), f"Brats18_PHANTOM_{number:03d}_1"
    folder = out / grade / name
    if folder.is_dir():
        return False
    phantom = make(seed, number, spacing)
    partial = out / "truth" / f"{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    affine = np.diag([-spacing, -spacing, spacing, 1])
    affine[1, 3] = FIELD_OF_VIEW[1] - 1
    arrays: dict[str, Any] = {**phantom.scans, "seg": phantom.labels}
    for kind, array in arrays.items():
        nib.save(nib.Nifti1Image(array[::-1, ::-1], affine), partial / f"{name}_{kind}.nii.gz")  # BRATS's files are in LPS order
    (out / "truth" / f"{name}.json").write_text(json.dumps(phantom.truth, indent=1))
    bias = {kind: field[::-1, ::-1].astype(np.float16) for kind, field in phantom.log_bias.items()}
    np.savez_compressed(out / "truth" / f"{name}_log_bias.npz", **bias)  # type: ignore[arg-type]
    np.savez_compressed(out / "truth" / f"{name}_white.npz", white=phantom.white[::-1, ::-1])
    folder.parent.mkdir(exist_ok=True)
    partial.replace(folder)
    return True

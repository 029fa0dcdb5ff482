"""Reading a case: its files become arrays on one canonical grid, with a brain mask, or one sentence says which file is why not."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from preprocess.brats import MODALITIES, Case
from preprocess.errors import CaseError
from preprocess.geometry import to_canonical

LARGEST = 1024  # voxels along an axis: more is a lying header


@dataclass
class Scans:
    """A case's files as read: canonical (z, y, x) grids."""

    modalities: list[str]  # those that exist, in the order of MODALITIES
    volumes: npt.NDArray[Any]  # (modality, z, y, x) float32
    mask: npt.NDArray[np.bool_]  # the brain
    labels: npt.NDArray[np.uint8]
    affine: npt.NDArray[Any]  # of the canonical grid
    original: dict[str, Any]  # shape, affine and orientation of the files
    dtypes: dict[str, str]  # by kind: numpy's name of the type that the file stores voxels in
    scaling: dict[str, list[float]]  # by kind: slope and intercept that turn stored voxels into intensities


def read(case: Case, resample: str = "") -> Scans:
    """All files of a case. Raises CaseError naming the file that is unreadable, not finite, or on another grid than the first."""
    volumes, first, first_file, affine, shape = [], None, "", None, None
    labels = None
    modalities: list[str] = []
    dtypes, scaling = {}, {}
    for kind in (*MODALITIES, "seg"):
        if kind not in case.files:
            continue
        array, this, dtypes[kind], scaling[kind] = load(case.name, case.files[kind])
        if first is None or affine is None:
            first, first_file, affine, shape = array, case.files[kind].name, this, array.shape
        if array.shape != shape:
            raise CaseError(
                f"{case.name}: {case.files[kind].name} has shape {array.shape} and {first_file} {shape}: register them first"
            )
        if not np.allclose(this, affine, atol=1e-3):
            raise CaseError(f"{case.name}: {case.files[kind].name} and {first_file} have different affines: register them first")
        if kind == "seg":
            labels = label_map(case, array)
        else:
            modalities.append(kind)
            volumes.append(array)
    assert affine is not None
    assert first is not None
    labels = np.zeros(first.shape, np.uint8) if labels is None else labels
    turned = [to_canonical(v, affine) for v in volumes]
    stacked = np.stack([t[0] for t in turned])
    original = {"original_shape": list(first.shape), "original_affine": affine.tolist(), "original_orientation": turned[0][2]}
    mask = brain_mask(case, modalities, stacked)
    return Scans(modalities, stacked, mask, to_canonical(labels, affine)[0], turned[0][1], original, dtypes, scaling)


def load(case: str, path: Path) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any], str, list[float]]:
    """(x, y, z) intensities and affine of a file, the type of its stored voxels, and their slope and intercept. Raises CaseError."""
    import nibabel as nib

    try:
        file = nib.load(path)
        shape = file.shape
        if len(shape) > 3 and set(shape[3:]) == {1}:
            shape = shape[:3]
        if len(shape) != 3 or max(shape) > LARGEST or min(shape) < 1:
            raise CaseError(f"{case}: {path.name} has shape {file.shape}: expected three axes of at most {LARGEST} voxels")
        array = np.asanyarray(file.dataobj).reshape(shape).astype(np.float32)
    except CaseError:
        raise
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CaseError(f"{case}: {path.name} cannot be read as NIfTI ({reason}): copy it again") from error
    if not np.isfinite(array).all():
        raise CaseError(f"{case}: {path.name} holds NaN or infinite intensities: export it again")
    if file.affine is None or not np.isfinite(file.affine).all() or abs(np.linalg.det(file.affine[:3, :3])) < 1e-6:
        raise CaseError(f"{case}: {path.name} has no usable affine in its header")
    return array, file.affine.astype(np.float64), file.get_data_dtype().name, [file.dataobj.slope, file.dataobj.inter]


def label_map(case: Case, array: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Raises CaseError if a label is not a whole number from 0 to 255."""
    labels = array.astype(np.uint8)
    if not np.array_equal(labels, array):
        raise CaseError(
            f"{case.name}: {case.files['seg'].name} holds values that are no labels: expected whole numbers from 0 to 255"
        )
    return labels


def brain_mask(case: Case, modalities: list[str], volumes: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Where any contrast is not exactly 0; real brains hold a few negative intensities. Raises CaseError if that is nowhere, or
    everywhere, or if a contrast is constant inside it."""
    mask: npt.NDArray[np.bool_] = (volumes != 0).any(axis=0)
    if not mask.any():
        raise CaseError(f"{case.name}: every contrast is 0 everywhere: the brain mask is empty")
    for modality, volume in zip(modalities, volumes, strict=True):
        if np.ptp(volume[mask]) == 0:
            raise CaseError(f"{case.name}: {case.files[modality].name} has one intensity everywhere in the brain")
    return mask


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Small real NIfTI cases, written as BRATS names them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

BRATS_2018 = {"t1": "_t1", "t1c": "_t1ce", "t2": "_t2", "flair": "_flair", "seg": "_seg"}
BRATS_2023 = {"t1": "-t1n", "t1c": "-t1c", "t2": "-t2w", "flair": "-t2f", "seg": "-seg"}
CaseWriter = Callable[..., dict[str, Path]]


@pytest.fixture
def write_case() -> CaseWriter:
    """write_case(folder, name) -> files by modality: a ball of a brain with a bright ball of a lesion, 4 mm voxels, LPS."""

    def write(
        folder: Path, name: str, seed: int = 0, size: int = 28, seg: bool = True, names: dict[str, str] = BRATS_2018
    ) -> dict[str, Path]:
        rng = np.random.default_rng(seed)
        centred = np.stack(np.meshgrid(*[np.arange(size) - (size - 1) / 2] * 3, indexing="ij"))
        brain = np.sqrt((centred**2).sum(axis=0)) < 0.4 * size
        lesion = np.sqrt(((centred - 0.15 * size) ** 2).sum(axis=0)) < 0.1 * size
        files = {}
        for kind, suffix in names.items():
            if kind == "seg" and not seg:
                continue
            noise = 10 * rng.normal(size=brain.shape)
            array = (2 * lesion).astype(np.uint8) if kind == "seg" else (brain * (100 + noise + 80 * lesion)).astype(np.float32)
            files[kind] = folder / name / f"{name}{suffix}.nii.gz"
            files[kind].parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.diag([-4.0, -4.0, 4.0, 1.0])), files[kind])
        return files

    return write


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray], move: float = 0.0) -> None:
    """The file with its voxels changed, and its grid moved by so many mm."""
    image = nib.load(path)
    affine = image.affine.copy()
    affine[0, 3] += move
    nib.save(nib.Nifti1Image(change(image.get_fdata(dtype=np.float32)), affine), path)


@pytest.fixture(name="rewrite")
def rewrite_fixture() -> Callable[..., None]:
    return rewrite

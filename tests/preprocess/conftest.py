"""Small real cases, written as each layout names them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from sick import Sick

KINDS = ("t1", "t1c", "t2", "flair", "seg")


def of(template: str, *words: str) -> dict[str, str]:
    return {kind: template.format(word=word) for kind, word in zip(KINDS, words, strict=True)}


LAYOUTS = {
    "brats2015": of(
        "{{name}}/VSD.Brain.XX.O.{word}/VSD.Brain.XX.O.{word}.mha", "MR_T1.1", "MR_T1c.2", "MR_T2.3", "MR_Flair.4", "OT.5"
    ),
    "brats2018": of("{{name}}/{{name}}_{word}.nii.gz", "t1", "t1ce", "t2", "flair", "seg"),
    "brats2023": of("{{name}}/{{name}}-{word}.nii.gz", "t1n", "t1c", "t2w", "t2f", "seg"),
    "bids": of("{{name}}/anat/{{name}}_{word}.nii.gz", "T1w", "ce-gadolinium_T1w", "T2w", "FLAIR", "dseg")
    | {"seg": "derivatives/masks/{name}/anat/{name}_dseg.nii.gz"},
}
CaseWriter = Callable[..., dict[str, Path]]


@pytest.fixture(scope="session")
def write_case() -> CaseWriter:
    """write_case(folder, name) -> files by modality: a ball of a brain with a bright ball of a lesion, LPS, in voxels of 4 mm or, on
    fewer than 28 a side, larger ones: the brain keeps its size."""

    def write(
        folder: Path, name: str, seed: int = 0, size: int = 28, seg: bool = True, layout: str = "brats2018"
    ) -> dict[str, Path]:
        rng = np.random.default_rng(seed)
        centred = np.stack(np.meshgrid(*[np.arange(size) - (size - 1) / 2] * 3, indexing="ij"))
        brain = np.sqrt((centred**2).sum(axis=0)) < 0.4 * size
        lesion = np.sqrt(((centred - 0.15 * size) ** 2).sum(axis=0)) < 0.1 * size
        files = {}
        for kind, template in LAYOUTS[layout].items():
            if kind == "seg" and not seg:
                continue
            noise = 10 * rng.normal(size=brain.shape)
            array = (2 * lesion).astype(np.uint8) if kind == "seg" else (brain * (100 + noise + 80 * lesion)).astype(np.float32)
            files[kind] = folder / template.format(name=name)
            files[kind].parent.mkdir(parents=True, exist_ok=True)
            side = max(4.0, 112 / size)
            save(array, np.diag([-side, -side, side, 1.0]), files[kind])
        return files

    return write


def save(array: np.ndarray, affine: np.ndarray, path: Path) -> None:
    """An (x, y, z) array as NIfTI or, compressed as BRATS 2015's are, MetaImage."""
    if path.suffix != ".mha":
        nib.save(nib.Nifti1Image(array, affine), path)
        return
    lps = np.diag([-1, -1, 1, 1]) @ affine
    spacing = np.sqrt((lps[:3, :3] ** 2).sum(axis=0))
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(image, str(path), True)


@pytest.fixture(name="save", scope="session")
def save_fixture() -> Callable[[np.ndarray, np.ndarray, Path], None]:
    return save


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray], move: float = 0.0) -> None:
    """The file with its voxels changed, and its grid moved by so many mm."""
    image = nib.load(path)
    affine = image.affine.copy()
    affine[0, 3] += move
    nib.save(nib.Nifti1Image(change(image.get_fdata(dtype=np.float32)), affine), path)


@pytest.fixture(name="rewrite")
def rewrite_fixture() -> Callable[..., None]:
    return rewrite


@pytest.fixture
def read_only() -> Iterator[Callable[[Path], Path]]:
    """read_only(folder): the folder, mounted so that nobody can write into it."""
    mounted: list[Path] = []

    def protect(folder: Path) -> Path:
        if os.geteuid() or subprocess.run(["mount", "--bind", folder, folder], capture_output=True).returncode:
            pytest.skip("needs root to mount a folder read-only")
        mounted.append(folder)
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        return folder

    yield protect
    for folder in mounted:
        subprocess.run(["umount", folder], check=True)


@pytest.fixture
def sick(phantoms: Path, tmp_path: Path) -> Sick:
    """A phantom whose files a test changes."""
    return Sick(next(iter(sorted(phantoms.glob("HGG/*")))), tmp_path)

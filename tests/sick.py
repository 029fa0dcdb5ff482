"""A phantom whose files a test changes, and what to_zarr makes of it: the recipes of inputs that went wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from preprocess import to_zarr
from preprocess.cohort import Cohort, Record
from preprocess.shared.errors import UserError

CONTRASTS = ("t1", "t1ce", "t2", "flair")
KINDS = (*CONTRASTS, "seg")
BIDS = {"t1": "T1w", "t1ce": "ce-gd_T1w", "t2": "T2w", "flair": "FLAIR"}
Array = np.ndarray


class Sick:
    """One phantom in a folder of its own: its arrays (x, y, z) by kind, its affine, its brain, and the means to change its files."""

    def __init__(self, phantom: Path, folder: Path) -> None:
        self.source, self.name = folder / "w", phantom.name
        shutil.copytree(phantom, self.source / self.name)
        self.files = {kind: self.source / self.name / f"{self.name}_{kind}.nii.gz" for kind in KINDS}
        self.a = {kind: nib.load(path).get_fdata() for kind, path in self.files.items()}
        self.affine = nib.load(self.files["t1"]).affine
        self.brain = np.any([self.a[kind] != 0 for kind in CONTRASTS], axis=0)
        self.tumour = int((self.a["seg"] > 0).sum())
        self.store = folder / "w.zarr"

    def put(self, kind: str, array: Array, affine: Array | None = None) -> None:
        nib.save(nib.Nifti1Image(array, self.affine if affine is None else affine), self.files[kind])

    def put_all(self, change: Callable[[Array], Array], kinds: tuple[str, ...] = CONTRASTS) -> None:
        for kind in kinds:
            self.put(kind, change(self.a[kind]).astype(np.float32))

    def packed(self, kind: str, array: Array, dtype: str) -> None:
        """Save floating-point voxels under a header of whole numbers, which gives them a slope."""
        image = nib.Nifti1Image(array, self.affine, nib.Nifti1Header())
        image.set_data_dtype(dtype)
        nib.save(image, self.files[kind])

    def as_bids(self, mask: Array) -> None:
        """The scans with a skull, in BIDS, beside this brain mask."""
        shutil.rmtree(self.source)
        anat, derived = self.source / "sub-01/anat", self.source / "derivatives/x/sub-01/anat"
        for folder in (anat, derived):
            folder.mkdir(parents=True)
        for kind, word in BIDS.items():
            noise = np.random.default_rng(0).integers(1, 30, self.brain.shape)
            nib.save(nib.Nifti1Image((self.a[kind] + noise).astype("i2"), self.affine), anat / f"sub-01_{word}.nii.gz")
        nib.save(nib.Nifti1Image(mask, self.affine), derived / "sub-01_desc-brain_mask.nii.gz")

    def refusal(self, *words: str) -> str:
        """The sentence with which the case is set aside."""
        with pytest.raises(UserError, match="no case of") as error:
            self.make(*words)
        assert not self.store.exists()
        return str(error.value).partition("the first: ")[2]

    def make(self, *words: str) -> Record:
        """The case's record, which must be in the cohort."""
        shutil.rmtree(self.store, ignore_errors=True)
        settings = ("workers=1", "recipe.n4.enabled=false", "split.test=1", *words)
        assert to_zarr.main([f"source={self.source}", f"store={self.store}", *settings]) == 0
        cohort = Cohort.open(self.store)
        return cohort.record(cohort.subjects[0])

    def brain_voxels(self, *words: str) -> int:
        record = self.make(*words)
        return record.brain_voxels + record.brain_voxels_lost

    def said(self, *words: str) -> str:
        """All that was noted of the case, which is in the cohort."""
        return "; ".join(sentence for _, sentence in self.make(*words).noted)

    def z_scores(self) -> Array:
        """(modality, z, y, x) as stored."""
        cohort = Cohort.open(self.store)
        return cohort.image(cohort.subjects[0])

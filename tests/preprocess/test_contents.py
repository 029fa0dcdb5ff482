"""A file is what its first bytes say, and one whose content is not there is called so."""

import gzip
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from preprocess.shared.errors import CaseError
from preprocess.source.images import is_synthetic, load

VOXELS = np.arange(60, dtype=np.float32).reshape(3, 4, 5)


@pytest.fixture
def plain(tmp_path: Path) -> bytes:
    nib.save(nib.Nifti1Image(VOXELS, np.eye(4)), tmp_path / "plain.nii")
    return (tmp_path / "plain.nii").read_bytes()


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII.GZ", "a.mha"])
@pytest.mark.parametrize("packed", [False, True])
def test_magic_bytes_decide_what_is_packed_and_not_the_name(tmp_path: Path, plain: bytes, name: str, packed: bool) -> None:
    (tmp_path / name).write_bytes(gzip.compress(plain) if packed else plain)
    np.testing.assert_array_equal(load("case", tmp_path / name).array, VOXELS)
    image = nib.Nifti1Image(VOXELS, np.eye(4))
    image.header["descrip"] = b"SYNTHETIC"
    content = image.to_bytes()
    (tmp_path / name).write_bytes(gzip.compress(content) if packed else content)
    assert is_synthetic(tmp_path / name)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_metaimage_is_read_under_any_name_but_not_from_gzip(tmp_path: Path, name: str) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.ascontiguousarray(VOXELS.T)), str(tmp_path / "x.mha"), True)
    content = (tmp_path / "x.mha").read_bytes()
    (tmp_path / name).write_bytes(content)
    np.testing.assert_array_equal(load("case", tmp_path / name).array, VOXELS)
    (tmp_path / name).write_bytes(gzip.compress(content))
    with pytest.raises(CaseError, match="is a MetaImage packed with gzip: unpack it with gunzip"):
        load("case", tmp_path / name)


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.nii", b"x")


def tarred(path: Path) -> None:
    with tarfile.open(path, "w:gz") as archive:
        archive.add(path.with_name("plain.nii"))


ABSENT: dict[str, tuple[Callable[[Path], object], str]] = {
    "annexed link": (lambda p: p.symlink_to("../../.git/annex/objects/x/MD5E-s9--0.nii.gz"), "is not fetched: run datalad get"),
    "annexed pointer": (lambda p: p.write_text("/annex/objects/MD5E-s9--0.nii.gz\n"), "is not fetched: run datalad get"),
    "LFS": (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\n"), "is not fetched: run git lfs pull"),
    "empty": (lambda p: p.write_bytes(b""), "is empty"),
    "web page": (lambda p: p.write_text("<!DOCTYPE html><html>"), "is a web page, not a scan"),
    "error": (lambda p: p.write_text('{"message": "Not found"}'), "is JSON text, not a scan"),
    "zip": (zipped, "is a zip archive: unpack it"),
    "tar": (tarred, "is a tar archive: unpack it"),
    "DICOM": (lambda p: p.write_bytes(bytes(128) + b"DICM" + bytes(999)), "is a DICOM file: convert its series"),
    "twice": (lambda p: p.write_bytes(gzip.compress(gzip.compress(bytes(999)))), "is packed with gzip twice"),
    "more": (
        lambda p: p.write_bytes(gzip.compress(p.with_name("plain.nii").read_bytes()) + b"?"),
        "bytes that are not gzip follow",
    ),
    "4-D": (lambda p: nib.save(nib.Nifti1Image(np.zeros((3, 4, 5, 6), "f4"), np.eye(4)), p), "holds 6 volumes"),
}


@pytest.mark.parametrize("what", ABSENT)
def test_what_is_no_scan_is_called_what_it_is(tmp_path: Path, plain: bytes, what: str) -> None:
    write, sentence = ABSENT[what]
    write(tmp_path / "T1.nii.gz")
    with pytest.raises(CaseError) as refusal:
        load("case", tmp_path / "T1.nii.gz")
    assert f"case: T1.nii.gz {sentence}" in str(refusal.value) or (what == "more" and sentence in str(refusal.value))
    assert "\n" not in str(refusal.value)

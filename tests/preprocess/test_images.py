"""A file is read correctly, or refused in one sentence before it takes memory."""

import gzip
import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from preprocess.shared.errors import CaseError
from preprocess.source.images import is_synthetic, load

OBLIQUE = np.array([[0.1, -1.9, 0.2, 40], [1.0, 0.2, 0.1, -20], [0.0, 0.3, 2.9, 7], [0, 0, 0, 1]])
OBLIQUE[:3, :3] = np.linalg.qr(OBLIQUE[:3, :3])[0] * [1.0, 2.0, 3.0]  # ITK knows no shear


def counted(dtype: str = "int16") -> np.ndarray:
    return np.arange(4 * 5 * 6).reshape(4, 5, 6).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII.GZ", "a.mha"])
def test_voxels_affine_and_type_are_the_files(tmp_path: Path, save, name: str, dtype: str) -> None:
    save(counted(dtype), OBLIQUE, tmp_path / name)
    image = load("case", tmp_path / name)
    np.testing.assert_array_equal(image.array, counted(dtype))
    np.testing.assert_allclose(image.affine, OBLIQUE, atol=1e-5)
    assert (image.array.dtype, image.dtype, image.scaling) == (np.float32, dtype, [1, 0])


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_slope_and_intercept_are_applied_and_kept(tmp_path: Path, kind: type) -> None:
    image = kind(counted()[..., None], OBLIQUE)
    image.header.set_slope_inter(0.5, 10)
    nib.save(image, tmp_path / "a.nii.gz")
    read = load("case", tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read.array, counted() * 0.5 + 10)
    assert (read.dtype, read.scaling) == ("int16", [0.5, 10.0])


def header(shape: tuple[int, ...], offset: float = 352, dtype: type = np.float32) -> bytes:
    made = nib.Nifti1Header()
    made.set_data_shape(shape)
    made.set_data_dtype(dtype)
    raw = bytearray(made.binaryblock) + bytes(4)
    raw[344:348], raw[108:112] = b"n+1\0", struct.pack("<f", offset)
    return bytes(raw)


def mha(shape: str, size: int | str, packed: bool = True, data: str = "LOCAL") -> bytes:
    packing = f"CompressedData = {packed}\n" + (f"CompressedDataSize = {size}\n" if packed else "")
    return (
        f"ObjectType = Image\nNDims = 3\n{packing}DimSize = {shape}\nElementType = MET_SHORT\nElementDataFile = {data}\n".encode()
    )


def endless() -> bytes:
    """16 GB of zeros in 16 MB of gzip."""
    return gzip.compress(bytes(2**24)) * 1024


def hostile(folder: Path) -> dict[str, str]:
    """Files that would cost a reader that trusts them all its memory or time, and the expected sentence for each."""
    bomb = zlib.compress(bytes(2**28))
    files = {
        "dimensions.nii.gz": (gzip.compress(header((30000,) * 3) + bytes(100)), "has shape (30000, 30000, 30000)"),
        "voxels.nii": (header((1000,) * 3), "268 million"),
        "absent.nii.gz": (gzip.compress(header((500,) * 3)), "its header is wrong"),
        "absent.nii": (header((500,) * 3) + bytes(10**6), "its header is wrong"),
        "far.nii.gz": (gzip.compress(header((5, 5, 5), 3e9)) + endless(), "puts the voxels at byte 3"),
        "endless.nii.gz": (gzip.compress(header((5, 5, 5))) + endless(), "is longer than the 852 bytes"),
        "dimensions.mha": (mha("30000 30000 30000", 100) + bytes(100), "has shape (30000, 30000, 30000)"),
        "absent.mha": (mha("500 500 500", 100) + bytes(100), "its header is wrong"),
        "huge.mha": (mha("5 5 5", 10**12) + zlib.compress(bytes(250)), "is cut off"),
        "endless.mha": (mha("5 5 5", len(bomb)) + bomb, "is longer than the 250 bytes"),
    }
    for name, (content, _) in files.items():
        (folder / name).write_bytes(content)
    return {name: sentence for name, (_, sentence) in files.items()}


READ_ALL = """
import resource, sys, time
from pathlib import Path
import nibabel, SimpleITK
from preprocess.shared.errors import CaseError
from preprocess.source.images import load
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = peak()
for path in sorted(Path(sys.argv[1]).iterdir()):
    start = time.process_time()
    try:
        load("case", path)
    except CaseError as error:
        print(path.name, peak() - before, round(time.process_time() - start, 1), error, sep="|")
"""


def test_files_with_false_headers_take_neither_memory_nor_time(tmp_path: Path) -> None:
    wanted = hostile(tmp_path)
    done = subprocess.run([sys.executable, "-c", READ_ALL, tmp_path], capture_output=True, text=True, check=True)
    results = {name: rest for name, *rest in (line.split("|") for line in done.stdout.splitlines())}
    assert {name for name, sentence in wanted.items() if sentence not in results[name][2]} == set()
    assert {
        name: (megabytes, seconds)
        for name, (megabytes, seconds, _) in results.items()
        if int(megabytes) > 50 or float(seconds) > 2
    } == {}
    assert done.stderr == ""


def damaged(path: Path, change) -> Path:
    path.write_bytes(change(path.read_bytes()))
    return path


@pytest.mark.parametrize("name", ["a.nii.gz", "a.mha"])
def test_every_flipped_bit_of_the_voxels_is_detected(tmp_path: Path, save, name: str) -> None:
    path = tmp_path / name
    save(np.random.default_rng(0).integers(0, 99, (9, 9, 9)).astype(np.int16), np.eye(4), path)
    whole = path.read_bytes()
    voxels = whole.index(b"LOCAL\n") + 6 if name.endswith("mha") else 300
    for at in range(voxels, len(whole), 37):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        with pytest.raises(CaseError, match=f"case: {name} (cannot be read|is cut off|is longer)"):
            load("case", path)


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("a.nii.gz", lambda b: b[: len(b) // 2], r"a\.nii\.gz cannot be read \(Compressed file ended"),
        ("a.nii", lambda b: b[:-1], "is cut off"),
        ("a.mha", lambda b: b[:-1], "is cut off"),
        ("a.mha", lambda b: re.sub(rb"= LOCAL", b"= /etc/passwd", b), "has its voxels in /etc/passwd"),
        ("a.mha", lambda b: b"", "is empty"),
        ("a.nii.gz", lambda b: b"", "is empty"),
        ("a.nii.gz", lambda b: b"GIF89a" * 99, "is not a NIfTI file"),
        ("a.nii", lambda b: b"GIF89a" * 99, "is not a NIfTI file"),
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path: Path, save, name: str, change, sentence: str) -> None:
    save(counted(), np.eye(4), tmp_path / name)
    with pytest.raises(CaseError, match=sentence) as refusal:
        load("case", damaged(tmp_path / name, change))
    assert str(refusal.value).startswith(f"case: {name} ")
    assert "\n" not in str(refusal.value)


def test_other_formats_are_refused(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(counted(), np.eye(4)), tmp_path / "pair.img")
    with pytest.raises(CaseError, match=r"case: pair\.img is not a \.nii, \.nii\.gz or \.mha file: convert it"):
        load("case", tmp_path / "pair.img")
    with pytest.raises(CaseError, match="is not a NIfTI file with header and voxels in one"):
        load("case", (tmp_path / "pair.hdr").rename(tmp_path / "header.nii"))


def test_colours_and_missing_affines_are_refused(tmp_path: Path, save) -> None:
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")]), np.eye(4)), tmp_path / "rgb.nii")
    with pytest.raises(CaseError, match=r"rgb\.nii stores voxels as"):
        load("case", tmp_path / "rgb.nii")
    save(counted(), np.diag([1.0, 1.0, 1e-9, 1.0]), tmp_path / "flat.nii")
    with pytest.raises(CaseError, match=r"flat\.nii has no usable affine"):
        load("case", tmp_path / "flat.nii")


def test_what_is_no_plain_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    pipe, link = tmp_path / "a_t1.nii", tmp_path / "a_t2.nii.gz"
    os.mkfifo(pipe)
    link.symlink_to(tmp_path / "nowhere")
    with pytest.raises(CaseError, match=r"a: a_t1\.nii is not a plain file"):
        load("a", pipe)
    with pytest.raises(CaseError, match=r"a: a_t2\.nii\.gz is a link to nothing"):
        load("a", link)
    assert not is_synthetic(pipe)

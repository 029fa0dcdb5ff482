"""Reads one file to an array, header first: no false header or compressed file makes it use more memory than the voxels need."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from preprocess.shared.errors import CaseError
from preprocess.source.contents import is_metaimage, is_packed, mistaken, opened, refuse_absent

SUFFIXES = (".nii", ".nii.gz", ".mha")
LARGEST = 1024  # voxels along an axis: more means a false header
MOST = 2**28  # voxels in all: 1 GB as float32
INFLATION = 1032  # the largest compression factor of deflate (zlib.net/zlib_tech.html)
SLACK = 2**20  # bytes that may follow the voxels
LONGEST_HEADER = 2**24  # bytes before the voxels, extensions included
SYNTHETIC = "SYNTHETIC"  # the first word of the header's description of a synthesised image
NIFTI1_DESCRIP, NIFTI2_DESCRIP = 148, 240  # the bytes where the descriptions begin
Volume = tuple[int, int]  # one of the volumes of a 4-D file: its number, and how many the file must hold
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK's millimetres to NIfTI's


@dataclass
class Image:
    """A file as read."""

    array: npt.NDArray[np.float32]  # (x, y, z) intensities
    affine: npt.NDArray[np.float64]  # voxel (x, y, z) -> mm, RAS as NIfTI has it
    dtype: str  # numpy's name of the type that the file stores voxels in
    scaling: list[float]  # slope and intercept that turn stored voxels into intensities
    file: str = ""  # its name, for messages
    header: Any = None  # nibabel's, of a NIfTI file


def load(case: str, path: Path) -> Image:
    """The image of a NIfTI file, packed or not, or of a MetaImage in one file; its content says which. Raises CaseError naming the file and
    what is wrong with it."""
    return volumes(case, path)[0]


def load_all(case: str, files: Mapping[str, Path], channels: Mapping[str, Volume]) -> dict[str, Image]:
    """A case's images by kind; `channels` are the kinds that are volumes of a 4-D file, which is read once. Raises CaseError."""
    stacks = {files[kind]: count for kind, (_, count) in channels.items() if kind in files}
    read = {path: volumes(case, path, count) for path, count in stacks.items()}
    return {kind: read[path][channels[kind][0]] if path in read else load(case, path) for kind, path in files.items()}


def volumes(case: str, path: Path, count: int = 0) -> list[Image]:
    """The volumes of a file that must hold `count` of them, or be 3-D if that is 0. Raises CaseError naming the file and what is wrong with it."""
    if not path.name.lower().endswith(SUFFIXES):
        raise CaseError(f"{case}: {path.name} is not a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file: convert it")
    refuse_absent(case, path)
    try:
        images = [load_mha(path)] if is_metaimage(path) else load_nifti(path, count)
    except CaseError as error:
        raise CaseError(f"{case}: {path.name} {error}") from error
    except MemoryError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        if reason.startswith("Not a gzipped file"):  # though it begins as one
            reason = "bytes that are not gzip follow the packed ones"
        raise CaseError(f"{case}: {path.name} cannot be read ({reason}): copy it again") from error
    if len(images) != (count or 1):
        raise CaseError(f"{case}: {path.name} holds {len(images)} volume: expected {count}")
    for image in images:
        image.file = path.name
        check(case, image)
    return images


def check(case: str, image: Image) -> None:
    """Raise CaseError if the affine cannot be used."""
    axes = image.affine[:3, :3]
    if not np.isfinite(image.affine).all() or min(np.linalg.norm(axes, axis=0)) < 1e-6 or abs(np.linalg.det(axes)) < 1e-12:
        raise CaseError(f"{case}: {image.file} has no usable affine in its header")


def load_nifti(path: Path, count: int = 0) -> list[Image]:
    """Its `count` volumes. Decompresses the whole file, so that its checksum is checked."""
    import nibabel as nib

    with opened(path) as file:
        head = file.read(nib.Nifti2Header.sizeof_hdr)
        second = nib.Nifti2Header.sizeof_hdr in (int.from_bytes(head[:4], order) for order in ("little", "big"))
        kind = nib.Nifti2Image if second else nib.Nifti1Image
        if head[344:347] != b"n+1" and head[4:7] != b"n+2":
            raise CaseError(mistaken(head) or "is not a NIfTI file with header and voxels in one: convert it")
        header = kind.header_class(head[: kind.header_class.sizeof_hdr], check=False)
        dtype, start = header.get_data_dtype(), int(header.get_data_offset())
        shape = axes(header.get_data_shape(), count)
        size = start + bytes_of_voxels(shape, dtype, path.stat().st_size * (INFLATION if is_packed(path) else 1), start)
        data = head + file.read(size - len(head) + SLACK + 1)
    if len(data) < size:
        raise CaseError(f"is cut off: it holds {len(data)} of {size} bytes: copy it again")
    if len(data) > size + SLACK:
        raise CaseError(f"is longer than the {size} bytes that its header gives: export it again")
    file = kind.from_bytes(data)
    with np.errstate(over="ignore"):
        array = np.asanyarray(file.dataobj).reshape(*shape[:3], count or 1).astype(np.float32)
    scaling = [float(file.dataobj.slope), float(file.dataobj.inter)]
    affine = file.affine.astype(np.float64)
    return [Image(array[..., n], affine, dtype.name, scaling, header=file.header) for n in range(count or 1)]


def is_synthetic(path: Path) -> bool:
    """Whether a NIfTI file's header says that it was synthesised. False for a file that cannot be read."""
    if not path.is_file():
        return False
    try:
        with opened(path) as file:
            head = file.read(NIFTI2_DESCRIP + 80)
    except (OSError, EOFError, zlib.error):
        return False
    return any(head[at:].startswith(SYNTHETIC.encode()) for at in (NIFTI1_DESCRIP, NIFTI2_DESCRIP))


def load_mha(path: Path) -> Image:
    """Reads a MetaImage with ITK, which trusts the header and, after a line on stderr, a damaged stream: both are checked first."""
    import SimpleITK as sitk

    text, start = mha_header(path)
    if text.get("ElementDataFile") != "LOCAL":
        raise CaseError(f"has its voxels in {text.get('ElementDataFile', 'no file')}: save it as one file")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("MetaImageIO")
    reader.ReadImageInformation()
    shape = three_axes(reader.GetSize())
    if reader.GetNumberOfComponents() != 1:
        raise CaseError(f"has {reader.GetNumberOfComponents()} values per voxel: expected one")
    packed = text.get("CompressedData", "").lower() == "true"
    dtype = sitk.GetArrayViewFromImage(sitk.Image([1] * reader.GetDimension(), reader.GetPixelID())).dtype
    size = bytes_of_voxels(shape, dtype, path.stat().st_size * (INFLATION if packed else 1), start)
    if packed:
        check_stream(path, start, size, int(text.get("CompressedDataSize", 0)))
    image = reader.Execute()
    with np.errstate(over="ignore"):
        array = sitk.GetArrayFromImage(image).T.reshape(shape).astype(np.float32)
    affine = np.eye(4)
    affine[:3, :3] = (np.reshape(image.GetDirection(), [image.GetDimension()] * 2) * image.GetSpacing())[:3, :3]
    affine[:3, 3] = image.GetOrigin()[:3]
    return Image(array, LPS_TO_RAS @ affine, dtype.name, [1.0, 0.0])


def mha_header(path: Path) -> tuple[dict[str, str], int]:
    """The `key = value` lines before the voxels, and the byte at which the voxels begin."""
    header: dict[str, str] = {}
    with path.open("rb") as file:
        while "ElementDataFile" not in header and (line := file.readline(2**12)) and file.tell() < 2**16:
            key, _, value = line.decode("ascii", "replace").partition("=")
            header[key.strip()] = value.strip()
        return header, file.tell()


def check_stream(path: Path, start: int, size: int, packed_size: int) -> None:
    """Raise CaseError or zlib.error unless the zlib stream at byte `start` unpacks to `size` bytes, in bounded memory."""
    stream, length = zlib.decompressobj(), 0
    with path.open("rb") as file:
        file.seek(start)
        while length <= size and not stream.eof and (part := stream.unconsumed_tail or file.read(2**20)):
            length += len(stream.decompress(part, 2**20))
    if length > size:
        raise CaseError(f"is longer than the {size} bytes that its header gives: export it again")
    if length < size or not stream.eof or start + packed_size > path.stat().st_size:
        raise CaseError(f"is cut off: it holds {length} of {size} bytes: copy it again")


def axes(shape: Sequence[int], count: int) -> tuple[int, ...]:
    """The shape of a file of `count` volumes, with a fourth axis for them; three axes if that is 0. Raises CaseError if it is another."""
    if not count:
        return three_axes(shape)
    if len(shape) < 3 or math.prod(shape[3:]) != count:
        raise CaseError(f"has shape {tuple(shape)}: expected {count} volumes, one for each contrast of dataset.json")
    if count * math.prod(three := three_axes(shape[:3])) > MOST:
        raise CaseError(f"has shape {tuple(shape)}: expected at most {MOST // 10**6} million voxels in all")
    return (*three, count)


def three_axes(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape without trailing axes of 1. Raises CaseError unless three axes of a plausible size are left."""
    three = tuple(shape[:3]) if set(shape[3:]) <= {1} else tuple(shape)
    if len(three) == 4 and max(three[:3]) <= LARGEST:
        what = "layout=msd reads those of the Decathlon; else split it into a file for each contrast"
        raise CaseError(f"holds {three[3]} volumes (shape {three}): {what}")
    if len(three) != 3 or max(three) > LARGEST or min(three) < 1 or math.prod(three) > MOST:
        limit = f"three axes of at most {LARGEST} voxels, {MOST // 10**6} million in all"
        raise CaseError(f"has shape {tuple(shape)}: expected {limit}")
    return three


def bytes_of_voxels(shape: Sequence[int], dtype: np.dtype[Any], room: int, start: int) -> int:
    """How many bytes the voxels take. Raises CaseError if they are not plain numbers, or more than the `room` bytes that the file can hold."""
    if dtype.kind not in "iuf":
        raise CaseError(f"stores voxels as {dtype.name}: expected whole or floating-point numbers")
    if not 0 <= start <= LONGEST_HEADER:
        raise CaseError(f"has a header that puts the voxels at byte {start}: export it again")
    size = math.prod(shape) * dtype.itemsize
    if start + size > room:
        raise CaseError(f"is cut off, or its header is wrong: it cannot hold {shape} voxels of {dtype.name}: copy it again")
    return size

"""A subject's arrays: one shard file each, a checksum (crc32c) for each chunk, whole arrays checked on reading."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from preprocess.cohort.files import shard_path
from preprocess.shared.errors import StoreError
from preprocess.shared.files import open_plain

REMEDY = "restore it, or remove the subject's file in records/ and run to_zarr again"
ABSENT = 2**64 - 1  # the size of a chunk that is not stored
CUBE = 32  # voxels along an edge of a `patch` chunk


def read_array(folder: Path, name: str, shape: Sequence[int]) -> npt.NDArray[Any]:
    """A subject's whole array, checked. Raises StoreError naming the file."""
    shard = shard_path(folder / name, len(shape))
    array = open_array(folder, name, shape)
    try:
        return np.asarray(array[...])
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise StoreError(f"{shard} is damaged ({reason}): {REMEDY}") from error


def open_array(folder: Path, name: str, shape: Sequence[int]) -> Any:
    """A subject's zarr array, not read yet. Raises StoreError naming the file that is missing, empty or of another shape."""
    import zarr

    shard = shard_path(folder / name, len(shape))
    for file in (folder / name / "zarr.json", shard):
        if not file.is_file():
            raise StoreError(f"{file} is missing: {REMEDY}")
    if not shard.stat().st_size:  # a power cut can leave one, and zarr would read it as the fill value
        raise StoreError(f"{shard} is empty: {REMEDY}")
    try:
        array = zarr.open_array(folder / name, mode="r", zarr_format=3)
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise StoreError(f"{folder / name} has no usable metadata ({reason}): {REMEDY}") from error
    if list(array.shape) != list(shape):
        raise StoreError(f"{folder / name} has shape {list(array.shape)} and its record says {list(shape)}")
    refuse_bombs(array, shard)
    return array


def refuse_bombs(array: Any, shard: Path) -> None:
    """Raise StoreError if the array is not stored as `write_array` does, or a chunk claims to unpack to another size: zarr would unpack many
    at once, each to up to 2 GB."""
    codecs = array.metadata.to_dict()["codecs"]
    inner = codecs[0].get("configuration", {}).get("codecs", ())
    ours = [codec["name"] for codec in inner] == ["bytes", "blosc", "crc32c"] and len(codecs) == 1
    if not ours or array.chunks not in [chunk_shape(array.shape, kind) for kind in ("slice", "patch")]:
        raise StoreError(f"{shard} is not stored as this version stores arrays: {REMEDY}")
    size = array.dtype.itemsize * math.prod(array.chunks)
    count = math.prod(-(-n // c) for n, c in zip(array.shape, array.chunks, strict=True))
    with open_plain(shard) as file:
        file.seek(max(0, shard.stat().st_size - 16 * count - 4))  # the index: place and size of each chunk, and its checksum
        index = file.read(16 * count)
        for place, length in np.frombuffer(index.ljust(16 * count, b"\xff"), "<u8").reshape(-1, 2).tolist():
            file.seek(min(place + 4, shard.stat().st_size))  # blosc's header has the unpacked size in bytes 4 to 7
            if length != ABSENT and (claimed := int.from_bytes(file.read(4), "little")) != size:
                raise StoreError(f"{shard} is damaged (a chunk claims {claimed} bytes, not {size}): {REMEDY}")


def write_array(path: Path, array: npt.NDArray[Any], chunks: str) -> None:
    """Write one shard file; `slice` chunks are axial slices, `patch` chunks cubes of 32 voxels, both with all modalities."""
    import zarr
    from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec

    inner = chunk_shape(array.shape, chunks)
    shard = tuple(-(-n // c) * c for n, c in zip(array.shape, inner, strict=True))
    codecs = (BloscCodec(cname="lz4", clevel=5, typesize=array.itemsize), Crc32cCodec())
    made = zarr.create_array(
        path, shape=array.shape, dtype=array.dtype, chunks=inner, shards=shard,
        dimension_names=("c", "z", "y", "x")[-array.ndim:], serializer=BytesCodec(), compressors=codecs,
        config={"write_empty_chunks": True},  # otherwise labels of only 0 would have no shard file, as if it were lost
    )  # fmt: skip
    made[...] = array


def chunk_shape(shape: Sequence[int], chunks: str) -> tuple[int, ...]:
    """Of an array (…, z, y, x) in `slice` or `patch` chunks."""
    return (*shape[:-3], *((1, *shape[-2:]) if chunks == "slice" else (CUBE,) * 3))


def array_digest(array: npt.NDArray[Any]) -> str:
    """The sha256 of an array's values."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()

"""What a file is by its first bytes, whatever its name says; and why its content may not be there at all."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import IO, cast

from preprocess.shared.errors import CaseError
from preprocess.shared.files import open_plain

GZIP = b"\x1f\x8b"
HEAD = 600  # bytes that show what a file is
METAIMAGE = re.compile(rb"\s*(ObjectType|ObjectSubType|NDims|Comment|Name|ID|TransformType|BinaryData)\s*=")
UNFETCHED = "is not fetched: run datalad get (or git annex get)"

# What users save as NIfTI by mistake: the byte at which it shows, what stands there, and the sentence.
OTHERS = (
    (0, b"PK\x03\x04", "is a zip archive: unpack it"),
    (257, b"ustar", "is a tar archive: unpack it"),
    (0, b"BZh", "is packed with bzip2: unpack it"),
    (0, b"\xfd7zXZ", "is packed with xz: unpack it"),
    (0, b"\x28\xb5\x2f\xfd", "is packed with zstd: unpack it"),
    (0, b"7z\xbc\xaf", "is a 7z archive: unpack it"),
    (0, GZIP, "is packed with gzip twice: unpack it once with gunzip"),
    (128, b"DICM", "is a DICOM file: convert its series to NIfTI, for example with dcm2niix"),
    (0, b"NRRD", "is an NRRD file: convert it to NIfTI"),
    (0, b"\x89HDF", "is an HDF5 file, perhaps MINC: convert it to NIfTI"),
    (0, b"CDF", "is a MINC file: convert it to NIfTI"),
    (0, b"\0\0\0\1\0\0", "is FreeSurfer's MGH: convert it with mri_convert"),
)
TEXTS = (
    (re.compile(rb"\s*<(!doctype|html|\?xml|head|body|error)", re.IGNORECASE), "a web page"),
    (re.compile(rb"\s*[{\[]\s*[\"{\[\]}]"), "JSON text"),
)


def opened(path: Path) -> IO[bytes]:
    """The file's content for reading, unpacked if it is gzip."""
    return cast("IO[bytes]", gzip.open(path)) if is_packed(path) else open_plain(path)


def is_packed(path: Path) -> bool:
    with open_plain(path) as file:
        return file.read(2) == GZIP


def is_metaimage(path: Path) -> bool:
    """Whether the file begins with MetaImage's lines of text. Raises CaseError if it is gzip that holds them, which no reader takes."""
    with opened(path) as file:
        meta = METAIMAGE.match(file.read(HEAD)) is not None
    if meta and is_packed(path):
        raise CaseError("is a MetaImage packed with gzip: unpack it with gunzip")
    return meta


def mistaken(head: bytes) -> str:
    """What content that is no NIfTI is, and what to do, in a few words; empty if that is not known."""
    for at, signature, sentence in OTHERS:
        if head[at:].startswith(signature):
            return sentence
    for text, what in TEXTS:
        if text.match(head):
            return f"is {what}, not a scan: its download failed: download it again"
    return ""


def absence(path: Path) -> str:
    """Why the content of a file is not there, and what to do, in a few words; empty if it is there. Raises OSError if it cannot be read."""
    if not path.is_file():  # a pipe would be waited for
        if path.exists():
            return "is not a plain file: copy the scan there"
        annexed = path.is_symlink() and "annex/objects/" in str(path.readlink())
        return UNFETCHED if annexed else "is a link to nothing: copy the scan there"
    with open_plain(path) as file:
        head = file.read(HEAD)
    if not head:
        return "is empty: copy it again"
    if head.startswith(b"version https://git-lfs"):
        return "is not fetched: run git lfs pull"
    return UNFETCHED if b"/annex/objects/" in head.split(b"\n")[0] and b"\0" not in head else ""


def refuse_absent(case: str, path: Path) -> None:
    """Raise CaseError if the file's content is not there: it is no plain file, a link to nothing, empty or not fetched."""
    try:
        why = absence(path)
    except OSError as error:
        why = f"cannot be read ({error.strerror}): copy it again"
    if why:
        raise CaseError(f"{case}: {path.name} {why}")

"""The zip of an exported model: written byte for byte the same from the same content, and read without trusting a byte of it.

Members are stored uncompressed, so that what is read is never larger than the file; nothing is unpacked to the disk. The archive's comment holds
the sha256 of all bytes before it. The unpacked folder can be read too.
"""

from __future__ import annotations

import hashlib
import io
import re
import stat
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO
from zipfile import ZIP_STORED, ZipFile, ZipInfo

from preprocess.shared.errors import StoreError
from preprocess.shared.files import open_plain

FORMAT = 1  # of the layout, and of configs/model.json
MARK = b"distsynth model, format %d, sha256 "
DIGITS = 64
LARGEST = 2**31 - 1  # bytes of a member and of the archive: beyond them zip needs other records
LARGEST_TEXT = 2**25
DIRECTORY = 2**16  # bytes of a list of members
TOP = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)  # the folder that all members are in
AGAIN = "copy it again, or ask for a new export"


def pack(top: str, members: Mapping[str, bytes]) -> bytes:
    """The archive of members in a folder `top`. Raises StoreError if they are too large for one."""
    if sum(map(len, members.values())) > LARGEST - DIRECTORY:
        raise StoreError(f"the model is larger than {LARGEST / 1e9:.1f} GB, which an archive cannot hold")
    file = io.BytesIO()
    with ZipFile(file, "w", ZIP_STORED) as archive:
        for name, content in members.items():
            info = ZipInfo(f"{top}/{name}")  # of 1980: no clock time
            info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o644) << 16
            archive.writestr(info, content)
        archive.comment = MARK % FORMAT + b"0" * DIGITS
    whole = file.getvalue()[:-DIGITS]
    return whole + hashlib.sha256(whole).hexdigest().encode()


def unpack(path: Path, names: Sequence[str]) -> dict[str, bytes]:
    """The content of the named members of an archive, or of a folder of them. Raises StoreError if it is damaged, changed or incomplete, or an
    archive holds anything else; of a folder no other file is opened."""
    try:
        if path.is_dir():
            return {name: of_folder(path, name) for name in names}
        with open_plain(path) as file:
            return of_zip(path, file, names)
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror or error}") from error


def of_folder(path: Path, name: str) -> bytes:
    file = path / name
    if not file.is_file():
        raise StoreError(f"{path} has no {name}, so it is no exported model: give a run's folder, a sweep's, or a model.zip")
    if not file.resolve().is_relative_to(path.resolve()):
        raise StoreError(f"{file} is a link that leads out of the folder: {AGAIN}")
    if file.stat().st_size > largest(name):
        raise StoreError(f"{file} has an implausible size: {AGAIN}")
    return file.read_bytes()


def of_zip(path: Path, file: IO[bytes], names: Sequence[str]) -> dict[str, bytes]:
    seal = end_of(path, file)
    try:
        archive = ZipFile(file)
        infos = archive.infolist()
    except Exception as error:  # what a damaged directory raises is not documented
        raise StoreError(f"{path} is damaged: {AGAIN}") from error
    check(path, infos, names)
    check_seal(path, file, seal)
    try:
        return {info.filename.partition("/")[2]: archive.read(info) for info in infos}
    except Exception as error:
        raise StoreError(f"{path} is damaged: {AGAIN}") from error


def end_of(path: Path, file: IO[bytes]) -> bytes:
    """The archive's comment. Raises StoreError if the end of the file is not that of an archive, or it announces too much."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - 22 - 2**16))
    tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) < at + 22:
        raise StoreError(
            f"{path} is not an exported model, or only a part of one: give a run's folder, a sweep's, or a model.zip"
        )
    directory, _, comment = struct.unpack("<IIH", tail[at + 12 : at + 22])
    if at + 22 + comment != len(tail):
        raise StoreError(f"{path} is damaged: {AGAIN}")
    if size > LARGEST or directory > DIRECTORY or tail[max(0, at - 20) :].startswith(b"PK\6\7"):
        raise StoreError(f"{path} has an implausible size: {AGAIN}")
    return tail[at + 22 :]


def check(path: Path, infos: Sequence[ZipInfo], names: Sequence[str]) -> None:
    """Raise StoreError unless an archive holds the named members, each once, in one folder, and nothing else."""
    tops = {info.orig_filename.partition("/")[0] for info in infos}
    for info in infos:
        name = info.orig_filename
        if name.startswith("/") or "\\" in name or ".." in name.split("/"):
            raise StoreError(f"{path} holds {name[:80]!r}, a path that leads out of its folder: do not unpack it")
    for info in infos:
        name = info.orig_filename
        shown = f"{path} holds {name[:80]!r}"
        if name.partition("/")[2] not in names or len(tops) > 1 or not TOP.fullmatch(name.partition("/")[0]):
            raise StoreError(f"{shown}, which no exported model does: {AGAIN}")
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
            raise StoreError(f"{shown}, which is not a plain file: {AGAIN}")
        if info.compress_type != ZIP_STORED or info.flag_bits & 1:
            raise StoreError(f"{shown} compressed or encrypted, which distsynth.export never does: {AGAIN}")
        if info.file_size != info.compress_size or info.file_size > largest(name):
            raise StoreError(f"{shown} with an implausible size: {AGAIN}")
    if len({info.filename for info in infos}) < len(infos):
        raise StoreError(f"{path} holds a file twice: {AGAIN}")
    if lacking := set(names) - {info.filename.partition("/")[2] for info in infos}:
        raise StoreError(f"{path} has no {min(lacking)}: it is no exported model, or only a part of one")


def check_seal(path: Path, file: IO[bytes], comment: bytes) -> None:
    """Raise StoreError if the archive is not as it was written, byte for byte."""
    mark = re.fullmatch(re.escape(MARK).replace(b"%d", rb"(\d{1,9})") + rb"([0-9a-f]{64})", comment)
    if not mark:
        raise StoreError(f"{path} was not written by distsynth.export, or is damaged: {AGAIN}")
    refuse_newer(path, int(mark[1]))
    left, digest = file.seek(0, io.SEEK_END) - DIGITS, hashlib.sha256()
    file.seek(0)
    while left and (block := file.read(min(left, 2**20))):
        digest.update(block)
        left -= len(block)
    if digest.hexdigest().encode() != mark[2]:
        raise StoreError(f"{path} has changed since it was exported: {AGAIN}")


def refuse_newer(path: Path, written: int) -> None:
    """Raise StoreError if a newer version wrote the model."""
    if written > FORMAT:
        raise StoreError(
            f"{path} has format {written} and this version of distsynth reads up to {FORMAT}: install a newer distsynth"
        )


def largest(name: str) -> int:
    """Bytes that a member may have."""
    return LARGEST if name.endswith(".safetensors") else LARGEST_TEXT

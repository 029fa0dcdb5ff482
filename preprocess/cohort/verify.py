"""Checks every byte of a cohort against its manifest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from preprocess.cohort.files import (
    IMAGE,
    METADATA,
    SEG,
    STORE_FILES,
    file_digest,
    shard_path,
    subject_path,
)
from preprocess.cohort.reader import Cohort
from preprocess.shared.errors import StoreError


def verify(cohort: Cohort) -> Iterator[str]:
    """One sentence for each file or array that is damaged, missing or unexpected; none for an undamaged cohort."""
    expected = {Path("manifest.json"), *map(Path, STORE_FILES)}
    for name, digest in cohort.manifest["files"].items():
        yield from changed(cohort.path / name, digest)
    for subject in cohort.subjects:
        expected |= files_of(subject)
        yield from verify_subject(cohort, subject)
    yield from unexpected(cohort, expected)


def verify_subject(cohort: Cohort, subject: str) -> Iterator[str]:
    """The faults of one subject: of its metadata, its record and, if the record is undamaged, its arrays."""
    folder, hashes = subject_path(cohort.path, subject), cohort.manifest["subjects"][subject]
    for name in METADATA:
        yield from changed(folder / name, hashes[name])
    try:
        cohort.record(subject)
    except StoreError as error:
        yield str(error)
        return
    for read in (cohort.image, cohort.labels):
        try:
            read(subject)
        except StoreError as error:
            yield str(error)


def changed(path: Path, digest: str) -> Iterator[str]:
    """A sentence if the file is missing, unreadable or has another sha256."""
    try:
        if file_digest(path) != digest:
            yield f"{path} has changed since it was written"
    except OSError as error:
        yield f"{path} cannot be read ({error.strerror})"


def files_of(subject: str) -> set[Path]:
    """The files that a subject has in its store."""
    folder = Path("subjects") / subject
    shards = (shard_path(folder / IMAGE, 4), shard_path(folder / SEG, 3))
    return {Path("records") / f"{subject}.json", *shards, *(folder / name for name in METADATA)}


def unexpected(cohort: Cohort, expected: set[Path]) -> Iterator[str]:
    """Files that the manifest does not name; one sentence for all files of a subject."""
    reported = set()
    for path in sorted(path for path in cohort.path.rglob("*") if not path.is_dir()):
        place = path.relative_to(cohort.path)
        if place in expected:
            continue
        subject = owner(place)
        if subject in cohort.subjects or not subject:
            yield f"{path} does not belong to the cohort: remove it"
        elif subject not in reported:
            reported.add(subject)
            yield f"subject {subject} is in {cohort.path} but not in its manifest: run to_zarr again, or remove its files"


def owner(place: Path) -> str:
    """The subject to which a file at this place belongs; empty where no subject's files lie."""
    match place.parts:
        case ("subjects", subject, _, *_):
            return subject
        case ("records", file) if file.endswith(".json"):
            return file.removesuffix(".json")
    return ""


def same_images(cohort: Cohort) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """Pairs of (subject, modality) that are the same image under two names: equal files, or equal voxels after the recipe."""
    names: dict[str, dict[tuple[str, str], None]] = defaultdict(dict)
    for subject, record in cohort.records.items():
        for modality in record.modalities:
            source = record.source[modality]
            for digest in (record.content[modality], source["sha256"] + source.get("volume", "")):
                names[digest][subject, modality] = None
    return list({(first, other): None for first, *others in map(tuple, names.values()) for other in others})

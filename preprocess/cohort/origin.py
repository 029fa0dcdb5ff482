"""Whether a committed subject's files are still those that it was made of.

A record holds the sha256 of each file. To hash a whole cohort at every call would read it from a network disk, so the time of the record's file
stands for the sizes and times of the source's: where it does not fit, as after a copy of either, the files are hashed, and it is set again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from preprocess.cohort.files import file_digest, read_sealed, record_path
from preprocess.cohort.writer import CohortWriter
from preprocess.shared.errors import CaseError
from preprocess.source.brats import Case
from preprocess.source.contents import absence

SECOND = 10**9  # nanoseconds
THREADS = 8  # they wait for the disk
SAME, ABSENT = "", "absent"
EXAMPLES = 3


def origin(case: Case) -> dict[str, dict[str, str]]:
    """By kind the name of its file, its sha256 and, where they apply, the number of its volume and the new numbers of its labels."""
    digests = {path: file_digest(path) for path in case.files.values()}
    return {kind: {"sha256": digests[case.files[kind]], **named} for kind, named in names(case).items()}


def names(case: Case) -> dict[str, dict[str, str]]:
    """By kind what `origin` holds without reading a file."""
    every = {kind: {"file": path.name} for kind, path in case.files.items()}
    for kind, (number, _) in case.channels.items():
        every[kind]["volume"] = str(number)
    if case.renumber:
        every["seg"]["renumbered"] = ", ".join(f"{old} to {new}" for old, new in sorted(case.renumber.items()))
    return every


def stamp(case: Case, grade: str) -> int:
    """A time in ns: the second of the newest file, and in place of its fraction a digest of the sizes and times of all, and of the grade, which is
    in the record too: tools that copy what has another time must see that a record has changed. Raises OSError."""
    stats = [path.stat() for path in case.files.values()]
    sizes = [(each.st_size, each.st_mtime_ns, each.st_ctime_ns) for each in stats]
    digest = hashlib.sha256(repr([grade, *sizes]).encode()).digest()
    newest = max(0, *(each.st_mtime_ns // SECOND for each in stats))
    return newest * SECOND + int.from_bytes(digest[:8]) % SECOND


def stamped(case: Case) -> int:
    """Of a case with a missing file 0: reading it says what is wrong."""
    try:
        return stamp(case, case.grade)
    except OSError:
        return 0


def mark(store: Path, case: Case, seen: int) -> None:
    """Give the record's file the time `seen`. Only its owner can; where nobody does, the files are hashed at each call."""
    with suppress(OSError):
        os.utime(record_path(store, case.name), ns=(seen, seen))


def make_again(writer: CohortWriter, cases: Sequence[Case], require: Sequence[str]) -> None:
    """Uncommit the subjects whose files are others now, correct the grades of the rest, and print both. Those that could not be made again, as their
    names show, are kept."""
    committed = writer.committed()
    kept = [case for case in cases if case.name in committed]
    differing = {case.name: what for case, what in changes(writer.path, kept)}
    if absent := [name for name, what in differing.items() if what == ABSENT]:
        print(f"{len(absent)} subjects are kept although their files cannot be read and so not be compared, such as {absent[0]}")
    if unclear := {case.name: why for case in kept if (why := refusal(case, require))}:
        some = next(iter(unclear.values()))
        print(f"{len(unclear)} subjects are kept that would be set aside if they were made now, such as {some}")
    if stale := {name: what for name, what in differing.items() if what != ABSENT and name not in unclear}:
        some = ", ".join(f"{name} ({what})" for name, what in list(stale.items())[:EXAMPLES])
        print(f"{len(stale)} subjects are made again, since their files are other ones now, such as {some}")
        for name in stale:
            record_path(writer.path, name).unlink()
    if regraded := [case for case in kept if case.name not in stale and writer.regrade(case.name, case.grade)]:
        for case in (each for each in regraded if each.name not in differing):
            mark(writer.path, case, stamped(case))
        print(f"{len(regraded)} subjects have another grade now, such as {regraded[0].name}: {regraded[0].grade}")


def refusal(case: Case, require: Sequence[str]) -> str:
    """Why a case cannot be used, as its files' names show; empty if they do not."""
    try:
        case.check(require)
    except CaseError as error:
        return str(error)
    return ""


def changes(store: Path, cases: Sequence[Case]) -> Iterator[tuple[Case, str]]:
    """The committed cases whose files are others now, with what differs; ABSENT for one whose files cannot be read and so not be compared.

    Raises StoreError for a damaged record."""
    pool = ThreadPoolExecutor(THREADS)
    try:
        for case, what in zip(cases, pool.map(partial(change, store), cases), strict=True):
            if what:
                yield case, what
    finally:
        pool.shutdown(cancel_futures=True)  # a signal must not wait for the rest


def change(store: Path, case: Case) -> str:
    """What differs between a case's files and those that its subject was made of."""
    path = record_path(store, case.name)
    record = read_sealed(path)["record"]
    was = record["source"]
    now = names(case)
    if differing := [kind for kind in {**was, **now} if not same_names(was.get(kind), now.get(kind))]:
        return "; ".join(renamed(kind, was.get(kind), now.get(kind)) for kind in differing)
    try:
        seen = stamp(case, record["grade"])
        if seen == path.stat().st_mtime_ns:
            return SAME
        if any(absence(each) for each in case.files.values()):
            return ABSENT
        digests = {each: file_digest(each) for each in case.files.values()}
    except OSError:
        return ABSENT
    if other := [kind for kind, each in case.files.items() if was[kind]["sha256"] != digests[each]]:
        return f"other content of {', '.join(other)}"
    mark(store, case, seen)
    return SAME


def same_names(was: Mapping[str, Any] | None, now: Mapping[str, str] | None) -> bool:
    keys = ("file", "volume", "renumbered")
    return bool(was and now) and [was.get(key) for key in keys] == [now.get(key) for key in keys]  # type: ignore[union-attr]


def renamed(kind: str, was: Mapping[str, Any] | None, now: Mapping[str, str] | None) -> str:
    if was and now and was["file"] == now["file"]:
        return f"other numbers in {kind}"
    return f"{kind} {was['file'] if was else 'none'} before, {now['file'] if now else 'none'} now"

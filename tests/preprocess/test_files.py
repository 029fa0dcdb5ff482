"""A file is written completely or not at all, and whatever fails leaves nothing behind."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from preprocess.shared.files import write_atomically, write_json


def in_pieces(file: IO[bytes]) -> None:
    file.write(b"caf")
    file.write("é".encode())


@pytest.mark.parametrize("content", ["café", "café".encode(), in_pieces])
@pytest.mark.parametrize("sync_folder", [False, True])
def test_text_bytes_and_functions_are_written_in_a_new_folder(
    tmp_path: Path, content: str | bytes | Callable[[IO[bytes]], None], sync_folder: bool
) -> None:
    path = tmp_path / "new" / "a [é].json"
    write_atomically(path, "before")
    write_atomically(path, content, sync_folder)
    assert path.read_bytes() == "café".encode()
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("failure", [OSError("full"), RuntimeError("torch: full"), KeyboardInterrupt()])
def test_a_failure_keeps_the_old_file_and_leaves_no_partial_one(tmp_path: Path, failure: BaseException) -> None:
    path = tmp_path / "a"
    write_atomically(path, "before")

    def fail_halfway(file: IO[bytes]) -> None:
        file.write(b"half")
        raise failure

    with pytest.raises(type(failure)):
        write_atomically(path, fail_halfway)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_in_the_place_of_the_partial_file_is_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("another's")
    (tmp_path / "a.partial").symlink_to(other)
    with pytest.raises(OSError, match=r"a\.partial"):
        write_atomically(tmp_path / "a", "mine")
    assert other.read_text() == "another's"


def test_a_full_disk_leaves_the_old_file(small_disk: Path) -> None:
    path = small_disk / "a"
    write_atomically(path, "before")
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, bytes(10**9))
    assert path.read_text() == "before"
    assert list(small_disk.iterdir()) == [path]


def test_the_content_is_on_the_disk_before_the_file_has_its_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(
        os, "fsync", lambda handle: (calls.append(Path(f"/proc/self/fd/{handle}").readlink().name), fsync(handle))
    )
    monkeypatch.setattr(Path, "replace", lambda path, target: (calls.append("rename"), replace(path, target)))
    write_atomically(tmp_path / "a", "text", sync_folder=True)
    assert calls == ["a.partial", "rename", tmp_path.name]


KILLED = """
import os, signal, sys
from pathlib import Path
from preprocess.shared.files import write_atomically
def kill_halfway(file):
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
write_atomically(Path(sys.argv[1]), kill_halfway)
"""


def test_killed_it_leaves_the_old_file_and_the_next_write_uses_the_same_partial_name(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_atomically(path, "before")
    assert subprocess.run([sys.executable, "-c", KILLED, path]).returncode == -9
    assert path.read_text() == "before"
    assert sorted(tmp_path.iterdir()) == [path, tmp_path / "a.partial"]
    write_atomically(path, "after")
    assert list(tmp_path.iterdir()) == [path]


def test_json_keeps_its_order_unless_it_is_sorted_and_refuses_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "a", {"b": 1, "a": [0.5]})
    assert (tmp_path / "a").read_text() == '{\n "b": 1,\n "a": [\n  0.5\n ]\n}\n'
    write_json(tmp_path / "a", {"b": 1, "a": None}, sort_keys=True)
    assert list(json.loads((tmp_path / "a").read_text())) == ["a", "b"]
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a", {"b": float("nan")})
    assert json.loads((tmp_path / "a").read_text())["b"] == 1

"""Checkpoints: atomic, the newest two kept, a damaged one skipped, a full disk reported."""

import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from distsynth.ranks.watchdog import Watchdog
from distsynth.tracking.journal import Journal, read
from distsynth.training import checkpoint
from preprocess.shared.errors import StoreError


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    for step in (1, 20, 300):
        checkpoint.save_step({"step": step}, tmp_path, step)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["step-0000000020.pt", "step-0000000300.pt"]
    newest = checkpoint.newest(tmp_path)
    assert newest is not None
    assert newest[0] == {"step": 300}


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_newest_checkpoint_is_skipped_with_a_warning(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (1, 2):
        checkpoint.save_step({"weights": torch.arange(1000.0), "step": step}, tmp_path, step)
    newest = tmp_path / "step-0000000002.pt"
    content = bytearray(newest.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 0xFF
    newest.write_bytes(content[: {"cut": len(content) // 2, "flip": len(content), "empty": 0}[damage]])
    newest = checkpoint.newest(tmp_path)
    assert newest is not None
    assert newest[0]["step"] == 1
    assert "step-0000000002.pt is not a readable checkpoint" in capsys.readouterr().out


def test_no_readable_checkpoint_gives_none(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path / "absent") is None
    (tmp_path / "step-0000000001.pt").write_bytes(b"nonsense")
    assert checkpoint.newest(tmp_path) is None


def test_a_full_disk_keeps_the_last_checkpoint_and_leaves_no_partial_file(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: the write fails in the kernel, half way."""
    checkpoint.save_step({"weights": torch.zeros(10)}, tmp_path, 1)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(StoreError, match=r"cannot write the checkpoint .*step-0000000002.pt: .*free some space"):
            checkpoint.save_step({"weights": torch.zeros(1_000_000)}, tmp_path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [p.name for p in tmp_path.iterdir()] == ["step-0000000001.pt"]


def test_a_kill_while_writing_keeps_the_previous_checkpoint(tmp_path: Path) -> None:
    checkpoint.save_step({"step": 1}, tmp_path, 1)
    code = f"""
import os, torch
from pathlib import Path
from distsynth.training import checkpoint
os.fsync = lambda handle: os.kill(os.getpid(), 9)
checkpoint.save_step({{"step": 2}}, Path({str(tmp_path)!r}), 2)
"""
    assert subprocess.run([sys.executable, "-c", code], env=os.environ).returncode == -9
    newest = checkpoint.newest(tmp_path)
    assert newest is not None
    assert newest[0] == {"step": 1}


def test_nothing_but_weights_is_ever_unpickled(tmp_path: Path) -> None:
    torch.save({"x": Path("/etc")}, tmp_path / "step-0000000001.pt")
    with pytest.raises(StoreError):
        checkpoint.load(tmp_path / "step-0000000001.pt")


def test_training_continues_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    """Its line is written when it is durable, before the lines of what was done meanwhile."""
    journal, disk = Journal(tmp_path / "journal.jsonl"), threading.Event()
    writer = checkpoint.Writer(Watchdog())
    weights = torch.zeros(3)
    journal.write("metrics", step=1, values={"loss": 1.0})
    state = checkpoint.snapshot({"method": {"w": weights}, "average": {}, "journal": journal.hold()})

    def write() -> None:
        disk.wait(10)
        checkpoint.write(state, tmp_path, 1, improved=True, journal=journal.file.fileno())

    writer.start(write, 1)
    assert writer.busy
    weights += 1
    journal.write("metrics", step=2, values={"loss": 2.0})
    assert not list(tmp_path.glob("*.pt"))
    disk.set()
    writer.finish()
    journal.release(1)
    assert [(line["kind"], line["step"]) for line in read(tmp_path / "journal.jsonl")[0]] == [
        ("metrics", 1),
        ("checkpoint", 1),
        ("metrics", 2),
    ]
    saved = checkpoint.load(tmp_path / "step-0000000001.pt")
    assert saved["method"]["w"].tolist() == [0, 0, 0]
    resumed = Journal(tmp_path / "journal.jsonl", saved["journal"])
    resumed.close()
    assert [line["step"] for line in read(tmp_path / "journal.jsonl")[0]] == [1]
    assert set(checkpoint.load(tmp_path / "best.pt")) == {"method"}


def test_an_error_in_writing_is_raised_by_finish() -> None:
    def write() -> None:
        raise StoreError("no disk")

    writer = checkpoint.Writer(Watchdog())
    writer.start(write, 1)
    with pytest.raises(StoreError, match="no disk"):
        writer.finish()
    assert writer.watchdog.writing is None


def test_partial_files_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    checkpoint.save_step({"step": 1}, tmp_path, 1)
    (tmp_path / "step-0000000002.partial").write_bytes(b"half")
    checkpoint.remove_partial(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["step-0000000001.pt"]

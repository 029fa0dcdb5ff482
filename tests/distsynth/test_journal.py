"""The journal: complete lines, truncated by a resume, and final only once a checkpoint follows them."""

from contextlib import suppress
from pathlib import Path

import pytest

from distsynth.tracking.journal import Journal, covered, read, write_end


def test_lines_come_back_with_their_times(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.jsonl")
    journal.write("metrics", step=1, values={"loss": 0.5})
    journal.write("end", status="finished", reason="")
    journal.close()
    lines, offset = read(tmp_path / "j.jsonl")
    assert [line["kind"] for line in lines] == ["metrics", "end"]
    assert lines[0]["values"] == {"loss": 0.5}
    assert isinstance(lines[0]["time"], int)
    assert read(tmp_path / "j.jsonl", offset) == ([], offset)


def test_a_resume_removes_what_no_checkpoint_covers(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    journal = Journal(path)
    journal.write("metrics", step=1, values={})
    length = journal.sync()
    journal.write("checkpoint", step=1)
    journal.write("metrics", step=2, values={})
    journal.close()
    resumed = Journal(path, length)
    resumed.write("metrics", step=2, values={"again": 1})
    resumed.close()
    assert [(line["kind"], line.get("step"), line.get("values")) for line in read(path)[0]] == [
        ("metrics", 1, {}),
        ("metrics", 2, {"again": 1}),
    ]


def test_half_a_line_of_a_killed_writer_is_neither_read_nor_kept(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    Journal(path).write("start")
    with path.open("ab") as file:
        file.write(b'{"kind": "metr')
    assert [line["kind"] for line in read(path)[0]] == ["start"]
    Journal(path).write("end", status="failed", reason="killed")
    assert [line["kind"] for line in read(path)[0]] == ["start", "end"]


def test_only_covered_lines_are_final() -> None:
    kinds = ["start", "metrics", "checkpoint", "metrics"]
    assert len(covered([{"kind": k} for k in kinds])) == 3
    assert len(covered([{"kind": k} for k in [*kinds, "end"]])) == 5
    assert covered([{"kind": "start"}]) == []


def test_a_journal_that_does_not_exist_is_empty(tmp_path: Path) -> None:
    assert read(tmp_path / "none.jsonl") == ([], 0)


def test_a_reader_notices_that_a_resumed_run_has_truncated_the_journal(tmp_path: Path) -> None:
    """It has grown past the reader's offset again, so its length does not show it."""
    journal = Journal(tmp_path / "j")
    length = journal.sync()
    journal.write("metrics", step=1, values={"loss": 0.5})
    _, offset = read(tmp_path / "j")
    journal = Journal(tmp_path / "j", length)
    journal.write("start", world_size=2, device="cpu", host="somewhere", pid=12345, resumed_at=0)
    journal.write("metrics", step=1, values={"loss": 0.5})
    lines, after = read(tmp_path / "j", offset)
    assert [line["kind"] for line in lines] == ["start", "metrics"]
    assert read(tmp_path / "j", after) == ([], after)


def test_a_full_disk_leaves_complete_lines_then_and_once_there_is_space_again(small_disk: Path) -> None:
    """The kernel writes the part of a line that still fits; another writer ends the journal while the first has it open."""
    path = small_disk / "j"
    journal = Journal(path)
    journal.write("start", resumed_at=0)
    filler = small_disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))

    def fill_the_last_page() -> None:
        for step in range(100):
            journal.write("metrics", step=step, values={f"joint/gradient_norm/{n}": 0.5 for n in range(30)})

    with pytest.raises(OSError, match="No space left"):
        fill_the_last_page()
    before, _ = read(path)
    assert path.read_bytes().endswith(b"\n")
    filler.unlink()
    write_end(path, "failed", "the disk is full")
    journal.close()
    Journal(path).write("start", resumed_at=0)
    assert [line["kind"] for line in read(path)[0]] == [*(line["kind"] for line in before), "end", "start"]

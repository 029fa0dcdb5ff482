"""Killed, out of disk space, in parts or beside another: to_zarr makes the same bytes as without interruption, or refuses."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from preprocess.cohort import Cohort, CohortWriter
from preprocess.shared.errors import StoreError
from preprocess.shared.locks import only_one
from preprocess.to_zarr import main as to_zarr

INTERRUPTED = Path(__file__).with_name("interrupted.py")
FAST = ("recipe.n4.enabled=false", "recipe.crop=[40,40,40]")
N4 = ("recipe.n4.iterations=[1]", "recipe.crop=[40,40,40]")


def contents(store: Path) -> dict[str, bytes]:
    """Every file of a store."""
    return {str(path.relative_to(store)): path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file()}


@pytest.fixture
def source(tmp_path: Path, write_case) -> Path:
    for seed in range(3):
        write_case(tmp_path / "my scans é", f"case{seed}", seed=seed, size=12)
    return tmp_path / "my scans é"


def make(source: Path, store: Path, *words: str) -> int:
    return to_zarr([f"source={source}", f"store={store}", "workers=1", *(words or FAST)])


def interrupted(*words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    return subprocess.run(
        [sys.executable, INTERRUPTED, *map(str, words)], capture_output=True, text=True, timeout=300, env=environment
    )


def attempts(points: str, how: str, source: Path, folder: Path, *words: str) -> Iterator[dict]:
    """One attempt per point: its result, that of the same command again, and whether the store equals that of an uninterrupted run."""
    shutil.rmtree(source / "case2")
    make(source, folder / "whole" / "c.zarr", *words)
    whole = contents(folder / "whole" / "c.zarr")
    done = interrupted(points, how, source, folder, *words)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        attempt = json.loads(line)
        yield {**attempt, "same": contents(folder / str(attempt["point"]) / "c.zarr") == whole}


def test_killed_before_any_change_of_the_disk_it_continues_to_the_same_bytes(source: Path, tmp_path: Path) -> None:
    *killed, last = attempts("changes", "kill", source, tmp_path, *FAST)
    assert len(killed) > 30
    assert {attempt["status"] for attempt in killed} == {-9}
    assert last["status"] == 0
    assert sum(attempt["committed"] for attempt in killed) > 10
    assert [a for a in killed if not (a["same"] and a["kept"] and a["again"] == 0 and a["left"] == ["c.zarr"])] == []


def test_out_of_space_at_any_change_of_the_disk_it_reports_it_and_continues_to_the_same_bytes(
    source: Path, tmp_path: Path
) -> None:
    *full, last = attempts("changes", "full", source, tmp_path, *FAST)
    assert len(full) > 12
    assert last["status"] == 0
    assert [a for a in full if a["status"] != 2 or "no space left for store=" not in a["sentence"]] == []
    assert [a for a in full if not (a["same"] and a["kept"] and a["again"] == 0 and a["left"] == ["c.zarr"])] == []
    assert {name for attempt in full for name in attempt["beside"]} == {"c.zarr"}


def test_killed_in_any_stage_it_continues_to_the_same_bytes(source: Path, tmp_path: Path) -> None:
    killed = list(attempts("stages", "kill", source, tmp_path, *N4))
    assert [attempt["point"] for attempt in killed] == [f"{stage}:case1" for stage in ("read", "n4", "normalise", "write")]
    assert [a for a in killed if a["status"] != -9 or not a["committed"]] == []
    assert [a for a in killed if not (a["same"] and a["kept"] and a["again"] == 0 and a["left"] == ["c.zarr"])] == []


def test_killed_with_a_pool_at_work_it_continues_to_the_same_bytes(source: Path, tmp_path: Path) -> None:
    killed = interrupted("n4:case2", f"source={source}", f"store={tmp_path / 'c.zarr'}", "workers=2", *N4)
    assert killed.returncode == -9
    assert not (tmp_path / "c.zarr" / "manifest.json").exists()
    assert make(source, tmp_path / "c.zarr", "workers=2", *N4) == 0
    make(source, tmp_path / "whole.zarr", *N4)
    assert contents(tmp_path / "c.zarr") == contents(tmp_path / "whole.zarr")
    assert not (tmp_path / "c.zarr.partial").exists()


def test_a_worker_that_dies_is_reported_and_the_next_run_makes_the_same_bytes(source: Path, tmp_path: Path) -> None:
    words = (f"source={source}", f"store={tmp_path / 'c.zarr'}", "workers=2", *FAST)
    died = interrupted("write:case1", *words, COMMAND_PID="0")
    assert died.returncode == 2
    assert died.stderr.startswith("error: a worker process died, probably for lack of memory: run again with fewer workers=")
    assert "Traceback" not in died.stderr
    assert not list(tmp_path.glob("c.zarr.*"))
    assert (tmp_path / "c.zarr").exists() == any((tmp_path / "c.zarr" / "records").glob("*.json"))  # nothing empty stays
    assert make(source, tmp_path / "c.zarr") == 0
    make(source, tmp_path / "whole.zarr")
    assert contents(tmp_path / "c.zarr") == contents(tmp_path / "whole.zarr")


@pytest.mark.parametrize("order", [("1/3", "2/3", "3/3"), ("3/3", "1/3", "2/3", "1/3")])
def test_parts_in_any_order_give_the_same_bytes(source: Path, tmp_path: Path, order: tuple[str, ...]) -> None:
    make(source, tmp_path / "whole.zarr")
    for part in order:
        assert make(source, tmp_path / "c.zarr", *FAST, f"part={part}") == 0
    with pytest.raises(StoreError, match="is not finished"):
        Cohort.open(tmp_path / "c.zarr")
    assert make(source, tmp_path / "c.zarr", *FAST, "part=finish") == 0
    assert contents(tmp_path / "c.zarr") == contents(tmp_path / "whole.zarr")
    assert not list(tmp_path.glob("c.zarr.*"))


def test_parts_at_the_same_time_one_of_them_killed_give_the_same_bytes(source: Path, tmp_path: Path) -> None:
    words = (f"source={source}", f"store={tmp_path / 'c.zarr'}", "workers=1", *FAST)
    scripts = [("write:case1", "part=2/3"), ("none:none", "part=1/3"), ("none:none", "part=3/3")]
    running = [subprocess.Popen([sys.executable, INTERRUPTED, point, *words, part]) for point, part in scripts]
    assert [process.wait(timeout=120) for process in running] == [-9, 0, 0]
    assert make(source, tmp_path / "c.zarr", *FAST, "part=finish") == 1
    assert json.loads((tmp_path / "c.zarr/rejected.json").read_text()) == {
        "case1": "case1: its part has not finished: run the same parts again"
    }
    assert make(source, tmp_path / "c.zarr") == 0
    make(source, tmp_path / "whole.zarr")
    assert contents(tmp_path / "c.zarr") == contents(tmp_path / "whole.zarr")
    assert not list(tmp_path.glob("c.zarr.*"))


def test_cases_that_a_part_set_aside_are_in_the_cohort_even_after_another_recipe_was_refused(
    source: Path, tmp_path: Path
) -> None:
    (source / "case1" / "case1_t2.nii.gz").unlink()
    assert [make(source, tmp_path / "c.zarr", *FAST, f"part={k}/2") for k in (1, 2)] == [0, 1]
    with pytest.raises(StoreError, match=r"recipe\.spacing: 0\.0 before, 5\.0 now"):
        make(source, tmp_path / "c.zarr", *FAST, "recipe.spacing=5")
    assert make(source, tmp_path / "c.zarr", *FAST, "part=finish") == 1
    assert Cohort.open(tmp_path / "c.zarr").rejected["case1"].startswith("case1: no t2 file")
    assert not list(tmp_path.glob("c.zarr.*"))


@pytest.mark.parametrize(("first", "second"), [("", ""), ("1-of-2", ""), ("", "1-of-2"), ("1-of-2", "1-of-2")])
def test_two_writers_of_the_same_cases_are_refused(source: Path, tmp_path: Path, first: str, second: str) -> None:
    make(source, tmp_path / "c.zarr")
    before = contents(tmp_path / "c.zarr")
    recipe = Cohort.open(tmp_path / "c.zarr").recipe
    with CohortWriter(tmp_path / "c.zarr", recipe, ["t1", "t1c", "t2", "flair"]).lock(first):
        words = [f"part={second.replace('-of-', '/')}"] if second else ["part=finish"]
        with pytest.raises(StoreError, match="another to_zarr is writing"):
            make(source, tmp_path / "c.zarr", *FAST, *words)
    assert contents(tmp_path / "c.zarr") == before
    assert make(source, tmp_path / "c.zarr") == 0  # the first lock is released


def test_a_link_to_a_store_is_the_store(source: Path, tmp_path: Path) -> None:
    make(source, tmp_path / "there" / "c.zarr")
    (tmp_path / "link.zarr").symlink_to(tmp_path / "there" / "c.zarr")
    writer = CohortWriter(tmp_path / "link.zarr", Cohort.open(tmp_path / "link.zarr").recipe, ["t1", "t1c", "t2", "flair"])
    with writer.lock(), pytest.raises(StoreError, match="another to_zarr is writing"):
        make(source, tmp_path / "there" / "c.zarr")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.zarr", "my scans é", "there"]


def test_a_damaged_record_of_a_finished_subject_is_refused_and_made_again_once_it_is_removed(
    source: Path, tmp_path: Path
) -> None:
    make(source, tmp_path / "c.zarr")
    whole, record = contents(tmp_path / "c.zarr"), tmp_path / "c.zarr/records/case1.json"
    record.write_text(record.read_text().replace('"patient": "case1"', '"patient": "case2"'))
    with pytest.raises(StoreError, match=r"case1\.json has changed since it was written.*remove it and run to_zarr again"):
        make(source, tmp_path / "c.zarr")
    record.unlink()
    assert make(source, tmp_path / "c.zarr") == 0
    assert contents(tmp_path / "c.zarr") == whole


HOLDERS = """
import sys, time
from pathlib import Path
from preprocess.shared.errors import StoreError
from preprocess.shared.locks import only_one
lock, place, end = Path(sys.argv[1]), Path(sys.argv[2]), time.monotonic() + 1.5
held = 0
while time.monotonic() < end:
    try:
        with only_one(lock, "busy"):
            place.mkdir()  # fails if another holds the lock
            held += 1
            place.rmdir()
            lock.unlink()
    except StoreError:
        pass
print(held)
"""


def test_a_lock_that_its_holders_remove_is_never_held_twice(tmp_path: Path) -> None:
    words = [sys.executable, "-c", HOLDERS, str(tmp_path / "lock"), str(tmp_path / "place")]
    running = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    ended = [(*process.communicate(timeout=60), process.returncode) for process in running]
    assert [error for _, error, status in ended if status] == []
    assert sum(int(held) for held, _, _ in ended) > 50


def test_a_lock_file_left_by_a_dead_process_blocks_nobody(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("")
    with only_one(tmp_path / "lock", "busy"), pytest.raises(StoreError, match="busy"), only_one(tmp_path / "lock", "busy"):
        pass


def test_shared_locks_exclude_an_exclusive_one_and_not_each_other(tmp_path: Path) -> None:
    together = threading.Barrier(2, timeout=20)

    def hold() -> None:
        with only_one(tmp_path / "lock", "busy", shared=True):
            together.wait()

    other = threading.Thread(target=hold)
    other.start()
    with only_one(tmp_path / "lock", "busy", shared=True):
        with pytest.raises(StoreError, match="busy"), only_one(tmp_path / "lock", "busy"):
            pass
        together.wait()
    other.join()


def test_a_read_only_source_is_enough_and_a_read_only_store_is_reported(write_case, tmp_path: Path, small_disk: Path) -> None:
    write_case(small_disk / "source", "a..b", size=12)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert make(small_disk / "source", tmp_path / "c.zarr") == 0
    assert Cohort.open(tmp_path / "c.zarr").subjects == ["a..b"]
    with pytest.raises(StoreError, match="cannot read or write: Read-only file system"):
        make(small_disk / "source", small_disk / "c.zarr")


def test_a_name_that_would_overwrite_the_stores_own_files_is_set_aside(source: Path, tmp_path: Path, write_case) -> None:
    write_case(source, "zarr.json", size=12)
    assert make(source, tmp_path / "c.zarr") == 1
    assert Cohort.open(tmp_path / "c.zarr").subjects == ["case0", "case1", "case2"]
    assert Cohort.open(tmp_path / "c.zarr").rejected == {
        "zarr.json": "'zarr.json' cannot name a subject: give its files a plain, shorter name"
    }

"""Journals are replayed into a real MLflow store (SQLite): parents and children, nothing lost or duplicated, even when repeated."""

from pathlib import Path
from typing import Any

import pytest

from distsynth import config as configuration
from distsynth.config import compose
from distsynth.run_directory import RunDirectory
from distsynth.tracking.journal import Journal
from distsynth.tracking.sync import Sync, ui_lines
from preprocess.shared.errors import UserError
from preprocess.shared.files import write_json


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "runs" / "lr"
    write_json(folder / "sweep.json", {"uid": "parent", "name": "lr", "axes": ["train.lr"]})
    for name in ("a", "b"):
        run = RunDirectory(folder / name)
        run.create(name, "lr")
        configuration.save(compose(["train.lr=1e-3"]), run.config)
        journal = Journal(run.journal)
        journal.write("start", world_size=2, device="cpu", host="here", pid=1, resumed_at=0)
        for step in range(1, 6):
            journal.write("metrics", step=step, values={"joint/g_loss": 1.0 / step, "joint/lr": 1e-3})
        journal.write("checkpoint", step=5)
    return folder


def end(folder: Path, name: str, status: str = "finished", reason: str = "") -> None:
    run = RunDirectory(folder / name)
    (run.figures).mkdir(exist_ok=True)
    (run.figures / "test_x.png").write_bytes(b"png")
    Journal(run.journal).write("end", status=status, reason=reason)


def children(sync: Sync) -> list[Any]:
    runs = sync.client.search_runs([sync.experiment], "tags.`mlflow.parentRunId` != ''")
    return sorted(runs, key=lambda r: r.info.run_name)


def test_a_sweep_is_a_parent_with_its_runs_as_children(sweep: Path) -> None:
    sync = Sync(sweep)
    for name in ("a", "b"):
        end(sweep, name)
    sync.finish()
    first, second = children(sync)
    assert [r.info.run_name for r in (first, second)] == ["a", "b"]
    assert {r.data.tags["mlflow.parentRunId"] for r in (first, second)} == {sync.parent}
    assert first.info.status == "FINISHED"
    assert first.data.params["train.lr"] == "0.001"
    assert first.data.params["variant.outputs"] == "t1,t1c,flair"
    assert first.data.tags["distsynth.world_size"] == "2"
    assert [m.value for m in sync.client.get_metric_history(first.info.run_id, "joint/g_loss")] == [1 / s for s in range(1, 6)]
    assert [a.path for a in sync.client.list_artifacts(first.info.run_id, "figures")] == ["figures/test_x.png"]
    assert sync.client.get_run(sync.parent).info.status == "FINISHED"
    assert (sweep.parent / "mlflow.db").is_file()


def test_replaying_from_scratch_duplicates_nothing(sweep: Path) -> None:
    end(sweep, "a")
    for _ in range(3):
        Sync(sweep).finish()
    sync = Sync(sweep)
    assert len(children(sync)) == 2
    history = sync.client.get_metric_history(children(sync)[0].info.run_id, "joint/g_loss")
    assert [m.step for m in history] == [1, 2, 3, 4, 5]


def test_what_no_checkpoint_covers_is_not_sent(sweep: Path) -> None:
    journal = Journal(RunDirectory(sweep / "a").journal)
    journal.write("metrics", step=6, values={"joint/g_loss": 9.0})
    sync = Sync(sweep)
    sync.replay()
    run = children(sync)[0].info.run_id
    assert len(sync.client.get_metric_history(run, "joint/g_loss")) == 5
    assert sync.client.get_run(run).info.status == "RUNNING"
    journal.write("checkpoint", step=6)
    sync.replay()
    assert len(sync.client.get_metric_history(run, "joint/g_loss")) == 6


def test_a_failed_run_says_why_and_resumes_as_the_same_run(sweep: Path) -> None:
    end(sweep, "a", "failed", "g_loss was not finite by step 6")
    sync = Sync(sweep)
    sync.replay()
    failed = children(sync)[0]
    assert (failed.info.status, failed.data.tags["distsynth.reason"]) == ("FAILED", "g_loss was not finite by step 6")
    journal = Journal(RunDirectory(sweep / "a").journal)
    journal.write("start", world_size=2, device="cpu", host="here", pid=2, resumed_at=5)
    journal.write("metrics", step=6, values={"joint/g_loss": 0.1})
    journal.write("checkpoint", step=6)
    again = Sync(sweep)
    again.replay()
    assert children(again)[0].info.run_id == failed.info.run_id
    assert children(again)[0].info.status == "RUNNING"
    end(sweep, "a")
    end(sweep, "b", "failed", "x")
    again.finish()
    assert [r.info.status for r in children(again)] == ["FINISHED", "FAILED"]
    assert again.client.get_run(again.parent).info.status == "FAILED"


@pytest.mark.parametrize("same_launcher", [True, False])
def test_steps_that_a_resumed_run_repeats_appear_once(sweep: Path, same_launcher: bool) -> None:
    """It failed at step 6, which its end line covers; its last good checkpoint is of step 3, and what follows that is truncated."""
    path = RunDirectory(sweep / "a").journal
    third = sum(map(len, path.read_bytes().splitlines(keepends=True)[:4]))
    journal = Journal(path)
    journal.write("metrics", step=6, values={"joint/g_loss": 1 / 6})
    journal.write("end", status="failed", reason="a rank was lost")
    sync = Sync(sweep)
    sync.replay()
    journal = Journal(path, third)
    journal.write("start", world_size=2, device="cpu", host="there", pid=2, resumed_at=3)
    for step in range(4, 9):
        journal.write("metrics", step=step, values={"joint/g_loss": 1 / step})
    journal.write("end", status="finished", reason="")
    sync = sync if same_launcher else Sync(sweep)
    sync.replay()
    run = children(sync)[0]
    assert (run.info.status, run.data.tags["distsynth.host"]) == ("FINISHED", "there")
    points = [(m.step, m.value) for m in sync.client.get_metric_history(run.info.run_id, "joint/g_loss")]
    assert points == [(step, 1 / step) for step in range(1, 9)]


def test_a_deleted_database_is_rebuilt(sweep: Path) -> None:
    Sync(sweep).finish()
    (sweep.parent / "mlflow.db").unlink()
    sync = Sync(sweep)
    sync.finish()
    assert len(sync.client.get_metric_history(children(sync)[0].info.run_id, "joint/g_loss")) == 5


def test_a_moved_run_folder_syncs_from_its_new_place(sweep: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    sweep.parent.rename(moved)
    sync = Sync(moved / "lr")
    sync.finish()
    assert len(children(sync)) == 2


def test_the_store_of_the_environment_is_honoured(sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'own.db'}")
    sync = Sync(sweep)
    sync.replay()
    assert (tmp_path / "own.db").is_file()
    assert not (sweep.parent / "mlflow.db").exists()
    assert any("own.db" in line for line in ui_lines(sync))


def test_the_link_opens_the_table_of_runs(sweep: Path) -> None:
    sync = Sync(sweep)
    assert f"/#/experiments/{sync.experiment}?workflowType=machine_learning" in "\n".join(ui_lines(sync))


def test_no_sweep_and_no_store_are_one_sentence(tmp_path: Path, sweep: Path) -> None:
    with pytest.raises(UserError, match=r"it has no sweep\.json"):
        Sync(tmp_path)
    with pytest.raises(UserError, match=r"the MLflow store sqlite:////proc/nowhere/all\.db failed"):
        Sync(sweep, "sqlite:////proc/nowhere/all.db")


def test_a_store_that_fails_during_a_sync_is_reported_and_loses_nothing(sweep: Path) -> None:
    sync = Sync(sweep)
    database = sweep.parent / "mlflow.db"
    good = database.read_bytes()
    database.write_bytes(b"not a database" * 1000)
    with pytest.raises(UserError, match=r"failed \(.*\); the journals keep everything"):
        sync.replay()
    database.write_bytes(good)
    sync.replay()
    assert len(sync.client.get_metric_history(children(sync)[0].info.run_id, "joint/g_loss")) == 5


def test_the_parent_does_not_end_before_a_run_that_has_not_started(sweep: Path) -> None:
    for name in ("a", "b"):
        end(sweep, name)
    RunDirectory(sweep / "later").create("later", "lr")
    sync = Sync(sweep)
    sync.finish()
    assert len(children(sync)) == 2
    assert sync.client.get_run(sync.parent).info.status == "RUNNING"

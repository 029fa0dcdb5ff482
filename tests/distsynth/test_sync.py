"""Journals are replayed into a real MLflow store (SQLite): parents and children, nothing lost or duplicated, even when repeated."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from distsynth import config as configuration
from distsynth.config import compose
from distsynth.run_directory import RunDirectory
from distsynth.tracking.journal import Journal, read
from distsynth.tracking.store import address
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


def points(sync: Sync, name: str) -> list[tuple[int, float]]:
    (run,) = [run for run in children(sync) if run.info.run_name == name]
    return [(m.step, m.value) for m in sync.client.get_metric_history(run.info.run_id, "joint/g_loss")]


ALL = [(step, 1 / step) for step in range(1, 6)]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("run.json", b"[]"),
        ("run.json", b'{"uid": "a\' OR \'1\'=\'1", "name": "a", "sweep": "lr", "code": "", "commit": ""}'),
        ("run.json", b'{"uid": 7}'),
        ("run.json", b'{"uid": "a\0b"}'),
        ("run.json", b"[" * 100_000),
        ("run.json", b"\xff\xfe"),
        ("run.json", None),
        ("config.yaml", b"- a list"),
        ("config.yaml", b"{"),
        ("journal.jsonl", None),
    ],
)
def test_a_damaged_run_is_one_warning_and_the_others_are_sent(
    sweep: Path, file: str, content: bytes | None, capfd: pytest.CaptureFixture[str]
) -> None:
    damaged = sweep / "a" / file
    damaged.unlink()
    if content is None:
        os.mkfifo(damaged)
    else:
        damaged.write_bytes(content)
    sync = Sync(sweep)
    for _ in range(2):
        sync.finish()
    assert points(sync, "b") == ALL
    found = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(found) == (file != "journal.jsonl")  # which is as if it were not there
    assert all(str(damaged if content else sweep / "a") in line for line in found)


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense", b"[]", b"7", b"{}", b'{"kind": "metrics", "time": 1}', b'{"kind": [], "time": 1}', b"[" * 100_000, b"\xff\xfe", b"\0",
        b'{"kind": "metrics", "time": 1, "step": 1, "values": {"joint/g_loss": "high"}}',
        b'{"kind": "metrics", "time": 1, "step": 1, "values": [1]}',
        b'{"kind": "metrics", "time": 1, "step": 1' + b"0" * 400 + b', "values": {}}',
        b'{"kind": "progress", "time": 1e999, "stage": "joint", "epoch": 1, "epochs": 1}',
        b'{"kind": "end", "time": 1, "status": ["finished"], "reason": ""}',
    ],
)  # fmt: skip
def test_a_line_that_no_run_wrote_is_left_out_with_one_warning(
    sweep: Path, line: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    path = RunDirectory(sweep / "a").journal
    path.write_bytes(line + b"\n" + path.read_bytes() + line + b"\n")
    end(sweep, "a")
    sync = Sync(sweep)
    sync.finish()
    assert points(sync, "a") == points(sync, "b") == ALL
    assert len(read(path)[0]) == 8
    (warning,) = [each for each in capfd.readouterr().err.splitlines() if each.startswith("warning: ")]
    assert warning == f"warning: {path} has lines that no run wrote: they are left out"


@pytest.mark.parametrize("same_launcher", [True, False])
@pytest.mark.parametrize("what", ["run", "parent", "experiment"])
def test_what_is_deleted_in_mlflow_comes_back(sweep: Path, what: str, same_launcher: bool) -> None:
    sync = Sync(sweep)
    sync.finish()
    if what == "experiment":
        sync.client.delete_experiment(sync.experiment)
    else:
        sync.client.delete_run(sync.parent if what == "parent" else children(sync)[0].info.run_id)
    for name in ("a", "b"):
        end(sweep, name)
    sync = sync if same_launcher else Sync(sweep)
    sync.finish()
    assert [run.info.status for run in children(sync)] == ["FINISHED", "FINISHED"]
    assert points(sync, "a") == points(sync, "b") == ALL
    assert sync.client.get_run(sync.parent).info.status == "FINISHED"
    assert sync.client.get_run(sync.parent).info.lifecycle_stage == "active"


def test_only_a_runs_own_plain_files_are_sent(sweep: Path) -> None:
    secret = sweep.parent / "secret"
    secret.write_text("of another user")
    figures = sweep / "a" / "figures"
    figures.mkdir()
    (figures / "link.png").symlink_to(secret)
    os.mkfifo(figures / "pipe.png")
    end(sweep, "a")
    sync = Sync(sweep)
    sync.finish()
    run = children(sync)[0].info.run_id
    assert [each.path for each in sync.client.list_artifacts(run, "figures")] == ["figures/test_x.png"]
    assert {each.path for each in sync.client.list_artifacts(run)} == {"config.yaml", "figures"}


def test_an_external_cohort_may_have_a_name_that_mlflow_refuses(sweep: Path) -> None:
    Journal(RunDirectory(sweep / "a").journal).write("metrics", step=6, values={"best/kl$inik/flair/brain/psnr": 20.0})
    end(sweep, "a")
    sync = Sync(sweep)
    sync.finish()
    assert "best/kl_inik/flair/brain/psnr" in children(sync)[0].data.metrics


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://me:hunter2@host:5000/x", "http://***@host:5000/x"),
        ("postgresql://me:hunter2@host/db?sslpassword=hunter2&x=1", "postgresql://***@host/db?sslpassword=***&x=1"),
        ("postgresql://me:hunt/er@2@host/db", "postgresql://***@host/db"),
        ("mysql+pymysql://hunter2@host/db", "mysql+pymysql://***@host/db"),
        ("http://host/#token=hunter2", "http://host/#token=***"),
        ("sqlite:////home/me@lab/mlflow.db", "sqlite:////home/me@lab/mlflow.db"),
        ("databricks://profile", "databricks://profile"),
    ],
)
def test_no_password_is_shown(uri: str, shown: str) -> None:
    assert address(uri) == shown


def test_no_password_is_in_a_reason(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken")
    store = Sync(sweep).store
    store.uri = "http://me:hunt%40er2@host"
    told = store.reason(ValueError("cannot parse http://me:hunt%40er2@host (me, hunt@er2, Bearer t0ken)\nmore"))
    assert told == "cannot parse http://***@host (me, ***, Bearer ***)"


def test_the_ui_phones_nobody(sweep: Path) -> None:
    told = "\n".join(ui_lines(Sync(sweep)))
    assert "MLFLOW_DISABLE_TELEMETRY=true " in told
    assert f"ssh -L 5000:localhost:5000 {socket.gethostname()}" in told

"""The launcher as a user runs it, on this machine: two ranks a run, a live table's lines, MLflow, the exit status."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from distsynth.run_directory import RunDirectory
from distsynth.tracking.background import Background
from distsynth.tracking.journal import read
from distsynth.training import checkpoint
from preprocess.cohort import Cohort
from preprocess.shared.errors import UserError
from slurm import launch
from slurm.controller import ranks_of

LAUNCH = str(Path(__file__).parents[2] / "slurm" / "launch.py")
Runner = Callable[..., subprocess.CompletedProcess[str]]


def words(store: Path, tiny: tuple[str, ...]) -> list[str]:
    return ["cluster=local", "sweep.name=small", f"data.store={store}", *tiny, "poll_seconds=0.3"]


@pytest.fixture(scope="module")
def launched(store: Path, tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory, run: Runner):
    """Two good runs and one whose learning rate no training survives, from a folder that is not the checkout."""
    folder = tmp_path_factory.mktemp("elsewhere")
    axes = ["sweep.axes.variant=[siso,mimo]", "sweep.axes.train.lr=[1e-3]"]
    done = run(LAUNCH, *words(store, tiny), *axes, cwd=folder)
    return folder, axes, done


def test_a_sweep_trains_on_two_ranks_and_ends_in_a_table(launched) -> None:
    folder, _, done = launched
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("siso_lr-0.001", "mimo_lr-0.001"):
        lines = [json.loads(line) for line in (folder / "runs" / "small" / name / "journal.jsonl").read_text().splitlines()]
        assert lines[0]["world_size"] == 2
        assert lines[-1]["status"] == "finished"
        assert f"{name}: finished" in done.stdout
    with (folder / "runs" / "small" / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["variant"], r["output"]) for r in rows] == [("mimo", "T1c"), ("mimo", "FLAIR"), ("siso", "T2")]
    assert all(float(r["test brain psnr n"]) > 0 for r in rows)
    assert all(float(r["test psnr above best baseline"]) for r in rows)
    assert "PSNR in dB, higher is better, mean over " in done.stdout
    assert "mlflow ui --backend-store-uri sqlite:///" in done.stdout
    assert "workflowType=machine_learning" in done.stdout


def test_mlflow_has_the_parent_its_children_their_curves_and_figures(launched) -> None:
    folder, _, _ = launched
    client = MlflowClient(f"sqlite:///{folder / 'runs' / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "distsynth"]
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    children = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert sorted(r.info.run_name for r in children) == ["mimo_lr-0.001", "siso_lr-0.001"]
    for child in children:
        assert child.info.status == "FINISHED"
        assert child.data.params["method.generator.width"] == "4"
        assert len(client.get_metric_history(child.info.run_id, "joint/g_loss")) == 8
        assert any(name.startswith("best/test/") for name in child.data.metrics)
        assert [a.path for a in client.list_artifacts(child.info.run_id, "figures")]
    assert {a.path for a in client.list_artifacts(parent.info.run_id)} == {"table.md", "table.csv"}


def test_the_same_command_again_starts_nothing_anew(launched, store: Path, tiny: tuple[str, ...], run: Runner) -> None:
    folder, axes, _ = launched
    journal = folder / "runs" / "small" / "siso_lr-0.001" / "journal.jsonl"
    before = journal.read_bytes()
    done = run(LAUNCH, *words(store, tiny), *axes, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert journal.read_bytes() == before
    assert "running" not in done.stdout


def test_a_run_that_fails_is_told_and_lets_the_others_go_on(
    store: Path, tiny: tuple[str, ...], tmp_path: Path, run: Runner
) -> None:
    done = run(LAUNCH, *words(store, tiny), "variant=siso", "sweep.axes.train.lr=[1e30,1e-3]", cwd=tmp_path)
    assert done.returncode == 1
    assert "lr-0.001: finished" in done.stdout
    assert "was not finite at step" in done.stderr
    assert "1 of 2 runs did not finish; the same command continues them" in done.stderr
    client = MlflowClient(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    states = {
        r.info.run_name: r.info.status for r in client.search_runs([client.get_experiment_by_name("distsynth").experiment_id])
    }
    assert (states["lr-1e+30"], states["lr-0.001"], states["sweep small"]) == ("FAILED", "FINISHED", "FAILED")


@pytest.mark.full
def test_a_sweep_over_methods_trains_what_goes_together_with_each_seed(store: Path, tmp_path: Path, run: Runner) -> None:
    axes = ("method=[segment_small,unet_small,unit_small]", "variant=[mimo]", "seed=[0,1]")
    given = [
        *(f"sweep.axes.{axis}" for axis in axes),
        f"data.store={store}",
        "train.epochs=1",
        "train.steps_per_epoch=3",
        "poll_seconds=0.3",
    ]
    done = run(LAUNCH, "sweep=methods", "cluster=local", "cluster.ranks=1", "cluster.parallel=2", *given, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sweep methods: 4 runs on local" in done.stdout
    assert "left out, since the method does not serve the variant: unit_small with mimo\n" in done.stdout
    with (tmp_path / "runs" / "methods" / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["variant"], row["output"], row["method"]) for row in rows] == [
        ("mimo", "T1c", "unet"), ("mimo", "FLAIR", "unet"), ("mimo", "T1c", "segment"), ("mimo", "FLAIR", "segment")
    ]  # fmt: skip
    for row in rows[:2]:
        assert row["best run"] == "unet_small_mimo_fold-0 (2 runs)"
        first, second = (float(row[f"test psnr above best baseline, run {number}"]) for number in (1, 2))
        assert first != second
        assert float(row["test psnr above best baseline"]) == pytest.approx((first + second) / 2, abs=0.011)
        assert abs(float(row["test nmae below best baseline"])) < 1
    for row in rows:
        assert row["updates"] == "3"
        assert int(row["parameters"]) > 10_000
        assert not row["seconds"] or int(row["seconds"]) >= 0
    for row in rows[2:]:
        assert 0 <= float(row["test tumour dice mean"]) <= 1


def test_a_dry_run_prints_the_plan_and_touches_nothing(store: Path, tmp_path: Path, run: Runner) -> None:
    done = run(LAUNCH, "sweep=lr", "dry_run=true", f"data.store={store}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "12 runs on local" in done.stdout or "12 runs on slurm" in done.stdout
    assert "miso_flair_lr-0.0005" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_is_said_before_anything_starts(store: Path, tmp_path: Path, run: Runner) -> None:
    for given, sentence in (
        (["sweep=lr"], "give data.store=PATH, the cohort to train on"),
        (["sweep=lr", "data.store=nowhere.zarr"], "nowhere.zarr"),
        (["sweep=lr", "train.lrr=1"], "did you mean train.lr?"),
        (
            ["sweep=lr", "cluster=local", f"data.store={store}"],
            "train.batch=1 cannot be shared by 2 ranks: give a multiple of 2, such as train.batch=2, or take 1 rank",
        ),
        (
            ["sweep=lr", "cluster=local", f"data.store={store}", "train.batch=2"],
            "method.segmentor.batch=5 cannot be shared by 2 ranks",
        ),
    ):
        for dry in ((), ("dry_run=true",)):
            with pytest.raises(UserError, match=re.escape(sentence)) as caught:
                launch.main([*given, *dry])
            assert "\n" not in str(caught.value)
    done = run(LAUNCH, "sweep=lr", "data.store=nowhere.zarr", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_a_cohort_it_takes_the_demos_and_says_so_first_and_last(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "launch_runs", lambda settings, runs: 0)
    with pytest.raises(UserError, match=r"give data.store=PATH, the cohort to train on"):
        launch.main(["sweep=lr"])
    shutil.copytree(store, tmp_path / "data" / "phantom.zarr")
    for words in (["sweep=lr"], ["variant=mimo"], ["sweep=lr", "dry_run=true"]):
        assert launch.main(words) == 0
        first, last = capsys.readouterr().out.splitlines()
        assert first == last == f"made-up patients ({tmp_path / 'data' / 'phantom.zarr'}); yours: data.store=PATH"
    for words in (["data=brats"], [f"data.store={store}"], [f"sweep.axes.data.store=[{store}]"]):
        assert launch.main(words) == 0
        assert capsys.readouterr().out == ""


def test_many_runs_read_the_cohort_once_and_are_submitted_at_once(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_files: Counter[Path]
) -> None:
    """With stand-ins for Slurm's commands and for MLflow."""
    for name in ("sbatch", "srun", "squeue"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho $# >> {tmp_path}/{name}.calls\necho Submitted batch job 7\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(launch, "Background", lambda folder: None)
    monkeypatch.setattr(launch, "carry_out", lambda settings, states, dispatcher, sync: dispatcher.poll())
    monkeypatch.setattr(launch, "conclude", lambda states, sync: 0)
    axes = [
        "sweep.axes.variant=[siso,simo,mimo]",
        "sweep.axes.train.lr=[1e-3,2e-3]",
        "sweep.axes.method=[unet_small,segment_small]",
    ]
    assert launch.main(["cluster=slurm", "sweep.name=many", f"data.store={store}", f"runs={tmp_path / 'runs'}", *axes]) == 0
    assert set(read_files.values()) == {1}
    assert len(read_files) == 1 + len(Cohort.open(store).subjects)
    assert len(list((tmp_path / "runs" / "many").glob("*/job.json"))) == 12
    assert (tmp_path / "sbatch.calls").read_text().count("\n") == 1


def alive(folder: Path) -> list[str]:
    """The processes whose command or environment names the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if path.resolve() == folder and path.parent.name != str(os.getpid()):
                found.append((path.parent / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return [command for command in found if command]


def replayed_and_waited(sender: Background) -> None:
    sender.replay()
    time.sleep(5)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_within_the_database_is_not_lost(number: int) -> None:
    """Its library takes a KeyboardInterrupt in a transaction for a failure of its own."""

    class Swallowing:
        def replay(self) -> None:
            try:
                os.kill(os.getpid(), number)
                time.sleep(0.1)
            except KeyboardInterrupt as error:
                raise UserError("the MLflow store failed (This transaction is closed)") from error

    before = signal.signal(number, signal.default_int_handler)
    sender = Background(Path("nowhere"))
    sender.sync = Swallowing()  # type: ignore[assignment]
    try:
        with pytest.raises(KeyboardInterrupt):
            replayed_and_waited(sender)
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)


def test_ctrl_c_stops_the_ranks_too_and_the_sweep_goes_on_later(
    store: Path, tiny: tuple[str, ...], tmp_path: Path, run: Runner
) -> None:
    given = [*words(store, tiny), "variant=siso", "train.steps_per_epoch=12", "train.epochs=36", "train.validate_every=12"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, LAUNCH, *given], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    journal = tmp_path / "runs" / "small" / "siso_tcmgan" / "journal.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not any(line.get("step", 0) >= 10 for line in read(journal)[0]):
        time.sleep(0.1)
    assert len(alive(tmp_path)) >= 3
    second = run(LAUNCH, *given, cwd=tmp_path)
    assert (second.returncode, "another launcher watches sweep small" in second.stderr) == (2, True)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (130, "stopped by Ctrl-C\n")
    assert "the runs stopped; watch them again with the same command" in out
    deadline = time.monotonic() + 10
    while alive(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert alive(tmp_path) == []
    again = run(LAUNCH, *given, cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    resumed = [json.loads(line)["resumed_at"] for line in journal.read_text().splitlines() if '"start"' in line]
    assert resumed[-1] > 0


@pytest.mark.parametrize(("number", "ranks", "jobs"), [(signal.SIGKILL, [1], 2), (signal.SIGUSR2, [0, 1], 1)])
def test_a_killed_rank_and_a_preemption_change_nothing_but_the_time(
    launched, store: Path, tiny: tuple[str, ...], tmp_path: Path, number: int, ranks: list[int], jobs: int
) -> None:
    """One rank dies, and the launcher submits the run again; or all are told to stop, and submitit's local executor starts them again."""
    given = [*words(store, tiny), "sweep.axes.variant=[siso]", "sweep.axes.train.lr=[1e-3]"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, LAUNCH, *given], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    run = RunDirectory(tmp_path / "runs" / "small" / "siso_lr-0.001")
    deadline = time.monotonic() + 120
    while not any(line.get("step", 0) >= 6 for line in read(run.journal)[0]):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    running = ranks_of(int(json.loads(run.job.read_text())["id"]))
    for rank in ranks:
        os.kill(running[rank], number)
    out, error = process.communicate(timeout=200)
    assert process.returncode == 0, out + error
    assert ("submitted again, 1 of 2 times" in error) == (jobs == 2)
    assert len(list((tmp_path / "runs" / "small" / "logs").glob("[0-9]*"))) == jobs
    through = checkpoint.newest(launched[0] / "runs" / "small" / "siso_lr-0.001" / "checkpoints")
    disturbed = checkpoint.newest(run.checkpoints)
    assert through is not None
    assert disturbed is not None
    assert [n for n, w in through[0]["method"].items() if not torch.equal(w, disturbed[0]["method"][n])] == []
    assert [line["resumed_at"] for line in read(run.journal)[0] if line["kind"] == "start"][-1] > 0


def test_the_help_does_not_wait_for_torch() -> None:
    code = "import sys\nfrom slurm import launch\nassert not {'torch', 'mlflow', 'submitit', 'SimpleITK'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

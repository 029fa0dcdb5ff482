"""MLflow stores that fail, with a real server: all runs finish, a sync sends every point once, each cause is one warning."""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient

from distsynth.tracking.journal import covered, read

LAUNCH = str(Path(__file__).parents[2] / "slurm" / "launch.py")
Runner = Callable[..., subprocess.CompletedProcess[str]]
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true"}
OPENINGS = int(os.environ.get("OPENINGS", "4"))  # 20 take five minutes
AXES = ("sweep.axes.variant=[siso,simo,mimo]", "sweep.axes.train.lr=[1e-3,2e-3]")


def words(store: Path, *more: str) -> list[str]:
    """A sweep of the smallest runs."""
    own = ["cluster=local", "cluster.ranks=1", "sweep.name=small", f"data.store={store}", "poll_seconds=0.3", "method=unet_small"]
    tiny = ["train.epochs=2", "train.steps_per_epoch=3", "train.log_every=1", "evaluate.figures=1", "evaluate.baselines=false"]
    return [*own, *tiny, *more]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def serving(folder: Path, port: int, *options: str) -> Iterator[str]:
    """A server with its database in the folder."""
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    store = ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}"]
    if "--default-artifact-root" not in options:
        options = ("--artifacts-destination", str(folder / "kept"))
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            [*command, *store, *options], stdout=log, stderr=log, cwd=folder, env={**os.environ, **QUIET}, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).read()
                break
            except OSError:
                assert time.monotonic() < deadline, (folder / "server.log").read_text()
                assert process.poll() is None, (folder / "server.log").read_text()
                time.sleep(0.3)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def delayed(port: int, seconds: float) -> Iterator[str]:
    """A way to the server on which every connection's first bytes wait."""
    listener = socket.create_server(("127.0.0.1", 0))

    def carry(source: socket.socket, target: socket.socket, wait: float) -> None:
        try:
            while data := source.recv(2**16):
                time.sleep(wait)
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            end.close()

    def accept() -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", port))
            for pair in ((near, far, seconds), (far, near, 0.0)):
                threading.Thread(target=carry, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()


def points_are_there_once(client: MlflowClient, sweep: Path) -> None:
    """Every point of every journal, and nothing else."""
    experiment = client.get_experiment_by_name("distsynth")
    runs = client.search_runs([experiment.experiment_id], "tags.`mlflow.parentRunId` != ''")
    folders = sorted(path.parent for path in sweep.glob("*/run.json"))
    assert sorted(run.info.run_name for run in runs) == [folder.name for folder in folders]
    for run in runs:
        assert run.info.status == "FINISHED"
        assert run.data.params["method.name"] == "unet"
        lines = covered(read(sweep / run.info.run_name / "journal.jsonl")[0])
        wanted = Counter(
            (key, line["step"], value) for line in lines if line["kind"] == "metrics" for key, value in line["values"].items()
        )
        there = Counter(
            (key, point.step, point.value)
            for key in run.data.metrics
            for point in client.get_metric_history(run.info.run_id, key)
        )
        assert wanted == there


def warnings(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line.startswith("warning: ") and "MLflow" in line]


def finished(folder: Path) -> list[str]:
    journals = sorted((folder / "runs" / "small").glob("*/journal.jsonl"))
    return [path.parent.name for path in journals if read(path)[0][-1].get("status") == "finished"]


@pytest.fixture(scope="module")
def trained(store: Path, tmp_path_factory: pytest.TempPathFactory, run: Runner) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Two runs, launched while nobody answered at the store's address, which holds a password."""
    folder = tmp_path_factory.mktemp("refused")
    uri = f"http://me:hunter2@127.0.0.1:{free_port()}"
    done = run(LAUNCH, *words(store, AXES[0], "sweep.axes.variant=[siso,mimo]"), cwd=folder, MLFLOW_TRACKING_URI=uri)
    return folder, done


def test_a_server_that_refuses_costs_one_warning_and_no_run(trained) -> None:
    folder, done = trained
    assert done.returncode == 0, done.stdout + done.stderr
    assert finished(folder) == ["mimo", "siso"]
    (warning,) = warnings(done.stderr)
    assert "MLFLOW_TRACKING_URI=http://***@127.0.0.1:" in warning
    assert "it does not answer" in warning
    assert f"python -m distsynth.tracking.sync {folder}/runs/small sends it later (with env -u MLFLOW_TRACKING_URI" in warning
    assert "hunter2" not in done.stdout + done.stderr
    assert "not all of it is in MLflow" in done.stdout
    written = [path for path in (folder / "runs").rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]
    assert written == []


def test_what_was_not_sent_is_sent_later_into_the_database_beside_the_runs(trained, tmp_path: Path, run: Runner) -> None:
    shutil.copytree(trained[0] / "runs", tmp_path / "runs")
    for _ in range(2):
        done = run("distsynth.tracking.sync", "runs/small", cwd=tmp_path)
        assert (done.returncode, warnings(done.stderr)) == (0, []), done.stderr
    points_are_there_once(MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db"), tmp_path / "runs" / "small")


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("file:/tmp/mlruns", "file"),
        ("databricks", "databricks"),
        ("postgresql://me:hunter2@127.0.0.1:1/x", "is not installed"),
        ("nonsense://me:hunter2@host", "nonsense"),
        ("http://me:hunter2@[bad", ""),
        ("http://me:hunter2@127.0.0.1:99999999/", ""),
    ],
)
def test_a_uri_that_no_store_has_is_named_by_its_variable_without_its_password(
    trained, tmp_path: Path, run: Runner, uri: str, why: str
) -> None:
    shutil.copytree(trained[0] / "runs", tmp_path / "runs")
    done = run("distsynth.tracking.sync", "runs/small", cwd=tmp_path, MLFLOW_TRACKING_URI=uri)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith(f"error: the MLflow store MLFLOW_TRACKING_URI={uri.replace('me:hunter2', '***')} failed (")
    assert "env -u MLFLOW_TRACKING_URI" in done.stderr
    assert why in done.stderr
    assert "hunter2" not in done.stderr


@pytest.mark.full
def test_two_launchers_and_a_sync_open_a_new_database_at_once(trained, tmp_path: Path) -> None:
    """Several times; the launchers' runs have finished before, so that they only open the store and send."""
    for number in range(OPENINGS):
        place = tmp_path / str(number)
        for name in ("a", "b", "c"):
            shutil.copytree(trained[0] / "runs" / "small", place / name)
            sweep = place / name / "sweep.json"
            sweep.write_text(sweep.read_text().replace('"uid": "', f'"uid": "{name}'))
        send = "import sys\nfrom pathlib import Path\nfrom distsynth.tracking.background import Background\n"
        send += "sender = Background(Path(sys.argv[1]))\nsender.replay()\nsys.exit(sender.finish() is None)"
        commands = [[sys.executable, "-c", send, str(place / name)] for name in ("a", "b")]
        commands.append([sys.executable, "-m", "distsynth.tracking.sync", str(place / "c")])
        started = [subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for command in commands]
        for process in started:
            out, error = process.communicate(timeout=300)
            assert (process.returncode, warnings(error)) == (0, []), f"time {number}: {out}{error}"


@pytest.mark.full
def test_a_server_that_is_down_in_the_middle_of_a_sweep_has_every_point_after_a_sync(
    store: Path, tmp_path: Path, run: Runner
) -> None:
    port = free_port()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}"}
    with serving(tmp_path, port):
        process = subprocess.Popen(
            [sys.executable, LAUNCH, *words(store, *AXES)],
            cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        wait_for(lambda: len(finished(tmp_path)) >= 2)
    wait_for(lambda: len(finished(tmp_path)) >= 4)
    with serving(tmp_path, port) as uri:
        out, error = process.communicate(timeout=300)
        assert process.returncode == 0, out + error
        assert len(finished(tmp_path)) == 6
        assert len(warnings(error)) == 1, error
        points_are_there_once(MlflowClient(uri), tmp_path / "runs" / "small")
        done = run("distsynth.tracking.sync", "runs/small", cwd=tmp_path, MLFLOW_TRACKING_URI=uri)
        assert done.returncode == 0, done.stderr
        points_are_there_once(MlflowClient(uri), tmp_path / "runs" / "small")


def wait_for(condition: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.full
def test_a_slow_server_delays_no_run(store: Path, tmp_path: Path, run: Runner) -> None:
    """Half a second for each request: the second run starts while the first is still being sent."""
    port = free_port()
    with serving(tmp_path, port) as direct, delayed(port, 0.5) as uri:
        done = run(LAUNCH, *words(store, "sweep.axes.seed=[0,1]", "variant=siso"), cwd=tmp_path, MLFLOW_TRACKING_URI=uri)
        assert (done.returncode, warnings(done.stderr)) == (0, []), done.stdout + done.stderr
        points_are_there_once(MlflowClient(direct), tmp_path / "runs" / "small")
    first, second = (read(path)[0] for path in sorted((tmp_path / "runs" / "small").glob("*/journal.jsonl")))
    assert second[0]["time"] - first[-1]["time"] < 15_000


@pytest.mark.full
@pytest.mark.parametrize("root", ["/proc/no", "s3://b/x"])
def test_a_store_without_a_place_for_files_has_the_curves(trained, tmp_path: Path, run: Runner, root: str) -> None:
    shutil.copytree(trained[0] / "runs", tmp_path / "runs")
    with serving(tmp_path, free_port(), "--no-serve-artifacts", "--default-artifact-root", root) as uri:
        done = run("distsynth.tracking.sync", "runs/small", cwd=tmp_path, MLFLOW_TRACKING_URI=uri)
        assert done.returncode == 0, done.stderr
        (warning,) = warnings(done.stderr)
        assert "does not take files such as" in warning
        assert ("boto3 is not installed" in warning) == root.startswith("s3")
        points_are_there_once(MlflowClient(uri), tmp_path / "runs" / "small")


@pytest.mark.full
def test_what_somebody_deletes_in_mlflow_is_restored(store: Path, tmp_path: Path, run: Runner) -> None:
    """While a sweep is trained: the experiment with all its runs."""
    with serving(tmp_path, free_port()) as uri:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": uri}
        process = subprocess.Popen(
            [sys.executable, LAUNCH, *words(store, "sweep.axes.seed=[0,1]", "variant=siso")],
            cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        client = MlflowClient(uri)
        wait_for(lambda: client.get_experiment_by_name("distsynth") is not None and len(finished(tmp_path)) >= 1)
        client.delete_experiment(client.get_experiment_by_name("distsynth").experiment_id)
        out, error = process.communicate(timeout=300)
        assert process.returncode == 0, out + error
        assert len(warnings(error)) <= 1, error
        points_are_there_once(client, tmp_path / "runs" / "small")


def test_the_printed_command_of_the_ui_works_in_a_folder_with_a_space(trained, tmp_path: Path, run: Runner) -> None:
    place = tmp_path / "my runs"
    shutil.copytree(trained[0] / "runs", place / "runs")
    done = run("distsynth.tracking.sync", "runs/small", cwd=place)
    (command,) = [line.strip() for line in done.stdout.splitlines() if " ui " in line]
    assert shlex.split(command)[0] == "MLFLOW_DISABLE_TELEMETRY=true"
    assert shlex.split(command)[-1] == f"sqlite:///{place}/runs/mlflow.db"
    assert f"ssh -L 5000:localhost:5000 {socket.gethostname()}" in done.stdout

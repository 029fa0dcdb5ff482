"""Every exported form makes the run's volumes, and a served model writes the command's images and nothing elsewhere."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from workbench import untrained_run

from distsynth import export, synthesise
from distsynth.methods.registry import UnservedVariant
from distsynth.run_directory import CONFIGS, RunDirectory
from distsynth.synthesis import forms, mlflow_model
from distsynth.synthesis.models import load
from distsynth.synthesis.served import Server
from distsynth.tracking.journal import Journal
from distsynth.tracking.sync import Sync
from preprocess.shared.errors import SettingError, StoreError, UserError
from preprocess.shared.files import write_json

UNET = ("variant=miso_flair", "method=unet_small", "method.width=4", "method.depth=2")
SMALL = sorted(path.stem for path in (CONFIGS / "method").glob("*_small.yaml") if not path.stem.startswith("segment"))
VARIANTS = ("mimo", "simo", "siso")  # each method serves one


@pytest.fixture(scope="module")
def trained(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of a sweep's runs, untrained."""
    sweep = tmp_path_factory.mktemp("store") / "lr"
    write_json(sweep / "sweep.json", {"uid": "parent", "name": "lr", "axes": []})
    run = untrained_run(sweep / "first", *UNET, f"data.store={store}")
    journal = Journal(run.journal)
    journal.write("start", world_size=1, device="cpu", host="here", pid=1, resumed_at=0)
    journal.write("metrics", step=1, values={"l1": 1.0})
    journal.write("checkpoint", step=1)
    journal.write("end", status="finished", reason="")
    return run.path


@pytest.fixture(scope="module")
def scans(phantoms: Path) -> dict[str, str]:
    """A patient's T1 and T2, as a request names them from the phantoms' folder."""
    first = sorted(phantoms.rglob("*_t1.nii.gz"))[0].relative_to(phantoms)
    return {"t1": str(first), "t2": str(first).replace("_t1.nii.gz", "_t2.nii.gz")}


@pytest.fixture(scope="module")
def image(trained: Path, phantoms: Path, scans: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command makes of them."""
    out = tmp_path_factory.mktemp("command")
    assert synthesise.main([f"run={trained}", f"out={out}", *(f"{kind}={phantoms / path}" for kind, path in scans.items())]) == 0
    (made,) = out.glob("*_flair_synth.nii.gz")
    return made


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.fixture
def mlflow_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What exporting to MLflow sets in this process is undone."""
    for name in ("MLFLOW_TRACKING_URI", mlflow_model.NO_PICKLE):
        monkeypatch.setenv(name, "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    yield
    import mlflow

    mlflow.set_tracking_uri("")


# -- the command -----------------------------------------------------------------------------------------------------------


def test_a_zip_is_used_like_a_run(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "model.zip"
    assert export.main([f"run={trained}", f"out={out}"]) == 0
    assert load(out).digest == load(trained).digest
    assert "licence= is not given" in capsys.readouterr().out
    assert export.main([f"run={out}", f"out={tmp_path / 'again.zip'}", "licence=CC BY 4.0"]) == 0
    assert "licence= is not given" not in capsys.readouterr().out
    with zipfile.ZipFile(tmp_path / "again.zip") as opened:
        assert b"CC BY 4.0" in opened.read("again/LICENSE")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["out=model.pt"], r"must end in \.zip"),
        (["out=model.zip", "to=onnx"], r"must end in \.onnx"),
        ([], r"must end in \.zip"),
        (["out=model.zip", "register=x"], "register=x is for to=mlflow"),
        (["out=model.zip", "to=torchscript"], "to"),
        (["out={exists}.zip"], "exists"),
        (["out=/proc/none/model.zip"], "cannot write out=/proc/none/model.zip"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_a_sentence(words: list[str], why: str, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "there.zip").write_bytes(b"mine")
    with pytest.raises(UserError, match=why) as refusal:
        export.main([f"run={trained}", *(word.format(exists=tmp_path / "there") for word in words)])
    assert "\n" not in str(refusal.value)
    assert (tmp_path / "there.zip").read_bytes() == b"mine"


def test_a_sweep_is_refused(trained: Path) -> None:
    with pytest.raises(SettingError, match="is a sweep: give one of its runs"):
        export.main([f"run={trained.parent}", "out=model.zip"])


# -- networks for other programs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["onnx", "pt2"])
def test_the_network_is_compared_and_says_what_it_needs(
    form: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"model.{form}"
    assert export.main([f"run={trained}", f"out={out}", f"to={form}"]) == 0
    assert "differ by at most" in capsys.readouterr().out
    assert names(tmp_path) == [out.name]
    if form == "onnx":
        about = json.loads(next(p.value for p in onnx.load(out).metadata_props if p.key == forms.KEY))
        session = onnxruntime.InferenceSession(out)
        made = session.run(None, {"sources": np.zeros((3, 2, 32, 32), np.float32), "brain": np.ones((3, 1, 32, 32), np.float32)})
        assert made[0].shape == (3, 1, 32, 32)
        content = out.read_bytes()
    else:
        more = {forms.KEY: ""}
        torch.export.load(out, extra_files=more)
        about = json.loads(more[forms.KEY])
        with zipfile.ZipFile(out) as opened:
            assert not [info for info in opened.infolist() if info.filename.endswith((".pt", ".pkl")) and info.file_size]
            content = b"".join(opened.read(name) for name in opened.namelist())
    assert (about["inputs"], about["outputs"], about["digest"]) == (["t1", "t2"], ["flair"], load(trained).digest)
    assert {"map", "size", "recipe", "units", "notice"} <= about.keys()
    for private in (CONFIGS.parent, trained.parent, Path(sys.prefix)):
        assert str(private).encode() not in content


def test_a_network_that_differs_is_not_kept(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(program: Any, about: str, file: Path) -> forms.Network:
        file.write_bytes(b"x")
        return lambda sources, brain: torch.zeros(len(sources), 1, *sources.shape[2:])

    monkeypatch.setitem(forms.WRITERS, "pt2", other)
    with pytest.raises(StoreError, match=r"differ by up to .* above 0\.001"):
        export.main([f"run={trained}", f"out={tmp_path / 'model.pt2'}", "to=pt2"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("suffix", "to"), [("zip", "bundle"), ("onnx", "onnx"), ("pt2", "pt2"), ("", "mlflow")])
def test_a_full_disk_is_said_and_leaves_nothing(suffix: str, to: str, trained: Path, small_disk: Path) -> None:
    (small_disk / "fill").write_bytes(bytes(604_000))
    with pytest.raises(StoreError, match=r"cannot write out=.*No space left"):
        export.main([f"run={trained}", f"out={small_disk / 'model'}{suffix and '.' + suffix}", f"to={to}"])
    assert names(small_disk) == ["fill"]


def test_missing_libraries_are_named(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "find_spec", lambda name: None if name == "onnxruntime" else True)
    with pytest.raises(SettingError, match=r"needs onnxruntime.*pip install distsynth\[onnx\]"):
        export.main([f"run={trained}", f"out={tmp_path / 'model.onnx'}", "to=onnx"])


def test_a_network_that_a_form_cannot_hold_is_refused(store: Path, tmp_path: Path) -> None:
    """pix2pix's noise at test time depends on the bits of the slice, for which ONNX has no operation."""
    run = untrained_run(tmp_path / "run", "method=pix2pix_small", "variant=siso", f"data.store={store}")
    with pytest.raises(
        SettingError, match=r"to=onnx cannot hold the network of method pix2pix, which draws noise .* use to=bundle"
    ):
        export.main([f"run={run.path}", f"out={tmp_path / 'model.onnx'}", "to=onnx"])
    assert names(tmp_path) == ["run"]


@pytest.mark.full
@pytest.mark.parametrize("form", ["onnx", "pt2"])
@pytest.mark.parametrize("preset", SMALL)
def test_every_small_preset(preset: str, form: str, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"method={preset}", f"data.store={store}"]
    if preset == "pix2pix_small" and form == "onnx":
        words.append("method.noise_at_test=false")
    for variant in VARIANTS:
        try:
            run = untrained_run(tmp_path / "run", f"variant={variant}", *words)
            break
        except UnservedVariant:
            continue
    assert export.main([f"run={run.path}", f"out={tmp_path / f'model.{form}'}", f"to={form}"]) == 0
    difference = re.search(r"by at most (\S+) z-scores", capsys.readouterr().out)
    assert difference
    assert float(difference[1]) <= (0 if form == "pt2" else 5e-4)


# -- serving -------------------------------------------------------------------------------------------------------------------


def test_a_request_gets_the_commands_image(trained: Path, phantoms: Path, scans: dict[str, str], image: Path) -> None:
    server = Server(str(trained), "cpu", phantoms)
    for _ in range(2):  # the second finds it done
        answer = server.answer({**scans, "out": "made", "flair": None, "mask": float("nan")})
    assert answer["status"] == "kept"
    made = Path(answer["outputs"]["flair"])
    assert made == phantoms / "made" / image.name
    assert made.read_bytes() == image.read_bytes()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"t1": "/etc/passwd"}, "t1='/etc/passwd' is not below"),
        ({"t1": "../x_t1.nii.gz"}, "is not below"),
        ({"out": "../elsewhere"}, "out='../elsewhere' is not below"),
        ({"out": "link/deep"}, "is not below"),
        ({"t1": "a\0b"}, "is not below"),
        ({"t1": "none.nii.gz"}, "does not exist"),
        ({"name": "../x"}, "cannot name files"),
        ({"outputs": "t2"}, "the model makes flair"),
        ({"t2": ""}, "there is only T1"),
        ({"t1": "", "t2": ""}, "names a patient's files"),
        ({"out": ""}, "names a patient's files"),
        ({"out": "file"}, "file"),
    ],
)
def test_a_request_reads_and_writes_nothing_elsewhere(
    changes: dict[str, str], why: str, trained: Path, phantoms: Path, scans: dict[str, str], tmp_path: Path
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    (root / "file").write_text("")
    for path in scans.values():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes((phantoms / path).read_bytes())
    answer = Server(str(trained), "cpu", root).answer({**scans, "out": "made", **changes})
    assert answer["status"] == "set aside"
    assert why in answer["why"]
    assert "\n" not in answer["why"]
    assert names(tmp_path) == ["root"]


def test_the_folder_is_the_servers_own_unless_a_variable_says(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Server(str(trained), "cpu").root == tmp_path.resolve()
    monkeypatch.setenv("DISTSYNTH_SERVE_ROOT", str(trained))
    assert Server(str(trained), "cpu").root == trained.resolve()


@pytest.mark.usefixtures("mlflow_environment")
def test_an_mlflow_model_is_code_and_an_exported_model(
    trained: Path, phantoms: Path, scans: dict[str, str], image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow
    import pandas as pd

    folder = tmp_path / "served"
    assert export.main([f"run={trained}", f"out={folder}", "to=mlflow"]) == 0
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert written == mlflow_model.FILES
    assert names(tmp_path) == ["served"]
    about = (folder / "MLmodel").read_text()
    assert str(tmp_path) not in about
    assert str(CONFIGS.parent) not in about
    assert os.environ[mlflow_model.NO_PICKLE] == "false"
    monkeypatch.chdir(phantoms)
    (answer,) = mlflow.pyfunc.load_model(str(folder)).predict(pd.DataFrame([{**scans, "out": "loaded"}]))
    assert Path(answer["outputs"]["flair"]).read_bytes() == image.read_bytes()
    with pytest.raises(StoreError, match="exists"):
        export.main([f"run={trained}", f"out={folder}", "to=mlflow"])


@pytest.mark.usefixtures("mlflow_environment")
def test_what_the_export_sets_refuses_a_pickle(tmp_path: Path) -> None:
    """MLflow unpickles by default."""
    import mlflow

    class Pickled(mlflow.pyfunc.PythonModel):
        def predict(self, context: Any, model_input: list[str], params: Any = None) -> list[str]:
            return model_input

    mlflow.pyfunc.save_model(tmp_path / "model", python_model=Pickled(), pip_requirements=[])
    mlflow.pyfunc.load_model(str(tmp_path / "model"))
    mlflow_model.settings()
    with pytest.raises(mlflow.exceptions.MlflowException, match="pickle is disallowed"):
        mlflow.pyfunc.load_model(str(tmp_path / "model"))


def test_only_an_export_to_mlflow_loads_it(trained: Path, tmp_path: Path) -> None:
    code = f"""
import sys
from distsynth.export import main
assert main(["run={trained}", "out={tmp_path}/model.zip"]) == 0
print([m for m in ("mlflow", "onnxruntime", "onnx") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr


@pytest.mark.usefixtures("mlflow_environment")
def test_a_model_is_logged_into_the_runs_own_mlflow_run(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.chdir(tmp_path)
    sync = Sync(trained.parent)
    sync.replay()
    before = sync.client.get_run(sync.runs[trained])
    assert export.main([f"run={trained}", "to=mlflow", "register=flair"]) == 0
    after = sync.client.get_run(sync.runs[trained])
    assert (after.info.status, after.info.end_time) == ("FINISHED", before.info.end_time)
    printed = capsys.readouterr().out
    assert "registered as flair" in printed
    assert "MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false" in printed
    version = sync.client.get_model_version("flair", "1")
    assert version.run_id == sync.runs[trained]
    uri = re.search(r"logged as (models:\S+?),", printed)
    assert uri
    mlflow.set_tracking_uri(sync.uri)
    assert mlflow.pyfunc.load_model(uri[1]).metadata.signature.inputs.required_input_names() == ["out"]
    (model,) = sync.client.search_logged_models([sync.experiment])
    assert (model.name, model.source_run_id, model.status.name) == ("model", sync.runs[trained], "READY")
    assert not names(tmp_path)
    assert list((trained.parent.parent / "artifacts").rglob("model.zip"))


@pytest.mark.usefixtures("mlflow_environment")
def test_a_run_that_mlflow_does_not_know_is_refused(store: Path, tmp_path: Path) -> None:
    run: RunDirectory = untrained_run(tmp_path / "run", *UNET, f"data.store={store}")
    with pytest.raises(UserError, match=r"is not part of a sweep.* give out=FOLDER"):
        export.main([f"run={run.path}", "to=mlflow"])


@pytest.mark.full
@pytest.mark.usefixtures("mlflow_environment")
def test_mlflow_serves_the_commands_image(
    trained: Path, phantoms: Path, scans: dict[str, str], image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command that the export prints, on loopback, with a request over HTTP."""
    assert export.main([f"run={trained}", f"out={tmp_path / 'served'}", "to=mlflow"]) == 0
    command = next(line for line in capsys.readouterr().out.splitlines() if "mlflow models serve" in line)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path / "log").open("w")
    server = subprocess.Popen(
        command.replace("5001", str(port)), shell=True, cwd=phantoms, stdout=log, stderr=log, start_new_session=True
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/ping", server)
        rows = [{**scans, "out": "served"}, {**scans, "out": "/tmp/elsewhere"}]
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations",
            json.dumps({"dataframe_records": rows}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as reply:
            made, refused = json.load(reply)["predictions"]
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        log.close()
    assert Path(made["outputs"]["flair"]).read_bytes() == image.read_bytes()
    assert "is not below" in refused["why"]


def wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        assert server.poll() is None, "the server ended"
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("no answer in a minute")

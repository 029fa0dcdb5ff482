"""Synthesis in processes of its own: killed at any moment and continued, two at once, and the README's lines in a notebook."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import pytest
from patients import UNET, call, files_in, fitting, folder_of, some_of
from workbench import untrained_run

from distsynth import synthesise
from preprocess.cohort import Cohort
from preprocess.shared.errors import StoreError


@pytest.fixture(scope="module")
def run(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_run(tmp_path_factory.mktemp("runs") / "mimo", "variant=mimo", *UNET, f"data.store={store}").path


def images_in(folder: Path) -> dict[str, bytes]:
    """All files but the report, which also says what was kept."""
    return {name: content for name, content in files_in(folder).items() if name != "report.json"}


@pytest.mark.full
def test_killed_ten_times_it_ends_with_the_same_bytes(store: Path, phantoms: Path, run: Path, tmp_path: Path) -> None:
    for name in Cohort.open(store).subjects[:4]:
        some_of(folder_of(phantoms, name), tmp_path / "in", "t1", "t2")
    words = [f"source={tmp_path / 'in'}", f"run={run}", "continue=true"]
    command = [sys.executable, "-m", "distsynth.synthesise", *words, f"out={tmp_path / 'killed'}"]
    began = time.monotonic()
    whole = subprocess.run([*command[:-1], f"out={tmp_path / 'whole'}"], capture_output=True, text=True)
    seconds = time.monotonic() - began
    assert whole.returncode == 0, whole.stderr
    draw, half_done = random.Random(), 0
    for attempt in range(40):
        if attempt >= 10 and half_done:
            break
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(draw.uniform(0.3, 1) * seconds)
        seconds *= 0.8 if process.poll() is not None else 1.0  # the first call may have been slow
        process.send_signal(signal.SIGKILL)
        process.wait()
        for image in (tmp_path / "killed").glob("*.nii.gz"):
            nib.load(image).get_fdata()  # a name is only given to a whole file
        done = images_in(tmp_path / "killed") if (tmp_path / "killed").is_dir() else {}
        half_done += 0 < len(done) < len(images_in(tmp_path / "whole"))
        for path in sorted((tmp_path / "killed").glob("*"))[: draw.randint(0, 3)]:  # so that every attempt has work
            path.unlink()
    assert half_done
    last = subprocess.run(command, capture_output=True, text=True)
    assert last.returncode == 0, last.stderr
    assert images_in(tmp_path / "killed") == images_in(tmp_path / "whole")


def test_two_at_once_are_refused(store: Path, phantoms: Path, run: Path, tmp_path: Path) -> None:
    case = folder_of(phantoms, fitting(store, "test"))
    with synthesise.writing(tmp_path / "out", ""), pytest.raises(StoreError, match="another call writes to out="):
        call(f"source={case}", f"out={tmp_path / 'out'}", f"run={run}", "outputs=all")
    for first, second in (("1/2", "1/3"), ("", "1/2"), ("1/2", "")):
        refused = pytest.raises(StoreError, match="another call writes to out=")
        with synthesise.writing(tmp_path / "out", first), refused, synthesise.writing(tmp_path / "out", second):
            pass
    with synthesise.writing(tmp_path / "out", "1/2"), synthesise.writing(tmp_path / "out", "2/2"):
        (tmp_path / "out" / ".synthesise-2-of-3.lock").touch()
    with synthesise.writing(tmp_path / "out", ""):  # which a killed call left
        pass
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.full
def test_the_readmes_lines_in_a_notebook(store: Path, phantoms: Path, run: Path, tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    readme = (Path(__file__).parents[2] / "README.md").read_text()
    lines = next(block for block in readme.split("```") if block.startswith("python\nimport distsynth\n")).removeprefix(
        "python\n"
    )
    case = folder_of(phantoms, fitting(store, "test"))
    for kind in ("t1", "t2"):
        (tmp_path / f"{kind}.nii.gz").symlink_to(case / f"{case.name}_{kind}.nii.gz")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "first").symlink_to(run)
    cells = [lines, "{name: [type(image).__name__, list(image.shape)] for name, image in images.items()}",
             f"len(distsynth.Cohort.open({str(store)!r}).subjects)"]  # fmt: skip
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [json.loads(cell.outputs[0]["data"]["text/plain"].replace("'", '"')) for cell in notebook.cells[1:]]
    shape = list(nib.load(tmp_path / "t1.nii.gz").shape)
    assert shown == [{"t1c": ["Nifti1Image", shape], "flair": ["Nifti1Image", shape]}, len(Cohort.open(store).subjects)]

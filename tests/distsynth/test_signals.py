"""Ctrl-C and SIGTERM end every command in one sentence, without a traceback: real processes, signalled in the midst of their work."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from distsynth import train
from distsynth.ranks.rendezvous import place
from distsynth.tracking.journal import read
from preprocess.shared.errors import UserError

TERM, INT = signal.SIGTERM, signal.SIGINT
SENTENCES = {TERM: "stopped by SIGTERM", INT: "stopped by Ctrl-C"}
UNET = ["variant=mimo", "method=unet_small", "method.width=4", "train.epochs=500", "train.log_every=1"]


def stopped(words: list[str], number: int, underway: Callable[[], bool], folder: Path) -> tuple[int, str]:
    """The exit status and the errors of a command that gets a signal once it is `underway`; the signal goes to all its processes, as Ctrl-C does."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-m", *words], cwd=folder, env=environment, stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True, start_new_session=True)  # fmt: skip
    deadline = time.monotonic() + 60
    while not underway() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, number) if number == INT else process.send_signal(number)
    began = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - began < 10
    return process.returncode, errors


def training(run: Path) -> Callable[[], bool]:
    return lambda: any(line.get("step", 0) >= 2 for line in read(run / "journal.jsonl")[0])


@pytest.mark.parametrize("number", [TERM, INT])
def test_a_training_says_how_to_resume(store: Path, tmp_path: Path, number: int) -> None:
    words = ["distsynth.train", *UNET, f"data.store={store}", "run=runs/a"]
    status, errors = stopped(words, number, training(tmp_path / "runs" / "a"), tmp_path)
    written = " after writing a checkpoint" if number == TERM else ""
    assert errors == f"{SENTENCES[number]}{written}; resume it with python -m distsynth.train runs/a\n"
    assert status == 128 + number
    assert read(tmp_path / "runs" / "a" / "journal.jsonl")[0][-1]["status"] == "stopped"


@pytest.mark.parametrize("number", [TERM, INT])
def test_to_zarr_does_not_wait_for_its_workers(phantoms: Path, tmp_path: Path, number: int) -> None:
    slow = ["recipe.n4.spacing=2", "recipe.n4.iterations=[900,900,900]", "workers=2"]
    words = ["preprocess.to_zarr", str(phantoms), str(tmp_path / "c.zarr"), *slow]
    assert stopped(words, number, (tmp_path / "c.zarr").exists, tmp_path) == (128 + number, f"{SENTENCES[number]}\n")
    assert not (tmp_path / "c.zarr.lock").exists()


def after(seconds: float) -> Callable[[], bool]:
    began = time.monotonic()
    return lambda: time.monotonic() - began > seconds


def test_explore(store: Path, tmp_path: Path) -> None:
    words = ["preprocess.explore", str(store), f"out={tmp_path / 'pages'}"]
    assert stopped(words, INT, (tmp_path / "pages").exists, tmp_path) == (130, "stopped by Ctrl-C\n")


@pytest.mark.full
@pytest.mark.parametrize("number", [TERM, INT])
def test_every_rank_of_torchrun_ends_and_one_of_them_says_so(store: Path, tmp_path: Path, number: int) -> None:
    """torchrun's own lines, and its own traceback, are not ours."""
    words = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "distsynth.train", *UNET, "train.batch=4"]
    _, errors = stopped([*words, f"data.store={store}", "run=runs/a"], number, training(tmp_path / "runs" / "a"), tmp_path)
    assert errors.count(SENTENCES[number]) == 1
    assert "distsynth/train.py" not in errors.partition("Traceback")[2]


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")

    def give(**given: str) -> None:
        for name in names:
            monkeypatch.delenv(name, raising=False)
        for name, value in given.items():
            monkeypatch.setenv(name, value)

    return give


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"WORLD_SIZE": "2"},
            "WORLD_SIZE=2 is set without RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT: start the ranks with torchrun",
        ),
        (
            {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"},
            "WORLD_SIZE=2 is set without MASTER_ADDR, MASTER_PORT: start the ranks",
        ),
        ({"RANK": "3"}, "RANK=3 must be below WORLD_SIZE=1"),
        ({"WORLD_SIZE": "two"}, "the environment variable WORLD_SIZE=two must be a whole number"),
    ],
)
def test_variables_of_torchrun_that_contradict_each_other(
    variables: Callable[..., None], store: Path, tmp_path: Path, given: dict[str, str], sentence: str
) -> None:
    variables(**given)
    with pytest.raises(UserError, match=f"^{sentence}"):
        train.main([*UNET, f"data.store={store}", f"run={tmp_path / 'run'}"])
    assert not (tmp_path / "run").exists()
    variables()
    assert place() == (0, 1, 0)


def test_a_port_that_another_run_has_is_one_sentence(variables: Callable[..., None], store: Path, tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        variables(WORLD_SIZE="2", RANK="0", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        with pytest.raises(
            UserError, match=f"^port {port} is taken on .*: set another MASTER_PORT, or start the ranks with torchrun"
        ):
            train.main([*UNET, "train.batch=4", f"data.store={store}", f"run={tmp_path / 'run'}"])

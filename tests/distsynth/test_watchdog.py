"""Why a run is ended, and with which sentence: diagnosed from heartbeats, and with live processes."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from distsynth.config import compose
from distsynth.ranks import watchdog as module
from distsynth.ranks.heartbeat import Heartbeat, Peer, machine, start_time
from distsynth.ranks.watchdog import Watchdog
from distsynth.ranks.world import fetched
from distsynth.settings import LimitSettings
from distsynth.tracking.journal import read
from preprocess.cohort import Cohort
from preprocess.shared.errors import SettingError

ELSEWHERE = Heartbeat(1, "node7 pid:[1]", 71, 5, phase="step", step=30)


def watching(peer: Heartbeat = ELSEWHERE, heard: float = 0.0, progressed: float = 0.0, step: int = 30) -> Watchdog:
    """Rank 0 of two, at 100 s, that saw a heartbeat and progress of rank 1 so many seconds ago."""
    watchdog = Watchdog(0, 2, LimitSettings(silence=20, step=25))
    watchdog.phase, watchdog.step, watchdog.progressed = "step", step, 100.0
    watchdog.peers = {1: Peer(peer, 100 - heard, 100 - progressed)}
    watchdog.position = lambda: ("in feed.py:7", True)  # type: ignore[method-assign]
    return watchdog


def test_a_rank_without_heartbeats_is_named_with_its_machine_and_step() -> None:
    assert watching(heard=19).diagnose(100) is None
    verdict = watching(heard=21).diagnose(100)
    assert verdict is not None
    assert verdict.sentence == (
        "rank 1 (process 71 on node7) is stopped or lost at step 30: no heartbeat for 20 s (train.limits.silence)"
    )
    assert verdict.blamed == (1,)


def test_a_broken_connection_shortens_the_wait() -> None:
    watchdog = watching(heard=6)
    assert watchdog.diagnose(100) is None
    watchdog.connection_broken = True
    assert watchdog.diagnose(100) is not None


def test_a_process_that_is_gone_from_this_machine_is_named_at_once() -> None:
    mine = start_time(os.getpid())
    assert mine is not None
    assert watching(replace(ELSEWHERE, machine=machine(), pid=os.getpid(), started=mine)).diagnose(100) is None
    verdict = watching(replace(ELSEWHERE, machine=machine(), pid=os.getpid(), started=mine - 1), step=31).diagnose(100)
    assert verdict is not None
    assert verdict.sentence == f"rank 1 has died at step 31: its process {os.getpid()} is gone"


def test_a_rank_that_hangs_blames_itself_and_one_that_waits_does_not() -> None:
    watchdog = watching()
    watchdog.progressed = 70.0
    assert watchdog.diagnose(100) is None
    watchdog.position = lambda: ("in feed.py:7", False)  # type: ignore[method-assign]
    verdict = watchdog.diagnose(100)
    assert verdict is not None
    assert verdict.sentence == "rank 0 hangs at step 30, in feed.py:7: no progress for 25 s (train.limits.step)"
    assert verdict.blamed == (0,)


def test_ranks_that_all_wait_are_distinguished_from_one_that_hangs() -> None:
    watchdog = watching(progressed=31)
    watchdog.progressed = 69.0
    verdict = watchdog.diagnose(100)
    assert verdict is not None
    assert verdict.sentence.startswith("all 2 ranks wait for each other at step 30")


def test_slow_updates_stretch_their_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    watchdog = Watchdog(limits=LimitSettings(step=25))
    for step in range(3):
        watchdog.enter("step", step)
        clock[0] += 20
    assert watchdog.limit == 80
    watchdog.enter("validation", 3)
    assert watchdog.limit == 600


def test_a_checkpoint_that_is_not_written_in_time_is_reported() -> None:
    watchdog = watching()
    watchdog.writing = 30, 100 - 301
    verdict = watchdog.diagnose(100)
    assert verdict is not None
    assert "the checkpoint of step 30 was not written within 300 s" in verdict.sentence


def test_a_suspended_rank_does_not_count_that_time_as_the_others_silence() -> None:
    watchdog = watching(heard=0)
    watchdog.exchanged = watchdog.checked = time.monotonic() - 500
    watchdog.peers[1].heard = watchdog.progressed = watchdog.checked
    watchdog.discount_suspension()
    assert watchdog.diagnose(time.monotonic()) is None


def test_a_limit_below_a_second_is_refused() -> None:
    with pytest.raises(SettingError, match=r"train\.limits\.step=0.5 must be at least 1"):
        compose(["train.limits.step=.5"])


# -- live processes: ranks started as submitit starts them, without torchrun to clean up after them -------------------

HANGING = """
import os, time
from distsynth.methods.tcmgan import TCMGAN
def update(self, batch, step, inner=TCMGAN.train_jointly):
    if batch.update == 2 and os.environ["RANK"] == "1":  # updates are rehearsed with number 0
        {what}
    inner(self, batch, step)
TCMGAN.train_jointly = update
"""
LIMITS = ("train.limits.silence=4", "train.limits.step=4")


def start(run: Path, store: Path, words: tuple[str, ...], before: str = "") -> list[subprocess.Popen[str]]:
    """Two ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = f"{before}\nimport sys\nfrom distsynth.train import main\nfrom preprocess.shared.settings import command\ncommand(main, '')"
    command = [sys.executable, "-c", code, f"run={run}", f"data.store={store}", *words]
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            command,
            env={**os.environ, **world, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def until(run: Path, step: int, ranks: list[subprocess.Popen[str]]) -> None:
    deadline = time.monotonic() + 120
    while not any(line.get("step", 0) >= step for line in read(run / "journal.jsonl")[0]):
        assert all(rank.poll() is None for rank in ranks)
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("killed 1", "rank 1 has died at step "),
        ("stopped 0", "no heartbeat for 4 s"),
        ("hangs", "rank 1 hangs at step 6, in <string>:6: no progress for 4 s"),
        ("fails", "rank 1 failed at step 6: unexpected error (ValueError: no luck, "),
    ],
)
def test_all_ranks_end_with_one_sentence_and_none_is_left(
    store: Path, tiny: tuple[str, ...], tmp_path: Path, fault: str, sentence: str
) -> None:
    what = {"hangs": "time.sleep(1000)", "fails": "raise ValueError('no luck')"}.get(fault, "")
    before = HANGING.format(what=what) if what else ""
    words = (*tiny, *LIMITS, "train.epochs=1000", "evaluate.baselines=false")
    ranks = start(tmp_path / "run", store, words, before)
    until(tmp_path / "run", 6, ranks)
    if not what:
        os.kill(ranks[int(fault[-1])].pid, {"killed": signal.SIGKILL, "stopped": signal.SIGSTOP}[fault.split()[0]])
    done_at = time.monotonic()
    errors = [rank.communicate(timeout=60)[1] for rank in ranks]
    assert time.monotonic() - done_at < 30
    assert all(rank.returncode != 0 for rank in ranks)
    printed = [line for error in errors for line in error.splitlines() if line.startswith("error: ")]
    assert len(printed) == 1, errors
    assert sentence in printed[0]
    last = read(tmp_path / "run" / "journal.jsonl")[0][-1]
    assert (last["kind"], last["status"], last["retry"]) == ("end", "failed", True)
    assert f"error: {last['reason']}" == printed[0]
    assert list((tmp_path / "run" / "checkpoints").glob("step-*.pt"))


def test_a_rank_that_does_not_join_is_named(store: Path, tiny: tuple[str, ...], tmp_path: Path) -> None:
    first, second = start(tmp_path / "run", store, (*tiny, "train.limits.start=5"))
    second.kill()
    assert "error: rank 1 of 2 did not join within 5 s (train.limits.start)" in first.communicate(timeout=60)[1]
    second.communicate()


READS_ARE_NOTED = """
import os
from preprocess.cohort import reader
def noted(store, subject, digest, inner=reader.read_record):
    with open({notes!r}, "a") as file:
        file.write(os.environ["RANK"] + " " + subject + "\\n")
    return inner(store, subject, digest)
reader.read_record = noted
"""


def test_rank_0_reads_the_cohort_for_all(store: Path, tiny: tuple[str, ...], tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    words = (*tiny, "train.batch=2", "method.segmentor.batch=2", "train.epochs=1", "evaluate.baselines=false")
    ranks = start(tmp_path / "run", store, words, READS_ARE_NOTED.format(notes=str(notes)))
    assert [(rank.communicate(timeout=120)[1], rank.returncode) for rank in ranks] == [("", 0)] * 2
    assert sorted(notes.read_text().splitlines()) == [f"0 {subject}" for subject in Cohort.open(store).subjects]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("train.batch=3",),
            "train.batch=3 cannot be shared by 2 ranks: give a multiple of 2, such as train.batch=4, or take 1 rank",
        ),
        (("train.precision=fp16", "train.device=cpu"), "train.precision=fp16 needs a GPU"),
        (("data.external.other=/nowhere",), "cohort /nowhere does not exist"),
    ],
)
def test_what_is_wrong_from_the_start_is_printed_once_and_leaves_no_run(
    store: Path, tiny: tuple[str, ...], tmp_path: Path, words: tuple[str, ...], sentence: str
) -> None:
    ranks = start(tmp_path / "run", store, (*tiny, "train.batch=2", "method.segmentor.batch=2", *words))
    errors = "".join(rank.communicate(timeout=60)[1] for rank in ranks)
    assert [rank.returncode for rank in ranks] == [2, 2]
    assert (errors.count("error: "), errors.count("\n")) == (1, 1), errors
    assert sentence in errors
    assert not (tmp_path / "run").exists()


def test_a_rank_that_waits_for_its_gpu_waits_for_the_others() -> None:
    """The GPU may be busy with a sum over the ranks; a wait at any other line is the rank's own."""
    arrived, over = threading.Event(), threading.Event()

    class GPUTensor:
        def cpu(self) -> None:
            arrived.set()
            over.wait(20)

    for wait, waits in ((lambda: fetched(GPUTensor()), True), (GPUTensor().cpu, False)):  # type: ignore[arg-type]
        arrived.clear()
        over.clear()
        watchdog = Watchdog(0, 2, LimitSettings())
        thread = threading.Thread(target=wait)
        thread.start()
        assert arrived.wait(20)
        watchdog.main_thread = thread.ident or 0
        assert watchdog.position()[1] is waits
        over.set()
        thread.join()

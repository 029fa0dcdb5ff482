"""What becomes of a job that ends before its run does: real processes through submitit's local executor, with a few lines in place of a training."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distsynth.tracking.journal import Journal, Line, read
from slurm import dispatch
from slurm.cluster import ClusterSettings
from slurm.dispatch import Dispatcher
from slurm.outcome import last_error, outcome_of
from slurm.sweep import Run, SweepSettings, plan


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    planned = plan(SweepSettings(name="s", axes={"seed": [0]}), ["method=tcmgan_small"], tmp_path)
    for run in planned:
        run.directory.create(run.name, "s")
    return planned


def job(work: Callable[[Path], None]) -> Any:
    """A stand-in for TrainJob; made in a function, it is pickled whole."""

    class Job:
        def __init__(self, run: Path, cpus: int) -> None:
            self.run = run

        def __call__(self) -> None:
            work(self.run)

    return Job


def dispatcher(runs: list[Run], tmp_path: Path, **settings: Any) -> Dispatcher:
    return Dispatcher(ClusterSettings(kind="local", **settings), "name", runs, tmp_path / "logs")


def carry_out(found: Dispatcher, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while found.busy:
        found.poll()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def journal(run: Run) -> list[Line]:
    return read(run.directory.journal)[0]


def test_a_job_that_dies_is_submitted_again_as_often_as_asked(
    runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def dies(run: Path) -> None:
        import os

        os.kill(os.getpid(), 9)

    monkeypatch.setattr(dispatch, "TrainJob", job(dies))
    carry_out(dispatcher(runs, tmp_path, retries=1))
    first, last = journal(runs[0])
    assert (first["status"], last["status"]) == ("stopped", "failed")
    assert "submitted again, 1 of 1 times" in first["reason"]
    assert "after 1 more job (see " in last["reason"]
    assert Path(last["reason"].split("(see ")[1].rstrip(")")).is_file()
    assert f"{runs[0].name}: " in capfd.readouterr().err


def test_one_that_succeeds_the_second_time_is_finished(runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails_once(run: Path) -> None:
        import os
        from pathlib import Path

        from distsynth.tracking.journal import write_end

        mark = Path(run) / "mark"
        if not mark.exists():
            mark.touch()
            write_end(Path(run) / "journal.jsonl", "failed", "the ranks parted", retry=True)
            os._exit(1)
        write_end(Path(run) / "journal.jsonl", "finished", "")

    monkeypatch.setattr(dispatch, "TrainJob", job(fails_once))
    carry_out(dispatcher(runs, tmp_path))
    assert [line["status"] for line in journal(runs[0])] == ["failed", "stopped", "finished"]


def test_what_the_user_must_mend_is_not_tried_again(runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(run: Path) -> None:
        raise SystemExit("error: train.device=cuda: local rank 0 finds 0 GPUs")

    monkeypatch.setattr(dispatch, "TrainJob", job(refused))
    carry_out(dispatcher(runs, tmp_path))
    (line,) = journal(runs[0])
    assert (line["status"], line["reason"]) == ("failed", "train.device=cuda: local rank 0 finds 0 GPUs")


def test_a_taken_port_is_tried_again_with_another(runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def meets(run: Path) -> None:
        from pathlib import Path

        from distsynth.tracking.journal import write_end
        from slurm.job import rank_variables

        with (Path(run) / "ports").open("a") as file:
            print(port := rank_variables(str(run), 1)["MASTER_PORT"], file=file)
        if len((Path(run) / "ports").read_text().split()) == 1:
            raise SystemExit(f"error: port {port} is taken on n1, perhaps by another run")
        write_end(Path(run) / "journal.jsonl", "finished", "")

    monkeypatch.setattr(dispatch, "TrainJob", job(meets))
    carry_out(dispatcher(runs, tmp_path))
    assert [line["status"] for line in journal(runs[0])] == ["stopped", "finished"]
    assert len(set((runs[0].directory.path / "ports").read_text().split())) == 2


def test_runs_at_the_same_time_have_gpus_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four runs of two ranks, on five GPUs: two at a time, also for a launcher that takes over."""

    def shows(run: Path) -> None:
        import os
        import time
        from pathlib import Path

        path = Path(run) / f"{time.monotonic_ns()}.gpus"
        path.write_text(os.environ["CUDA_VISIBLE_DEVICES"])
        while not (Path(run).parent / "go").exists():
            time.sleep(0.05)
        path.unlink()

    runs = plan(SweepSettings(name="s", axes={"seed": [0, 1, 2, 3]}), ["method=tcmgan_small"], tmp_path)
    for run in runs:
        run.directory.create(run.name, "s")
    monkeypatch.setattr(dispatch, "TrainJob", job(shows))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 5)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3,GPU-5,6,7")
    settings: dict[str, Any] = {"gpus": 1, "ranks": 2, "parallel": 4, "retries": 0}
    first = dispatcher(runs, tmp_path, **settings)
    first.poll()
    assert len(first.jobs) == 2
    second = dispatcher(runs, tmp_path, **settings)
    second.poll()
    assert second.jobs.keys() == first.jobs.keys()
    assert [started.gpus for started in second.jobs.values()] == [["1", "3"], ["GPU-5", "6"]]
    while len(seen := [path.read_text() for path in tmp_path.glob("s/*/*.gpus")]) < 4:
        time.sleep(0.05)
    assert sorted(seen) == ["1,3", "1,3", "GPU-5,6", "GPU-5,6"]
    (tmp_path / "s" / "go").touch()
    carry_out(second)


def test_more_than_an_array_takes_is_submitted_in_pieces_of_at_most_parallel_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A site of at most three elements an array, by stand-ins for Slurm's commands."""
    for name, script in {
        "sbatch": f"""n=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$1"); [ "${{n:-0}}" -gt 2 ] &&
            {{ echo "sbatch: error: Batch job submission failed: Invalid job array specification" >&2; exit 1; }}
            grep -- --array "$1" >> {tmp_path}/arrays; echo Submitted batch job $(wc -l < {tmp_path}/arrays)""",
        "srun": "",
        "squeue": f"cat {tmp_path}/state",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(dispatch, "GRACE", 0.0)
    (tmp_path / "state").write_text("RUNNING\n")
    runs = plan(SweepSettings(name="s", axes={"seed": [0, 1, 2, 3, 4]}), ["method=tcmgan_small"], tmp_path)
    for run in runs:
        run.directory.create(run.name, "s")
    found = Dispatcher(ClusterSettings(kind="slurm", parallel=2, retries=0), "name", runs, tmp_path / "logs")
    found.poll()
    found.poll()
    assert (len(found.jobs), len(found.waiting)) == (2, 3)
    (tmp_path / "state").write_text("")
    carry_out(found)
    arrays = (tmp_path / "arrays").read_text().split()
    assert arrays.count("--array=0-1%2") == 2
    assert [journal(run)[-1]["status"] for run in runs] == ["failed"] * 5


def test_the_reason_of_a_job_is_a_ranks_own_error(tmp_path: Path) -> None:
    def reason(*texts: str) -> str:
        paths = [tmp_path / f"{rank}.err" for rank in range(len(texts))]
        for path, text in zip(paths, texts, strict=True):
            path.write_text(text)
        tasks = [SimpleNamespace(paths=SimpleNamespace(stderr=path)) for path in paths]
        return last_error(SimpleNamespace(num_tasks=len(tasks), task=lambda rank: tasks[rank]))

    step = "srun: launch/slurm: _step_signal: Terminating StepId=13.0\n"
    exited = "srun: error: node1: task 0: Exited with exit code 1\n"
    assert reason("error: train.device=cuda\n" + exited + step) == "error: train.device=cuda"
    assert reason(exited + step, "warning: x\nerror: a rank's\nsrun: error: node2: task 1: Killed\n") == "error: a rank's"
    assert (
        reason("warning: x\nRuntimeError: boom\n" + exited + step + "srun: error: node2: task 1: Killed\n")
        == "RuntimeError: boom"
    )
    assert reason("warning: x\nsrun: error: node1: task 0: Killed\n" + step).endswith("task 0: Killed")
    assert reason(exited + step) == exited.strip()
    assert reason("") == ""


def test_a_rank_that_hangs_when_another_has_gone_is_killed(
    runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hangs(run: Path) -> None:
        import os
        from pathlib import Path

        if os.environ["SUBMITIT_LOCAL_GLOBALID"] == "1":
            (Path(run) / "pid").write_text(str(os.getpid()))
            os.kill(os.getpid(), 19)
        while not (Path(run) / "pid").is_file():
            pass

    monkeypatch.setattr(dispatch, "TrainJob", job(hangs))
    monkeypatch.setattr(dispatch, "GRACE", 0.5)
    carry_out(dispatcher(runs, tmp_path, ranks=2, retries=0))
    assert journal(runs[0])[-1]["status"] == "failed"
    assert gone(int((runs[0].directory.path / "pid").read_text()))


def gone(pid: int) -> bool:
    """Whether a process is dead; its parent, or the machine's first process, may not have asked for its status yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_the_job_of_a_killed_launcher_is_taken_up_and_can_be_stopped(
    runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def waits(run: Path) -> None:
        import os
        import time
        from pathlib import Path

        (Path(run) / "pid").write_text(str(os.getpid()))
        time.sleep(60)

    monkeypatch.setattr(dispatch, "TrainJob", job(waits))
    first = dispatcher(runs, tmp_path)
    first.poll()
    pid = runs[0].directory.path / "pid"
    while not pid.is_file() or not pid.read_text():
        time.sleep(0.05)
    second = dispatcher(runs, tmp_path)
    second.poll()
    assert [started.job.job_id for started in second.jobs.values()] == [started.job.job_id for started in first.jobs.values()]
    second.cancel()
    assert gone(int(pid.read_text()))


def test_a_run_that_another_process_trains_is_waited_for(runs: list[Run], tmp_path: Path) -> None:
    found = dispatcher(runs, tmp_path)
    with runs[0].directory.lock():
        found.poll()
        assert (found.busy, found.jobs) == (True, {})


def test_a_job_that_ends_while_its_ranks_live_on_is_not_settled(
    runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "TrainJob", job(lambda run: None))
    found = dispatcher(runs, tmp_path, retries=0)
    found.poll()
    (started,) = found.jobs.values()
    with runs[0].directory.lock():
        os.kill(int(started.job.job_id), signal.SIGKILL)
        while not started.job.done():
            time.sleep(0.05)
        found.poll()
        assert found.jobs
    carry_out(found)
    assert journal(runs[0])[-1]["status"] == "failed"


def end(status: str, reason: str = "why", retry: bool = False) -> Line:
    return {"kind": "end", "status": status, "reason": reason, "retry": retry}


@pytest.mark.parametrize(
    ("last", "state", "words", "status"),
    [
        (end("finished"), "COMPLETED", "", "finished"),
        (end("failed", "g_loss was not finite by step 6"), "FAILED", "error: g_loss was not finite", "failed"),
        (end("failed", "a rank was lost", retry=True), "FAILED", "", "retry"),
        (end("failed", "a rank was lost", retry=True), "FAILED", "error: a rank was lost", "retry"),
        (end("stopped"), "FAILED", "UncompletedJobError: Job not requeued because: timed-out too many times.", "failed"),
        (None, "FAILED", "error: data.store=x.zarr is absent", "failed"),
        (None, "FAILED", "error: port 23456 is taken on node1, perhaps by another run", "retry"),
        (end("failed", "port 23456 is taken on node1"), "FAILED", "", "retry"),
        (end("stopped"), "COMPLETED", "", "retry"),
        ({"kind": "metrics"}, "FAILED", "error: rank 0 is stopped or lost", "retry"),
        (end("stopped"), "", "", "stopped"),
        (end("stopped"), "CANCELLED", "", "stopped"),
        (end("stopped"), "PREEMPTED", "", "retry"),
        (end("stopped"), "TIMEOUT", "", "retry"),
        (None, "NODE_FAIL", "", "retry"),
        (None, "CANCELLED", "", "stopped"),
        ({"kind": "metrics"}, "", "Killed", "retry"),
        ({"kind": "checkpoint"}, "OUT_OF_MEMORY", "", "retry"),
    ],
)
def test_transient_failures_are_retried(last: Line | None, state: str, words: str, status: str) -> None:
    assert outcome_of(last, state, words).status == status


@pytest.mark.parametrize("state", ["FAILED", "COMPLETED", "TIMEOUT", "PREEMPTED"])
def test_a_time_limit_is_no_death(state: str) -> None:
    assert not outcome_of(end("stopped"), state, "FileNotFoundError: scontrol").died
    assert outcome_of({"kind": "metrics"}, state, "").died == (state in ("FAILED", "COMPLETED"))


def test_an_end_that_an_earlier_job_wrote_says_nothing_of_this_one(
    runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Journal(runs[0].directory.journal).write("end", status="failed", reason="of old", retry=False)

    def dies(run: Path) -> None:
        import os

        os.kill(os.getpid(), 9)

    monkeypatch.setattr(dispatch, "TrainJob", job(dies))
    carry_out(dispatcher(runs, tmp_path, retries=1))
    assert [line["status"] for line in journal(runs[0])] == ["failed", "stopped", "failed"]

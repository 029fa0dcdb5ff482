"""Sites that are set up in other ways than the other tests' Slurm: by the lab's own configuration, and by stand-ins for its commands on the PATH."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from preprocess.cohort import Cohort
from preprocess.shared.errors import SettingError
from slurm import squeue
from slurm.cluster import ClusterSettings, submit

Start = Callable[..., Any]
LAUNCH = str(Path(__file__).parents[3] / "slurm" / "launch.py")
ALONE = ("cluster.nodes=1", "cluster.ranks=1")
SHORT = (*ALONE, "train.epochs=1", "train.steps_per_epoch=4", "train.validate_every=1")


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Puts a shell script into a folder of its own; returns the folder."""

    def write(name: str, text: str) -> Path:
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).unlink(missing_ok=True)
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
        return tmp_path / "bin"

    return write


def test_inside_a_job_of_other_resources_where_mem_is_forbidden_and_nothing_is_exported(
    lab: Any, start: Start, script: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sbatch = shutil.which("sbatch")
    shim = script("sbatch", f'grep -q -- "--mem=" "$1" && {{ echo "no --mem here" >&2; exit 1; }}\nexec {sbatch} "$@"')
    inherited = {
        "PATH": f"{shim}:{os.environ['PATH']}", "SBATCH_EXPORT": "NONE", "SBATCH_TIMELIMIT": "1", "SLURM_MEM_PER_CPU": "900",
        "SLURM_CPU_BIND": "quiet,mask_cpu:0x1", "SLURM_CPU_BIND_TYPE": "mask_cpu:", "SLURM_CPU_BIND_LIST": "0x1", "SLURM_NTASKS": "3",
    }  # fmt: skip
    for name, value in inherited.items():
        monkeypatch.setenv(name, value)
    launched = start(*SHORT, "cluster.cpus=2", "cluster.extra.mem-per-cpu=1G", "train.steps_per_epoch=100", "cluster.retries=0")
    launched.until_step(1)
    assert len(os.sched_getaffinity(launched.rank(0))) == 2
    assert lab.slurm("squeue", "-h", "-o", "%l", "-j", launched.job) == "12:00:00"
    assert launched.ends() == 0, launched.said


def ids(folder: Path) -> list[str]:
    return sorted(str(json.loads(path.read_text())["id"]) for path in folder.glob("runs/single/*/job.json"))


@pytest.mark.parametrize(("partition", "runs"), [("main", 5), ("one", 2)])
def test_more_runs_than_a_site_takes_at_once_are_submitted_in_pieces(lab: Any, start: Start, partition: str, runs: int) -> None:
    """Arrays of at most four elements; one job of a user at a time."""
    begun = time.strftime("%Y-%m-%dT%H:%M:%S")
    seeds = f"sweep.axes.seed=[{','.join(map(str, range(runs)))}]"
    launched = start(*SHORT, seeds, f"cluster.partition={partition}", "cluster.minutes=50")
    assert launched.ends() == 0, launched.said
    listed = lab.slurm("sacct", "-X", "-n", "-P", "-o", "JobID", "--name=distsynth-single", "-S", begun).split()
    assert sorted(listed) == ids(launched.folder)
    assert len(listed) == runs


def test_a_cohort_in_more_parts_than_a_site_takes(lab: Any, phantoms: Path, tmp_path: Path) -> None:
    """One job at a time: the manifest's comes after that of the part."""
    cluster = ("cluster=slurm", "cluster.array=16", "cluster.cpus=1", "cluster.memory=2GB", "poll_seconds=0.5")
    site = ("cluster.partition=one", "cluster.minutes=50")
    words = (f"source={phantoms}", f"store={tmp_path / 'c.zarr'}", "recipe.n4.enabled=false")
    done = subprocess.run(
        [sys.executable, LAUNCH, "job=preprocess", *cluster, *site, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning: 16 parts are too many for this site, taking 8: " in done.stderr
    assert len(Cohort.open(tmp_path / "c.zarr").subjects) == 10


def test_nodes_without_the_clients_of_slurm(lab: Any, start: Start, script: Callable[[str, str], Path]) -> None:
    """A time limit and a pre-emption cost none of cluster.retries; and a rank's own error is shown, though srun's lines follow it."""
    srun = shutil.which("srun")
    noisy = f'{srun} "$@"; status=$?\nfor file in "$PWD"/runs/single/logs/*/*_0_log.err; do echo "srun: launch/slurm: _step_signal: Terminating '
    path = script("srun", noisy + 'StepId=13.0" >> $file; done\nexit $status')
    absent = ("srun", "squeue", "scontrol", "sbatch", "sinfo", "scancel", "sacct")
    for file in Path("/usr/bin").iterdir():
        if file.name not in absent and not (path / file.name).exists():
            (path / file.name).symlink_to(file)
    export = f"cluster.extra.export=ALL,PATH={path}"
    launched = start(*ALONE, export, "cluster.retries=0", "train.epochs=40", "train.steps_per_epoch=100")
    for number, name in enumerate(("USR2", "TERM"), 1):
        launched.until("begun again", lambda n=number: len(launched.starts) == n)
        reached = launched.starts[-1] + 10
        launched.until_step(reached)
        lab.slurm("scancel", f"--signal={name}", launched.job)
    launched.until("begun a third time", lambda: len(launched.starts) == 3)
    assert launched.starts[-1] > launched.starts[1] > 0
    assert launched.said.count("the launcher submits it again") == 2
    launched.process.kill()
    lab.slurm("scancel", launched.job)

    refused = start(*SHORT, export, "train.device=cuda", "cluster.retries=1")
    assert refused.ends() == 1
    assert "simo_tcmgan failed: train.device=cuda: local rank 0 sees 0 GPUs" in refused.said
    assert "submitted again" not in refused.said


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"partition": "gpuu"}, r"Invalid partition name specified\): check cluster.partition=gpuu$"),
        ({"gpus": 1}, r"Invalid generic resource \(gres\) specification\): check cluster.gpus=1$"),
        ({"account": "nobody"}, r"Invalid account or account/partition combination specified\): check cluster.account=nobody$"),
        ({"extra": {"qos": "vip"}}, r"Invalid qos specification\): check cluster.extra.qos$"),
        ({"memory": "900GB"}, r"Requested node configuration is not available\): check cluster.memory=900GB$"),
        ({"constraint": "a100"}, r"Invalid feature specification\): check cluster.constraint=a100$"),
        ({"extra": {"quality": "1"}}, r"unrecognized option '--quality=1'\): check cluster.extra=\{'quality': '1'\}$"),
    ],
)
def test_a_refusal_names_the_setting(
    lab: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], given: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SettingError, match=sentence) as caught:
        submit(ClusterSettings(kind="slurm", **given), "name", [print], tmp_path)
    assert str(caught.value).startswith("Slurm refused the jobs (")
    assert capfd.readouterr().err == ""


def test_a_job_that_slurm_takes_and_never_starts_is_explained(lab: Any) -> None:
    job = lab.slurm("sbatch", "--parsable", "--partition=one", "--time=600", "--output=/dev/null", "--wrap=true")
    try:
        deadline = time.monotonic() + 30
        sentence = f"Slurm does not start job {job} (PartitionTimeLimit): check cluster.minutes"
        while squeue.stuck([job]) != sentence:
            assert time.monotonic() < deadline
            time.sleep(0.5)
    finally:
        lab.slurm("scancel", job)


def test_auto_takes_slurm_only_if_it_answers(lab: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    try:
        squeue.absence.cache_clear()
        assert ClusterSettings().resolved == "slurm"
        squeue.absence.cache_clear()
        monkeypatch.setenv("SLURM_CONF", str(tmp_path / "none.conf"))
        assert ClusterSettings().resolved == "local"
        assert "sbatch is here, but Slurm does not answer" in ClusterSettings().why
    finally:
        squeue.absence.cache_clear()

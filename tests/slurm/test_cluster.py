"""What a run gets: its share of the machine, and the environment and options that Slurm is asked with."""

import os
from pathlib import Path

import pytest

from preprocess.shared.cores import cores
from preprocess.shared.errors import SettingError
from slurm import cluster, squeue
from slurm.cluster import ClusterSettings, outside_of_jobs, slurm_parameters
from slurm.job import rank_variables
from slurm.launch import Launch


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/user/me", {"user/cpu.max": "250000 100000", "user/me/cpu.max": "max 100000"}, 2),
        ("0::/", {"cpu.max": "50000 100000"}, 1),
        ("0::/", {}, 8),
        ("3:cpu,cpuacct:/box\n0::/", {"cpu/box/cpu.cfs_quota_us": "300000\n", "cpu/box/cpu.cfs_period_us": "100000\n"}, 3),
        ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
    ],
)
def test_the_cores_are_those_of_the_mask_and_the_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str, files: dict[str, str], expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    (tmp_path / "groups").write_text(groups + "\n")
    for name, text in files.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text(text)
    assert cores(tmp_path / "root", tmp_path / "groups") == expected


def test_ranks_and_runs_share_the_cores_and_do_not_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "cores", lambda: 8)
    assert ClusterSettings(kind="local", cpus=16).threads == 8
    assert ClusterSettings(kind="local", cpus=16, ranks=2, parallel=2).threads == 2
    assert ClusterSettings(kind="local", cpus=16, ranks=4, parallel=4).threads == 1
    assert ClusterSettings(kind="slurm", cpus=16, parallel=4).threads == 16
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    monkeypatch.setenv("SUBMITIT_LOCAL_JOB_ID", "7")
    assert {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "2"}.items() <= rank_variables("run", 2).items()


def test_a_job_is_submitted_as_from_a_login_node(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = [
        *("SLURM_MEM_PER_CPU", "SLURM_CPU_BIND", "SLURM_NTASKS", "SRUN_CPUS_PER_TASK", "PMI_RANK", "PMIX_ID", "SBATCH_TIMELIMIT"),
        *("SBATCH_WAIT", "SBATCH_ACCOUNT", "SBATCH_MEM_PER_NODE", "SBATCH_MEM_PER_CPU", "SBATCH_QOS", "SBATCH_GRES"),
    ]
    kept = ["SLURM_CONF", "SLURM_CLUSTERS", "SBATCH_PARTITION", "SBATCH_RESERVATION", "SBATCH_EXPORT", "HOME"]
    for name in (*gone, *kept):
        monkeypatch.setenv(name, "x")
    before = dict(os.environ)
    with outside_of_jobs(ClusterSettings(kind="slurm", account="lab", extra={"qos": "low"})):
        assert [name for name in gone if name in os.environ] == []
        assert [name for name in kept if name not in os.environ] == []
    assert dict(os.environ) == before
    with outside_of_jobs(ClusterSettings(kind="slurm", memory="")):
        assert {"SBATCH_MEM_PER_NODE", "SBATCH_ACCOUNT", "SBATCH_QOS"} < os.environ.keys()


def test_an_option_that_is_given_in_its_own_words_replaces_ours() -> None:
    def given(**extra: str) -> dict[str, object]:
        asked = ClusterSettings(
            kind="slurm", gpus=1, cpus=4, extra={name.replace("_", "-"): value for name, value in extra.items()}
        )
        return slurm_parameters(asked, "name")

    assert given()["mem"] == "16GB"
    assert "--cpus-per-task=4" in given()["srun_args"]  # type: ignore[operator]
    assert "--cpus-per-task=6" in given(cpus_per_task="6")["srun_args"]  # type: ignore[operator]
    for ours, theirs in (
        ("mem", "mem_per_cpu"),
        ("mem", "mem_per_gpu"),
        ("gpus_per_node", "gpus"),
        ("cpus_per_task", "cpus_per_gpu"),
    ):
        assert ours not in given(**{theirs: "1"})
    assert "gpus_per_node" not in given(gres="gpu:v100:1")
    assert "gpus_per_node" in given(gres="scratch:10G")
    assert given(exclusive="")["additional_parameters"] == {"requeue": True, "exclusive": True}


def test_auto_says_what_it_took_and_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name, script, kind, why in (
        ("nothing", "", "local", "there is no sbatch on the PATH"),
        ("sbatch", "exit 0", "local", "sbatch is here, but Slurm does not answer ("),
        (
            "sinfo",
            "echo error: Unable to contact slurm controller >&2; exit 1",
            "local",
            "(error: Unable to contact slurm controller)",
        ),
        ("sinfo", "echo 'gpu*'", "slurm", "(cluster.kind=auto: Slurm answers)"),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
        squeue.absence.cache_clear()
        settings = ClusterSettings()
        assert settings.resolved == kind
        assert why in settings.why
    squeue.absence.cache_clear()
    assert ClusterSettings(kind="local").why == ""


@pytest.mark.parametrize("runs", ["", "/data/50%job/runs", "a\\b", "a\nb"])
def test_a_folder_of_runs_whose_name_slurm_would_change_is_refused(runs: str) -> None:
    with pytest.raises(SettingError, match=r"^runs="):
        Launch(runs=runs)

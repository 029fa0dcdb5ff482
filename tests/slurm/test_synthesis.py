"""Synthesis through the launcher: the same words, the same files as the single-machine command's."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distsynth import synthesise
from preprocess.shared.errors import SettingError, StoreError, UserError
from slurm import cluster, launch, parts, squeue, synthesis
from slurm.cluster import ClusterSettings, LimitReached
from slurm.job import PartJob
from slurm.synthesis import launch_synthesis

ON_SLURM = ("job=synthesise", "cluster=slurm", "cluster.gpus=0", "cluster.cpus=1")


@pytest.fixture(scope="module")
def clinic(without_flair: Callable[[int], Path]) -> Path:
    return without_flair(6)


@pytest.fixture(scope="module")
def plain(clinic: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the single-machine command writes."""
    out = tmp_path_factory.mktemp("plain") / "out"
    assert synthesise.main([f"source={clinic}", f"out={out}", f"run={trained}", "threads=1"]) == 1
    return out


def images(out: Path) -> dict[str, bytes]:
    """Every file but the report."""
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name != "report.json"}


def patients(out: Path) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = json.loads((out / "report.json").read_text())["patients"]
    return content


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """A Slurm that runs parts at once, in another folder; those in `deadly` die before they have done anything, and `queue` is its queue."""
    fake = SimpleNamespace(deadly=set(), queue=set(), submitted=[], most=99)

    def job(number: int, part: PartJob) -> Any:
        paths = SimpleNamespace(result_pickle=tmp_path / f"result-{number}", stderr=tmp_path / f"stderr-{number}")
        made = SimpleNamespace(job_id=f"7_{number}", paths=paths, num_tasks=1, exception=lambda: None)
        made.task = lambda rank: made
        if number in fake.deadly:
            paths.stderr.write_text("import torch\nsrun: error: node1: task 0: Killed\nsrun: Force Terminated StepId=7.0\n")
            return made
        try:
            part()
        except UserError as error:
            made.exception = lambda error=error: error
        paths.result_pickle.touch()
        return made

    def submit(settings: ClusterSettings, name: str, parts: Sequence[PartJob], logs: Path) -> list[Any]:
        if len(parts) > fake.most:
            raise LimitReached("Slurm takes no more jobs at once")
        fake.settings, fake.submitted = settings, parts
        here = Path.cwd()
        os.chdir("/")
        try:
            return [job(number, part) for number, part in enumerate(parts)]
        finally:
            os.chdir(here)

    monkeypatch.setattr(parts, "submit", submit)
    monkeypatch.setattr(synthesis, "PATIENCE", 0.1)
    monkeypatch.setattr(
        squeue, "state", lambda job, ended=False: "NODE_FAIL" if ended else ("RUNNING" if job in fake.queue else "")
    )
    return fake


def test_on_this_machine_it_is_synthesise(plain: Path, clinic: Path, trained: Path, tmp_path: Path) -> None:
    words = [f"source={clinic}", f"out={tmp_path / 'out'}", f"run={trained}", "threads=1"]
    assert launch.main(["job=synthesize", "cluster=local", f"runs={tmp_path / 'runs'}", *words]) == 1
    assert images(tmp_path / "out") == images(plain)
    assert not (tmp_path / "runs").exists()


def test_the_parts_write_what_one_command_writes_and_their_reports_become_one(
    slurm: SimpleNamespace, plain: Path, clinic: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [f"source={os.path.relpath(clinic)}", "out=out", f"run={os.path.relpath(trained)}"]
    assert launch.main([*ON_SLURM, "cluster.array=3", *words]) == 1
    said = capsys.readouterr().out
    assert images(tmp_path / "out") == images(plain)
    (aside,) = [patient for patient in patients(tmp_path / "out") if patient["status"] == "set aside"]
    assert f"set aside: {aside['why']}\n" in said
    assert "cannot be read" in aside["why"]
    assert "5 synthesised, 1 set aside; images and pictures are in out, the report is out/report.json" in said
    moved = json.loads(json.dumps(patients(plain)).replace(str(plain), str(tmp_path / "out")))
    assert patients(tmp_path / "out") == moved
    assert json.loads((tmp_path / "out" / "report.json").read_text())["settings"].keys() == {
        *json.loads((plain / "report.json").read_text())["settings"]
    }


def test_where_the_site_takes_fewer_parts_they_are_larger(
    slurm: SimpleNamespace, plain: Path, clinic: Path, trained: Path, tmp_path: Path, capsys: Any
) -> None:
    slurm.most = 2
    words = [*ON_SLURM, "cluster.array=5", f"source={clinic}", f"out={tmp_path / 'out'}", f"run={trained}"]
    assert launch.main(words) == 1
    assert [word for part in slurm.submitted for word in part.words if word.startswith("part=")] == ["part=1/2", "part=2/2"]
    assert images(tmp_path / "out") == images(plain)
    said = capsys.readouterr()
    assert "Slurm job 7 (2 parts): it continues" in said.out
    assert "warning: 5 parts are too many for this site, taking 2: Slurm takes no more" in said.err
    assert not (tmp_path / "out" / ".launched.json").exists()


def test_each_part_has_what_was_asked_for(
    slurm: SimpleNamespace, clinic: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = next(clinic.rglob("*000_1_t1.nii.gz"))
    words = [f"t1={scan}", f"t2={str(scan).replace('_t1.', '_t2.')}", f"out={tmp_path / 'out'}", f"run={trained}"]
    assert launch.main([*ON_SLURM, "cluster.nodes=2", "cluster.ranks=2", "cluster.gpus=1", *words]) == 0
    (part,) = slurm.submitted  # one patient
    assert {"part=1/1", "threads=1", "continue=true"} < set(part.words)
    assert not any(word.startswith("device=") for word in part.words)
    assert (slurm.settings.nodes, slurm.settings.ranks, slurm.settings.gpus) == (1, 1, 1)
    assert launch.main([*ON_SLURM, "cluster.gpus=1", "device=cpu", "threads=2", *words]) == 0
    assert slurm.settings.gpus == 0
    assert "threads=1" not in slurm.submitted[0].words
    assert [patient["status"] for patient in patients(tmp_path / "out")] == ["kept"]


def test_a_part_that_died_is_named_and_the_same_command_continues(
    slurm: SimpleNamespace, plain: Path, clinic: Path, trained: Path, tmp_path: Path, capsys: Any
) -> None:
    words = [*ON_SLURM, "cluster.array=2", f"source={clinic}", f"out={tmp_path / 'out'}", f"run={trained}"]
    slurm.deadly = {0}
    assert launch.main(words) == 1
    said = capsys.readouterr()
    assert "part 1/2 did not finish: srun: error: node1: task 0: Killed (Slurm: NODE_FAIL) (see " in said.err
    assert "the same command continues" in said.err
    assert "2 synthesised" in said.out.replace("\n", " ")
    assert sum("part 1/2 did not finish" in patient["why"] for patient in patients(tmp_path / "out")) == 3
    slurm.deadly = set()
    assert launch.main(words) == 1
    assert images(tmp_path / "out") == images(plain)
    assert [patient["status"] for patient in patients(tmp_path / "out")].count("kept") == 2
    slurm.deadly = {0, 1}
    with pytest.raises(UserError, match=r"no patient could be synthesised; the first: .* part 1/2 did not finish"):
        launch.main(words)


def test_a_part_whose_patients_are_all_set_aside_has_finished(
    slurm: SimpleNamespace, clinic: Path, trained: Path, tmp_path: Path, capsys: Any
) -> None:
    words = [f"source={clinic}", f"out={tmp_path / 'out'}", f"run={trained}"]
    assert launch.main([*ON_SLURM, "cluster.array=20", *words]) == 1
    assert len(slurm.submitted) == 6  # not more than patients
    said = capsys.readouterr()
    assert "5 synthesised, 1 set aside" in said.out
    assert "did not finish" not in said.err


def test_a_launcher_that_was_stopped_watches_the_same_array_again(
    slurm: SimpleNamespace, clinic: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    words = [*ON_SLURM, "cluster.array=2", f"source={clinic}", f"out={tmp_path / 'out'}", f"run={trained}"]

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(synthesis, "watch", stopped)
        with pytest.raises(KeyboardInterrupt):
            launch.main(words)
    assert not (tmp_path / "out" / "report.json").exists()
    assert (tmp_path / "out" / "report-2-of-2.json").exists()
    slurm.submitted, slurm.queue = [], {"7"}
    with pytest.raises(StoreError, match=r"Slurm job 7 still writes to out=.* with other settings: wait for it, or scancel 7"):
        launch.main([*words, "tta=flip"])
    slurm.queue = set()
    capsys.readouterr()
    assert launch.main(words) == 1
    assert slurm.submitted == []
    assert "Slurm job 7 (2 parts), launched before, has ended" in capsys.readouterr().out
    assert len(patients(tmp_path / "out")) == 6


def test_the_plan_is_shown_and_nothing_done(clinic: Path, trained: Path, tmp_path: Path, capsys: Any) -> None:
    source = tmp_path / "source"
    shutil.copytree(clinic, source)
    next(source.rglob("*000_1_t2.nii.gz")).unlink()
    words = [f"source={source}", f"out={tmp_path / 'out'}", f"run={trained}", "dry_run=true"]
    assert launch.main([*ON_SLURM, "cluster.array=3", *words]) == 0
    assert capsys.readouterr().out.splitlines()[-3:] == [
        f"model {trained}: T1, T2 -> FLAIR",
        "will be set aside: Brats18_PHANTOM_000_1: trained makes FLAIR from T1 and T2, and there is only T1 and T1c",
        "5 of 6 patients to synthesise, in 3 parts on slurm, 1 node x 1 rank, 1 core each",
    ]
    assert not (tmp_path / "out").exists()


def test_a_dry_run_checks_the_folder_to_write_to(clinic: Path, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.json").write_text("mine")
    words = [f"source={clinic}", f"out={tmp_path / 'out'}", f"run={trained}"]
    for where in (["job=synthesise", "cluster=local"], ON_SLURM):
        with pytest.raises(StoreError, match="exists and is no report of this command: give another out="):
            launch.main([*where, *words, "dry_run=true"])
    with pytest.raises(SettingError, match="threads=999: this process may use"):
        launch.main(["job=synthesise", "cluster=local", *words, "dry_run=true", "threads=999"])


def test_where_nothing_is_missing_nothing_is_submitted(
    slurm: SimpleNamespace, phantoms: Path, trained: Path, tmp_path: Path
) -> None:
    assert launch.main([*ON_SLURM, f"source={phantoms}", f"out={tmp_path / 'out'}", f"run={trained}"]) == 0
    assert slurm.submitted == []
    assert {patient["status"] for patient in patients(tmp_path / "out")} == {"nothing missing"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["part=1/2"], "part=1/2 is set by the launcher: leave it out"),
        (["outputs=[t3]"], "outputs=t3 must be missing, all, or contrasts"),
        (["outputs=[t1c]"], "outputs=t1c: run=.* makes flair"),
        (["sorce=x"], "did you mean source"),
        (["run=nowhere"], "run=nowhere does not exist"),
        (["source=nowhere"], "source=nowhere is not a folder"),
        (["device=cuda:1"], "device=cuda:1: choose auto, cpu or cuda"),
        (["device=cuda"], "device=cuda needs a GPU for each part: give cluster.gpus=1"),
    ],
)
def test_a_mistake_is_refused_before_anything_is_submitted(
    slurm: SimpleNamespace, clinic: Path, trained: Path, tmp_path: Path, words: list[str], sentence: str
) -> None:
    given = [f"source={clinic}", f"out={tmp_path / 'out'}", f"run={trained}", *words]
    with pytest.raises(UserError, match=sentence):
        launch_synthesis(ClusterSettings(kind="slurm"), given, tmp_path / "logs", 0.1, dry_run=False)
    assert slurm.submitted == []
    assert not list(tmp_path.iterdir())


def test_without_slurm_it_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SettingError, match=r"cluster.kind=slurm needs Slurm's sbatch on the PATH"):
        cluster.submit(ClusterSettings(kind="slurm"), "name", [], tmp_path / "logs")

"""What somebody else may have left in a run's folder or written into a name ends nothing and is never obeyed."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from distsynth import config as configuration
from distsynth.config import compose
from distsynth.evaluation import earlier, figures, finished
from distsynth.evaluation.sweep_scores import read_runs
from distsynth.run_directory import RunDirectory
from distsynth.tracking.journal import Journal, write_end
from distsynth.training import checkpoint
from preprocess.shared.errors import SettingError, StoreError
from preprocess.shared.files import write_json

Runner = Callable[..., subprocess.CompletedProcess[str]]
ESCAPE = "\x1b]0;owned\x07\x1b[2J"


@pytest.mark.parametrize(
    "word",
    ["data.store=${oc.env:HOME}", 'data.external.x="\\x24{oc.env:HOME}"', "seed=${oc.decode:1}", "train.lr=${seed}",
     "variant={name: x, inputs: [t1], outputs: ['${oc.env:HOME}']}", "method.name=${oc.env:USER}", "data.external.${oc.env:HOME}=x"],
)  # fmt: skip
def test_no_word_reads_the_environment(word: str) -> None:
    with pytest.raises(SettingError) as refused:
        compose(["variant=siso", word])
    assert os.environ["HOME"] not in str(refused.value)
    assert "${" in str(refused.value)


@pytest.mark.parametrize("text", ["${oc.env:HOME}", '"\\x24{oc.env:HOME}"', "'${data.external}'"])
def test_no_config_of_a_run_reads_the_environment(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    configuration.save(compose(["variant=siso"]), path)
    path.write_text("".join(f"  store: {text}\n" if "store:" in line else line for line in path.read_text().splitlines(True)))
    with pytest.raises(SettingError, match=r"holds \$\{…\}, which is not resolved: write the value itself"):
        configuration.load(path)


@pytest.mark.parametrize("name", ["P$_$1", "$x", r"a$\frac$b", "ü$$_{"])
def test_a_patients_name_is_drawn_as_it_is(tmp_path: Path, name: str) -> None:
    volume = np.random.default_rng(0).normal(size=(1, 4, 16, 16)).astype(np.float32)
    brain, labels = np.ones((4, 16, 16), bool), np.zeros((4, 16, 16), np.uint8)
    figures.draw(tmp_path / "x.png", name, compose(["variant=siso"]).variant, volume, volume, volume + 0.1, brain, labels)
    assert (tmp_path / "x.png").stat().st_size > 1000


@pytest.mark.parametrize("content", ["nonsense", "a copy", "a pipe", "a folder"])
def test_a_planted_checkpoint_takes_no_place_of_the_runs_own(tmp_path: Path, content: str) -> None:
    for step in (1, 2):
        checkpoint.save_step({"position": {"total": step}, "w": torch.ones(3)}, tmp_path, step)
    for name in ("step-9999999999.pt", "step-zzz.pt"):
        planted = tmp_path / name
        if content == "a copy":
            shutil.copy(tmp_path / "step-0000000001.pt", planted)
        elif content == "a pipe":
            os.mkfifo(planted)
        elif content == "a folder":
            planted.mkdir()
        else:
            planted.write_bytes(b"nonsense")
    newest = checkpoint.newest(tmp_path)
    assert newest is not None
    assert newest[1].name == "step-0000000002.pt"
    checkpoint.save_step({"position": {"total": 3}}, tmp_path, 3)
    own = sorted(path.name for path in tmp_path.glob("step-000*.pt"))
    assert own == ["step-0000000002.pt", "step-0000000003.pt"]


def test_a_pipe_in_a_runs_folder_is_waited_for_by_nobody(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    for path in (run.journal, run.scores, run.checkpoints / "best.pt", run.evaluation / "finished-0.jsonl"):
        path.parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(path)
    with pytest.raises(StoreError, match="is not a plain file"):
        Journal(run.journal)
    write_end(run.journal, "failed", "x")
    with pytest.raises(StoreError, match="is not a plain file"):
        checkpoint.load(run.checkpoints / "best.pt")
    assert earlier.read(run) is None
    with pytest.raises(StoreError, match="is not a plain file"):
        list(finished.read(run.evaluation, "x"))


@pytest.mark.parametrize("damage", ["scores", "list", "deep", "config"])
def test_a_run_whose_scores_are_damaged_leaves_the_others_their_table(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, name in enumerate("ab"):
        run = RunDirectory(tmp_path / name)
        run.create(name, "s")
        configuration.save(compose([f"seed={seed}", "train.lr=1e-3"] if name == "a" else [f"seed={seed}"]), run.config)
        write_json(run.scores, {"rows": [], "cohorts": {}})
    bad = RunDirectory(tmp_path / "a")
    damaged = bad.config if damage == "config" else bad.scores
    damaged.write_text({"scores": "{", "list": "[]", "deep": "[" * 100_000, "config": "seed: [1"}[damage])
    scored, without = read_runs(tmp_path)
    assert ([each.name for each in scored], without) == (["b"], ["a"])
    (warning,) = capsys.readouterr().err.splitlines()
    assert str(damaged) in warning


@pytest.mark.parametrize(
    "words",
    [
        ("distsynth.train", f"variant={ESCAPE}"),
        ("distsynth.evaluate", f"no{ESCAPE}"),
        ("distsynth.tracking.sync", f"no{ESCAPE}\u202e\x9b2J"),
        ("preprocess.cohort", "verify", f"no{ESCAPE}"),
        ("preprocess.to_zarr", f"source=no{ESCAPE}", "store=x"),
        ("slurm.launch", f"sweep.axes.variant=[{ESCAPE}]", "data.store=x"),
    ],
    ids=lambda words: words[0],
)
def test_no_control_character_reaches_the_terminal(words: tuple[str, ...], tmp_path: Path, run: Runner) -> None:
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(done.stdout + done.stderr)
    assert "\\x1b]0;owned\\x07" in done.stderr


def test_a_name_that_is_no_utf_8_is_printed(tmp_path: Path, run: Runner) -> None:
    done = run("distsynth.evaluate", os.fsdecode(b"r\xff"), cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr

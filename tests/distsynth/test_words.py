"""The words of train, evaluate, export and synthesise: a run by its path, a misspelt one with the nearest name, a new run's cohort."""

from pathlib import Path

import pytest

from distsynth import evaluate, export, synthesise, train
from distsynth.run_directory import RunDirectory, run_of
from preprocess.shared.errors import UserError


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("t1.nii.gz").touch()
    for name in ("first", "lr/simo", "lr/mimo"):
        RunDirectory(Path("runs") / name).create(name, "runs")
    return tmp_path / "runs"


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("runs/frist", "runs/first"),
        ("runs/lr/sim", "runs/lr/simo"),
        ("runs/l/mimo", "runs/lr/mimo"),
        ("first", "runs/first"),
        ("mimo", "runs/lr/mimo"),
        ("rums/first", ""),
    ],
)
def test_a_run_that_does_not_exist_is_refused_with_the_nearest_name(runs: Path, asked: str, meant: str) -> None:
    for main, words in ((evaluate.main, []), (export.main, ["out=m.zip"]), (synthesise.main, ["out=o", "t1=t1.nii.gz"])):
        with pytest.raises(UserError) as caught:
            main([asked if main is not synthesise.main else f"run={asked}", *words])
        assert str(caught.value).startswith(f"run={asked} does not exist: ")
        assert (f"did you mean run={meant}?" in str(caught.value)) == bool(meant), caught.value
    assert sorted(path.name for path in runs.parent.iterdir()) == ["runs", "t1.nii.gz"]


def test_a_sweep_is_no_run(runs: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"run=runs/lr is not a run directory, it has no run.json: give one of its runs, for example run=runs/lr/mimo",
    ):
        evaluate.main(["run=runs/lr"])


def test_a_new_run_names_its_cohort(runs: Path) -> None:
    for words in (["variant=siso"], ["run=runs/second", "train.epochs=1"], []):
        with pytest.raises(UserError, match=r"^a new run needs data.store=PATH, the cohort to train on"):
            train.main(words)
    with pytest.raises(UserError, match=r"^run=runs/frist is not there to be resumed: did you mean run=runs/first\? A new run"):
        train.main(["run=runs/frist"])
    assert sorted(path.name for path in runs.iterdir()) == ["first", "lr"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["run", "=", "x"], "no spaces around =: write run=x"),
        (["run=", "x"], "no spaces around =: write run=x"),
        (["--run=x"], "write key=value without dashes: run=x in place of --run=x"),
        (["--run", "x"], "write key=value without dashes: run=x in place of --run"),
        (["data.store", "data/x.zarr", "run=x"], "data.store lacks its value: write data.store=data/x.zarr"),
        (["runs/first", "data.external.x"], "data.external.x lacks its value: write data.external.x=VALUE"),
        (["run="], "run= is empty: give the run's folder, for example run=runs/first"),
        (["run=a", "run=b"], "run=a and run=b are both given: give the run directory once"),
    ],
)
def test_a_misspelt_run_is_answered_with_the_right_word(words: list[str], sentence: str) -> None:
    for call in (run_of, train.main, evaluate.main):
        with pytest.raises(UserError) as caught:
            call(words)
        assert str(caught.value) == sentence
    if words[0].startswith("--"):
        with pytest.raises(UserError, match=r"^--run is not known: write key=value without dashes, run=x;"):
            synthesise.main(words)

"""A training that is started by itself ends with its table, where its figures are and what to do next; its run goes into MLflow."""

from pathlib import Path
from typing import Any

import pytest

from distsynth import train
from distsynth.tracking import sync
from distsynth.tracking.sync import Sync
from preprocess.shared.errors import UserError

TINY = [
    "variant=mimo",
    "method=unet_small",
    "method.width=4",
    "train.epochs=1",
    "train.steps_per_epoch=2",
    "train.log_every=1",
    "evaluate.figures=1",
]


@pytest.fixture(scope="module")
def trained(store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A lone run, and what it has printed."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with capture(patch) as printed:
            assert train.main([*TINY, f"data.store={store}", "run=runs/first"]) == 0
    return folder, "\n".join(printed)


def capture(patch: pytest.MonkeyPatch) -> Any:
    from contextlib import contextmanager

    @contextmanager
    def capturing() -> Any:
        lines: list[str] = []
        patch.setattr("builtins.print", lambda *words, **_: lines.append(" ".join(map(str, words))))
        yield lines

    return capturing()


def test_a_lone_run_ends_with_its_table_its_figures_and_what_to_do_next(trained: tuple[Path, str]) -> None:
    folder, text = trained
    assert "PSNR in dB, higher is better, mean over 2 test patients" in text
    rows = [line for line in text.splitlines() if line.startswith("| mimo")]
    assert [row.split("|")[2].strip() for row in rows] == ["T1c", "FLAIR"]
    assert all("yes, +" in row or "NO, -" in row for row in rows)
    assert text.splitlines()[-5:] == [
        "scores: runs/first/evaluation/scores.json; figures: runs/first/figures (1)",
        "next:",
        "  python -m distsynth.evaluate runs/first data.external.NAME=STORE.zarr    score it on another cohort",
        "  python -m distsynth.synthesise run=runs/first source=FOLDER out=FOLDER   make what patients lack",
        "  python -m distsynth.tracking.sync runs/first                             bring it into MLflow; prints how to open the UI",
    ]
    assert list((folder / "runs" / "first" / "figures").glob("*.png"))


def test_a_lone_run_is_brought_into_mlflow_as_often_as_one_likes(
    trained: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = trained
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for words in (["runs/first"], ["run=runs/first"], ["sweep=runs/first"]):
        assert sync.main(words) == 0
        assert f"ui --backend-store-uri sqlite:///{folder / 'runs' / 'mlflow.db'}" in capsys.readouterr().out
    again = Sync(folder / "runs" / "first")
    (run,) = again.client.search_runs([again.experiment])
    assert (run.info.run_name, run.info.status) == ("first", "FINISHED")
    assert "mlflow.parentRunId" not in run.data.tags
    assert any(name.startswith("best/test/flair/brain/psnr") for name in run.data.metrics)
    for name in run.data.metrics:
        steps = [point.step for point in again.client.get_metric_history(run.info.run_id, name)]
        assert len(steps) == len(set(steps)), name
    assert {file.path for file in again.client.list_artifacts(run.info.run_id)} >= {"config.yaml", "evaluation", "figures"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["runs/frist"], r"run=runs/frist does not exist: did you mean run=runs/first\?"),
        (["sweep=runs/frist"], r"sweep=runs/frist does not exist: did you mean sweep=runs/first\?"),
        (["runs"], "run=runs is not a run directory, it has no run.json: give one of its runs, for example run=runs/first"),
        ([], "give the folder of a run or of a sweep"),
    ],
)
def test_what_is_neither_run_nor_sweep_is_one_sentence(
    trained: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, words: list[str], sentence: str
) -> None:
    monkeypatch.chdir(trained[0])
    with pytest.raises(UserError, match=f"^{sentence}"):
        sync.main(words)


def test_a_run_in_the_default_folder_has_its_database_beside_the_sweeps(trained: tuple[Path, str], tmp_path: Path) -> None:
    import shutil

    shutil.copytree(trained[0] / "runs" / "first", tmp_path / "runs" / "alone" / "mimo_unet")
    assert Sync(tmp_path / "runs" / "alone" / "mimo_unet").uri == f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}"

"""A second evaluation adds to the scores, the figures and the judge's Dice of the first, as long as the checkpoint is the same."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from workbench import untrained_run

from distsynth import evaluate
from distsynth.evaluation import earlier
from distsynth.evaluation.scoring import best_baseline
from distsynth.evaluation.table import table_of_run
from distsynth.run_directory import RunDirectory
from distsynth.training import checkpoint

UNET = ["variant=mimo", "method=unet_small", "method.width=4"]


@pytest.fixture
def run(store: Path, tmp_path: Path) -> RunDirectory:
    return untrained_run(tmp_path / "run", *UNET, f"data.store={store}", "evaluate.figures=1", "evaluate.baselines=false")


def scores_of(run: RunDirectory) -> dict[str, Any]:
    scores: dict[str, Any] = json.loads(run.scores.read_text())
    return scores


def test_cohorts_figures_baselines_and_judge_are_added(
    run: RunDirectory, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge = untrained_run(tmp_path / "judge", "variant=mimo", "method=segment_small", "method.width=4", f"data.store={store}")
    path = str(run.path)
    for name in ("one", "two"):
        shutil.copytree(store, tmp_path / f"{name}.zarr")
    assert evaluate.main([path, f"data.external.one={tmp_path / 'one.zarr'}", "evaluate.baselines=true"]) == 0
    first = scores_of(run)
    assert evaluate.main([path, f"data.external.two={tmp_path / 'two.zarr'}"]) == 0
    second = scores_of(run)
    assert list(second["cohorts"]) == ["val", "test", "one", "two"]
    for name in ("val", "test", "one"):
        assert second["cohorts"][name] == first["cohorts"][name]  # also the baselines, which the second did not fit
    assert [row for row in second["rows"] if row["cohort"] != "two"] == first["rows"]
    assert (second["beaten_against"], second["copied"]) == (first["beaten_against"], first["copied"])
    assert best_baseline(second["cohorts"]["one"]["scores"]["flair"]["brain"], second["beaten_against"]) is not None
    assert {figure.name.split("_")[0] for figure in run.figures.glob("*.png")} == {"test", "one", "two"}
    assert evaluate.main([path, f"evaluate.judge={judge.path}"]) == 0
    third = scores_of(run)
    assert list(third["cohorts"]) == ["val", "test", "one", "two"]
    assert third["cohorts"]["two"] == second["cohorts"]["two"]
    tumour = third["cohorts"]["test"]["scores"]["flair"]["tumour"]
    assert {"psnr", "judge_dice"} <= tumour["synthesised"].keys()
    assert tumour["real"].keys() == {"judge_dice"}
    assert "linear" in tumour
    assert evaluate.main([path]) == 0
    assert scores_of(run) == third
    assert "dropped" not in capsys.readouterr().out
    assert "two: brain" in table_of_run(run)


def test_scores_of_another_checkpoint_are_dropped_with_a_sentence(
    run: RunDirectory, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(store, tmp_path / "one.zarr")
    assert evaluate.main([str(run.path), f"data.external.one={tmp_path / 'one.zarr'}"]) == 0
    state = checkpoint.load(run.checkpoints / "best.pt")
    moved = {name: value + 0.1 if torch.is_floating_point(value) else value for name, value in state["method"].items()}
    checkpoint.save({**state, "method": moved, "position": {"total": 9}}, run.checkpoints / "best.pt")
    capsys.readouterr()
    assert evaluate.main([str(run.path)]) == 0
    assert list(scores_of(run)["cohorts"]) == ["val", "test"]
    sentence = (
        "the earlier scores of one are of another checkpoint of this run and are dropped: data.external.one=… scores them again"
    )
    assert capsys.readouterr().out.splitlines()[0] == sentence


def row(cohort: str, psnr: float, **more: Any) -> dict[str, Any]:
    return {"cohort": cohort, "subject": "a", "modality": "flair", "model": "synthesised", "region": "brain", "psnr": psnr} | more


def scores(made_of: str, *rows: dict[str, Any], **more: Any) -> dict[str, Any]:
    names = dict.fromkeys(each["cohort"] for each in rows)
    known = {"made_of": made_of} if made_of else {}
    return (
        {
            "cohorts": {name: {"subjects": ["a"], "digest": name} for name in names},
            "rows": list(rows),
            "copied": {},
            "beaten_against": [],
        }
        | known
        | more
    )


def test_scores_that_do_not_say_whose_they_are_are_compared_by_what_both_have() -> None:
    """Those of an older version."""
    old = scores("", row("test", 20.0), row("clinic", 18.0))
    kept, note = earlier.added(old, scores("x", row("test", 20.0002)))
    assert (list(kept["cohorts"]), note) == (["test", "clinic"], "")
    new, note = earlier.added(old, scores("x", row("test", 21.0)))
    assert list(new["cohorts"]) == ["test"]
    assert "the earlier scores of clinic are of another checkpoint" in note


def test_another_cohort_of_the_same_name_replaces_the_first() -> None:
    old, new = scores("x", row("test", 20.0), row("clinic", 18.0)), scores("x", row("test", 20.0), row("clinic", 15.0))
    old["cohorts"]["clinic"]["digest"], new["cohorts"]["clinic"]["digest"] = "1", "2"
    new["rows"][1]["subject"] = "b"
    merged, note = earlier.added(old, new)
    assert [(each["cohort"], each["subject"]) for each in merged["rows"]] == [("test", "a"), ("clinic", "b")]
    assert note.startswith("the earlier scores of clinic are of another cohort of that name and are dropped")


def test_the_dice_of_two_judges_are_not_mixed() -> None:
    old = scores("x", row("test", 20.0, judge_dice=0.5), row("clinic", 18.0, judge_dice=0.4), judge="first")
    merged, note = earlier.added(old, scores("x", row("test", 20.0, judge_dice=0.7), judge="second"))
    assert {each["cohort"]: each.get("judge_dice") for each in merged["rows"]} == {"test": 0.7, "clinic": None}
    assert (merged["judge"], note) == ("second", "the Dice of another judge in clinic is dropped: name them again to judge them")


def test_damaged_scores_are_written_again(run: RunDirectory) -> None:
    run.scores.parent.mkdir()
    run.scores.write_text('{"cohorts": {')
    assert earlier.read(run) is None
    assert evaluate.main([str(run.path)]) == 0
    assert list(scores_of(run)["cohorts"]) == ["val", "test"]


def test_an_external_cohort_of_the_trainings_patients_is_scored_with_a_warning(
    run: RunDirectory, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main([str(run.path), f"data.external.self={store}"]) == 0
    seen = capsys.readouterr().err
    assert "warning: the run was trained or chosen on " in seen
    assert "patients of data.external.self, such as Brats18_PHANTOM_" in seen
    assert "their scores say nothing of new patients" in seen

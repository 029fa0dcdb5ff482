"""A run that makes no images is scored by Dice; its frozen segmentor judges the images of other runs; both as they are run."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distsynth import evaluate, train
from distsynth.config import Config, compose
from distsynth.data.cohorts import read_image
from distsynth.evaluation.judge import Judge
from distsynth.evaluation.scoring import flat
from distsynth.evaluation.table import write_table
from distsynth.preflight import check
from distsynth.tracking.journal import read
from preprocess.cohort import BACKGROUND, Cohort
from preprocess.shared.errors import SettingError, UserError

SEGMENT = ("method=segment_small", "method.width=2", "train.epochs=2", "train.steps_per_epoch=6", "train.lr=0.02")
UNET = ("method=unet_small", "method.width=2", "train.epochs=1", "train.steps_per_epoch=4", "evaluate.figures=1")


@pytest.fixture(scope="module")
def sweep(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A segmentor for simo's three outputs, and a U-Net for two of them that it judges."""
    folder = tmp_path_factory.mktemp("judged") / "sweep"
    for name, words in (
        ("segmentor", ("variant=simo", *SEGMENT)),
        ("unet", ("variant=mimo", *UNET, "evaluate.baselines=false", f"evaluate.judge={folder / 'segmentor'}")),
    ):
        assert train.main([f"run={folder / name}", f"data.store={store}", *words]) == 0
    return folder


def scores_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "evaluation" / "scores.json").read_text())
    return found


def journalled(run: Path) -> list[dict[str, float]]:
    return [line["values"] for line in read(run / "journal.jsonl")[0] if line["kind"] == "metrics"]


def test_a_segmentor_is_scored_by_the_dice_of_the_tumour_alone(sweep: Path, store: Path) -> None:
    scores = scores_of(sweep / "segmentor")
    assert scores["images"] is False
    assert set(scores["cohorts"]) == {"val", "test"}
    patients = len(Cohort.open(store).split("test"))
    for cohort in scores["cohorts"].values():
        assert set(cohort["scores"]) == {"t1", "t1c", "flair"}
        for regions in cohort["scores"].values():
            assert {region: set(models) for region, models in regions.items()} == {"tumour": {"segmentor"}}
    assert scores["cohorts"]["test"]["scores"]["t1"]["tumour"]["segmentor"]["dice"]["n"] == patients
    assert set(flat(scores)) == {f"{c}/{m}/tumour/dice" for c in ("val", "test") for m in ("t1", "t1c", "flair")}
    assert not (sweep / "segmentor" / "figures").exists()


def test_what_chose_its_checkpoint_is_what_the_evaluation_finds(sweep: Path) -> None:
    values = journalled(sweep / "segmentor")
    best = max((v for v in values if "val/t1/tumour/dice" in v), key=lambda v: sum(v.values()))
    (afterwards,) = (v for v in values if "best/val/t1/tumour/dice" in v)
    assert {name: value for name, value in afterwards.items() if name.startswith("best/val")} == {
        f"best/{name}": pytest.approx(value, abs=1e-6) for name, value in best.items()
    }


def test_the_judge_stands_beside_the_other_scores(sweep: Path) -> None:
    """On the real images it says what the segmentor's own run says of them: same weights, same patients, another variant."""
    scores, own = scores_of(sweep / "unet"), scores_of(sweep / "segmentor")
    assert scores["images"] is True
    for cohort in ("val", "test"):
        for modality in ("t1c", "flair"):
            models = scores["cohorts"][cohort]["scores"][modality]["tumour"]
            assert {"psnr", "judge_dice"} <= set(models["synthesised"])
            assert set(models["real"]) == {"judge_dice"}
            expected = own["cohorts"][cohort]["scores"][modality]["tumour"]["segmentor"]["dice"]
            assert models["real"]["judge_dice"] == {k: pytest.approx(v, abs=1e-6) for k, v in expected.items()}
    (sent,) = (v for v in journalled(sweep / "unet") if "best/test/t1c/brain/psnr" in v)
    assert {f"best/test/flair/tumour/judge_dice{which}" for which in ("", "_real")} <= sent.keys()
    assert {"dice", "judge_dice"} <= scores["cards"].keys()


def test_the_table_has_the_segmentor_apart_and_the_judge_in_a_column(sweep: Path) -> None:
    terminal = write_table(sweep)
    text = (sweep / "table.md").read_text()
    images, segmentors = text.split("\n\n")[1:3]
    assert "tumour found" in images.splitlines()[0]
    assert "mimo" in images
    assert "simo" not in images
    assert "(real: 0." in images
    head, _, *rows = segmentors.splitlines()
    assert [cell.strip() for cell in head.split("|")[2:6]] == ["tumour in", "best run", "val: Dice", "test: Dice"]
    assert [row.split("|")[2].strip() for row in rows] == ["T1", "T1c", "FLAIR"]
    shown = scores_of(sweep / "segmentor")["cohorts"]["test"]["scores"]["flair"]["tumour"]["segmentor"]["dice"]["mean"]
    assert rows[-1].split("|")[5].strip() == f"{shown:.3f}"
    for note in ("Tumour found: Dice", "Dice of the whole tumour, mean over patients"):
        assert note in text
        assert note in terminal
    assert len((sweep / "table.csv").read_text().splitlines()) == 1 + 2 + 3


def test_a_finished_run_is_judged_afterwards_and_on_another_cohort(
    sweep: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(sweep / "unet", tmp_path / "run")
    words = [f"run={tmp_path / 'run'}", "evaluate.figures=0"]
    assert evaluate.main([*words, "evaluate.judge=''"]) == 0
    assert "judge_dice" not in capsys.readouterr().out
    monkeypatch.chdir(sweep)
    assert evaluate.main([*words, "evaluate.judge=segmentor", f"data.external.again={store}"]) == 0
    assert "again/flair/tumour/judge_dice_real" in capsys.readouterr().out
    assert scores_of(tmp_path / "run")["cohorts"]["test"] == scores_of(sweep / "unet")["cohorts"]["test"]


@pytest.fixture
def judging(sweep: Path, store: Path) -> Callable[..., Config]:
    def config(*words: str) -> Config:
        return compose([f"data.store={store}", "variant=mimo", *UNET, f"evaluate.judge={sweep / 'segmentor'}", *words])

    return config


def test_the_judge_finds_more_where_there_is_more_and_looks_inside_the_brain_alone(
    judging: Callable[..., Config], store: Path
) -> None:
    """A segmentor that takes all that is bright for tumour; what lies outside the brain, where networks say anything, is not shown to it."""
    config = judging()
    cohort = Cohort.open(store)
    judge = Judge.of(config, cohort)
    assert judge is not None
    judge.method.segment = lambda image, target: (image > 0).float()  # type: ignore[method-assign]
    subject = cohort.split("test")[0]
    real = read_image(cohort, subject, ["t1c", "flair"], True)
    brain, tumour = real[0] != BACKGROUND, cohort.labels(subject) > 0
    high, low = (
        np.array([bound[name] for name in ("t1c", "flair")]) for bound in (judge.model.mapping.high, judge.model.mapping.low)
    )
    bright = np.where(tumour & brain, high[:, None, None, None], low[:, None, None, None]).astype(np.float32)
    outside = np.where(brain, bright, high[:, None, None, None]).astype(np.float32)
    for images in (bright, outside):
        assert judge.dice(images, ["t1c", "flair"], brain, tumour & brain) == {"t1c": 1, "flair": 1}
    missed = np.broadcast_to(low[:, None, None, None], bright.shape).astype(np.float32)
    assert all(value < 0.01 for value in judge.dice(missed, ["t1c", "flair"], brain, tumour & brain).values())


def test_a_run_reads_each_cohort_once(sweep: Path, store: Path, tmp_path: Path, read_files: Counter[Path]) -> None:
    """Also for its judge, for the run that its weights come from, and for a cohort that is external too."""
    shutil.copytree(store, other := tmp_path / "other.zarr")
    words = [f"data.external.other={other}", f"data.external.same={store}", f"evaluate.judge={sweep / 'segmentor'}",
             f"train.init_from={sweep / 'unet'}", "evaluate.baselines=true", "evaluate.figures=0"]  # fmt: skip
    assert train.main([f"run={tmp_path / 'run'}", f"data.store={store}", "variant=mimo", *UNET, *words]) == 0
    counts = dict(read_files)
    names = ["manifest.json", *(f"records/{subject}.json" for subject in Cohort.open(store).subjects)]
    assert counts == {path / name: 1 for path in (store, other) for name in names}


def test_a_judge_that_does_not_fit_is_refused_before_any_work(
    judging: Callable[..., Config], sweep: Path, store: Path, phantoms: Path, tmp_path: Path, run: Any
) -> None:
    assert Judge.of(judging("evaluate.judge=''"), Cohort.open(store)) is None
    other = tmp_path / "other.zarr"
    shutil.copytree(store, other)
    split = run("preprocess.to_zarr", f"source={phantoms}", f"store={other}", "recipe.n4.iterations=[5]", "split.seed=5")
    assert split.returncode == 0, split.stderr
    refused = {
        ("variant=siso",): "was trained on t1, t1c, flair and not on t2: give a run whose variant has them as outputs",
        (f"evaluate.judge={sweep / 'unet'}",): "is a run of method unet, which has no segmentor: give a run of segment or tcmgan",
        (f"data.store={other}",): "as it is split here, and may have seen the patients",
        SEGMENT: "cannot be used: method segment makes no images to judge",
    }
    for words, sentence in refused.items():
        with pytest.raises(SettingError, match=sentence) as caught:
            check(judging(*words), 1)
        assert str(caught.value).startswith("evaluate.judge=")
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"/nowhere/config\.yaml is absent"):
        check(judging("evaluate.judge=/nowhere"), 1)
    unscored = tmp_path / "unscored"
    shutil.copytree(sweep / "segmentor", unscored, ignore=shutil.ignore_patterns("best.pt"))
    with pytest.raises(UserError, match=r"best\.pt is not a readable checkpoint"):
        check(judging(f"evaluate.judge={unscored}"), 1)


def test_a_tcmgan_goes_on_from_the_segmentor_without_pretraining(
    sweep: Path, store: Path, tiny: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (
        *tiny,
        "method.segmentor.epochs=0",
        "train.epochs=1",
        "train.steps_per_epoch=1",
        "evaluate.baselines=false",
        "evaluate.figures=0",
    )
    assert train.main([f"run={tmp_path}", f"data.store={store}", *words, f"train.init_from={sweep / 'segmentor'}"]) == 0
    said = capsys.readouterr().out
    assert "the others, of critic, generator, start from new weights" in said
    assert "stage segmentor" not in said
    first, after = (
        torch.load(path / "checkpoints" / "best.pt", weights_only=True)["method"] for path in (sweep / "segmentor", tmp_path)
    )
    moved = max(float((after[name] - value).abs().max()) for name, value in first.items())
    assert 0 < moved < 0.01  # by one update of the joint stage

"""The statistics of paired comparisons against closed forms, scipy and a simulation; and the command on runs' scores."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from distsynth import compare
from distsynth.evaluation.numbers import margin_interval
from distsynth.evaluation.statistics import holm, interval, paired, rank_biserial, wilcoxon
from distsynth.evaluation.sweep_scores import Scored
from distsynth.evaluation.table import between
from distsynth.modalities import Variant
from distsynth.run_directory import RunDirectory
from preprocess.shared.errors import UserError


def test_the_interval_covers_the_mean_in_nine_of_ten_small_cohorts() -> None:
    rng = np.random.default_rng(0)
    for count, draw in ((5, rng.normal), (5, lambda size: rng.exponential(size=size) - 1), (20, rng.standard_normal)):
        covered = [low <= 0 <= high for low, high in (interval(draw(size=count)) for _ in range(200))]
        assert 0.9 <= np.mean(covered) <= 0.99


def test_intervals_shrink_with_patients_and_move_with_the_values() -> None:
    values = np.random.default_rng(0).normal(3, 1, 60)
    (low, high), (few_low, few_high) = interval(values), interval(values[:6])
    assert low < values.mean() < high
    assert high - low < 0.6 * (few_high - few_low)
    np.testing.assert_allclose(interval(10 + 2 * values), [10 + 2 * low, 10 + 2 * high])
    assert interval(np.ones(5)) == (1, 1)
    assert np.isnan(interval(values[:4])).all()


def test_wilcoxons_p_is_exact_for_few_patients() -> None:
    assert wilcoxon(np.array([1.0, 2, 3, 4, 5])) == 2 * 0.5**5
    assert wilcoxon(np.array([-1.0, 2, 3, 4, 5])) == 4 * 0.5**5  # sums of ranks 0 and 1, on both sides
    assert wilcoxon(np.zeros(4)) == 1
    assert np.isnan(wilcoxon(np.ones(1)))


def test_the_effect_size_is_the_ranks_that_favour_one() -> None:
    assert rank_biserial(np.array([1.0, 2, 3])) == 1
    assert rank_biserial(np.array([1.0, -2, 3])) == pytest.approx((1 + 3 - 2) / 6)
    assert rank_biserial(np.array([0.0, 0.0])) == 0
    a, b = np.array([1.0, 5, 2, 8]), np.array([2.0, 1, 1, 3])
    assert paired(a, b).effect == -paired(b, a).effect


def test_holm_multiplies_the_smallest_by_all_and_never_descends() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1, 1]
    adjusted = holm([0.02, float("nan"), 0.03])
    assert adjusted[0] == pytest.approx(0.04)
    assert np.isnan(adjusted[1])


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_what_is_not_a_number_is_never_averaged_in(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        paired(np.array(values), np.zeros(len(values)))


def scored(folder: Path, name: str, values: dict[str, float], models: tuple[str, ...] = ("synthesised",), **more: float) -> str:
    """A run with these PSNRs of FLAIR in the brain by patient; `more` is added to other models."""
    run = RunDirectory(folder / name)
    run.create(name, folder.name)
    rows = [
        {"cohort": "test", "subject": s, "modality": "flair", "model": model, "region": region, "psnr": v + more.get(model, 0)}
        for s, v in values.items()
        for model in models
        for region in ("brain", "tumour")
    ]
    run.evaluation.mkdir(parents=True)
    run.scores.write_text(json.dumps({"rows": rows, "cohorts": {"test": {"subjects": list(values), "scores": {}}}}))
    return str(run.path)


PATIENTS = {f"p{n}": 20 + n / 10 for n in range(8)}


def test_two_runs_are_compared_by_patient(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = scored(tmp_path, "a", {s: v + 0.5 + 0.01 * len(s) * v for s, v in PATIENTS.items()})
    b = scored(tmp_path, "b", dict(reversed(PATIENTS.items())))
    assert compare.main([a, b, f"out={tmp_path / 'rows.csv'}"]) == 0
    printed = capsys.readouterr().out
    (row,) = re.findall(r"\| FLAIR +\| brain .*", printed)
    assert [cell.strip() for cell in row.strip("| ").split("|")][2:6] == ["8", "21.26", "20.35", "+0.91"]
    assert "| 0.008 | 0.016   | +1.00" in row
    assert "warning: with fewer than 50 patients intervals and p are rough" in printed
    assert "median" not in printed
    assert (tmp_path / "rows.csv").read_text().startswith("output,region,patients,a,b,a - b,95 % interval,p,")


def test_a_run_is_compared_with_its_baseline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = scored(tmp_path, "a", PATIENTS, ("synthesised", "voxelwise"), voxelwise=-1.0)
    assert compare.main([a, "voxelwise", "regions=[brain]"]) == 0
    assert "| +1.00 | +1.00 to +1.00 |" in capsys.readouterr().out


def test_patients_of_one_run_only_are_said_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = scored(tmp_path, "a", {s: v for s, v in PATIENTS.items() if s != "p1"})
    b = scored(tmp_path, "b", {**PATIENTS, "other": 10.0})
    assert compare.main([a, b]) == 0
    printed = capsys.readouterr().out
    assert "warning: 2 patients that only one of the two has scored are left out, such as other" in printed
    assert "| 7 " in printed


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["{a}", "{none}"], "have no patient of test with psnr of the same output and region"),
        (["{a}", "{a}", "cohort=clinic"], "was not scored on cohort=clinic: on test"),
        (["{a}", "{a}", "metric=ssim"], "have no patient of test with ssim"),
        (["copy", "{a}"], "a=copy is a baseline"),
        (["{a}", "{empty}"], "has no scores: python -m distsynth.evaluate"),
        (["{a}", "{a}x"], r"did you mean run="),
        (["{a}"], "setting b is missing"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(tmp_path: Path, words: list[str], sentence: str) -> None:
    names = {"a": scored(tmp_path, "a", PATIENTS), "none": scored(tmp_path, "none", {"x": 1.0})}
    RunDirectory(tmp_path / "empty").create("empty", "s")
    with pytest.raises(UserError, match=sentence):
        compare.main([word.format(**names, empty=tmp_path / "empty") for word in words])


def test_the_tables_margin_has_the_interval_of_the_paired_patients() -> None:
    gains = np.random.default_rng(0).normal(0.5, 0.2, 8)
    rows = [
        {"cohort": "test", "subject": s, "modality": "flair", "model": model, "region": "brain", "psnr": psnr}
        for (s, v), gain in zip(PATIENTS.items(), gains, strict=True)
        for model, psnr in (("synthesised", v + gain), ("linear", v))
    ]
    run = Scored("run", "unet", Variant("v", ["t1"], ["flair"]), {"rows": rows, "cohorts": {}}, ())
    assert margin_interval(run, "flair", "linear") == pytest.approx(interval(gains), abs=1e-9)
    assert between(*margin_interval(run, "flair", "copy")) == "-"

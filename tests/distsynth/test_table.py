"""The sweep's table: chosen on val, reported on test, plain where a baseline was not beaten."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from distsynth import config as configuration
from distsynth.config import compose
from distsynth.evaluation.metrics import summarise
from distsynth.evaluation.table import write_table
from distsynth.run_directory import RunDirectory
from preprocess.shared.files import write_json


def cells(psnr: float, baseline: float) -> dict[str, Any]:
    def metric(value: float) -> dict[str, Any]:
        return {m: {"mean": value, "std": 0.0, "n": 2} for m in ("psnr", "ssim", "nmae")}

    return {r: {"synthesised": metric(psnr), "copy": metric(3.0), "voxelwise": metric(baseline)} for r in ("brain", "tumour")}


def add_run(
    sweep: Path,
    name: str,
    variant: str,
    val: float,
    test: float,
    baseline: float = 20.0,
    real: float = 15.0,
    words: Sequence[str] = (),
) -> None:
    config = compose([f"variant={variant}", f"train.lr={val}e-5", *words])
    run = RunDirectory(sweep / name)
    run.create(name, sweep.name)
    configuration.save(config, run.config)
    scored = {"val": (val, baseline), "test": (test, baseline), "real": (real, 15.5)}
    cohorts = {
        c: {"subjects": ["a", "b"], "scores": {m: cells(*pair) for m in config.variant.outputs}} for c, pair in scored.items()
    }
    copied = dict.fromkeys(config.variant.outputs, "t1")
    write_json(run.scores, {"cohorts": cohorts, "copied": copied, "beaten_against": ["copy", "voxelwise"]})


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, str]]:
    sweep = tmp_path / "lr"
    add_run(sweep, "miso_low", "miso_flair", val=21, test=25)
    add_run(sweep, "miso_high", "miso_flair", val=22, test=19)
    add_run(sweep, "mimo_only", "mimo", val=10, test=26)
    RunDirectory(sweep / "mimo_failed").create("mimo_failed", "lr")
    write_table(sweep)
    with (sweep / "table.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_best_run_per_variant_and_output_is_chosen_on_val(rows: list[dict[str, str]]) -> None:
    assert [(r["variant"], r["output"], r["best run"]) for r in rows] == [
        ("mimo", "T1c", "mimo_only"),
        ("mimo", "FLAIR", "mimo_only"),
        ("miso_flair", "FLAIR", "miso_high"),
    ]


def shown(text: str) -> list[dict[str, str]]:
    """The rows of the tables in a text."""
    rows: list[dict[str, str]] = []
    head: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if cells and cells[0] == "variant":
            head = cells
        elif cells and not set(cells[0]) <= {"-"}:
            rows.append(dict(zip(head, cells, strict=True)))
    return rows


def test_it_says_plainly_where_a_baseline_was_not_beaten(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    for text in (write_table(tmp_path / "lr"), (tmp_path / "lr" / "table.md").read_text()):
        table = shown(text)
        assert table[0]["beats it"] == "yes, +6.00"
        assert table[2]["beats it"] == "NO, -1.00"
        assert table[2]["best baseline"] == "20.00 (voxelwise)"
        assert table[2]["real: beats it"] == "NO, -0.50"


def test_the_csv_holds_one_number_a_column(rows: list[dict[str, str]]) -> None:
    words = {"variant", "output", "method", "best run", "val best baseline", "test best baseline", "real best baseline"}
    for row in rows:
        assert words <= row.keys()
        for name, value in row.items():
            assert name in words or value == "" or float(value) is not None, (name, value)
    third = rows[2]
    assert [third[f"test brain psnr {what}"] for what in ("mean", "sd", "n")] == ["19", "0.0", "2"]
    assert (third["test best baseline"], third["test best baseline psnr mean"]) == ("voxelwise", "20.0")
    assert (third["test psnr above best baseline"], third["real psnr above best baseline"]) == ("-1.0", "-0.5")
    assert {f"{cohort} {region} {metric} {what}" for cohort in ("val", "test", "real") for region in ("brain", "tumour")
            for metric in ("psnr", "ssim", "nmae") for what in ("mean", "sd", "n")} <= third.keys()  # fmt: skip


def test_the_terminal_names_what_is_shown(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    lines = write_table(tmp_path / "lr").splitlines()
    assert lines[1] == (
        "PSNR in dB, higher is better, mean over 2 test patients, in their brain and in their tumour; val: in the brain of 2 val patients, by "
        "which runs and checkpoints were chosen; real: in the brain of 2 patients of data.external.real."
    )
    assert lines[2].startswith("| variant")


def test_both_texts_name_the_runs_without_scores(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    terminal = write_table(tmp_path / "lr")
    for text in (terminal, (tmp_path / "lr" / "table.md").read_text()):
        assert "Without scores: mimo_failed." in text
        assert "miso_high" in text
        assert "NO, -1.00" in text


def test_a_sweep_without_any_scores_has_a_table_that_says_so(tmp_path: Path) -> None:
    RunDirectory(tmp_path / "s" / "only").create("only", "s")
    assert "Without scores: only." in write_table(tmp_path / "s")


def add_segmentor(sweep: Path, name: str, val: float, test: float) -> None:
    config = compose(["variant=miso_flair", "method=segment", f"train.lr={val}"])
    run = RunDirectory(sweep / name)
    run.create(name, sweep.name)
    configuration.save(config, run.config)
    cohorts = {
        c: {"subjects": ["a"], "scores": {"flair": {"tumour": {"segmentor": {"dice": {"mean": value, "std": 0.0, "n": 1}}}}}}
        for c, value in (("val", val), ("test", test))
    } | {"healthy": {"subjects": ["b"], "scores": {}}}
    write_json(run.scores, {"images": False, "cohorts": cohorts, "copied": {}, "beaten_against": []})


def test_runs_that_make_no_images_have_a_table_of_their_own(tmp_path: Path) -> None:
    sweep = tmp_path / "mixed"
    add_run(sweep, "image", "miso_flair", val=21, test=25)
    add_segmentor(sweep, "low", val=0.5, test=0.9)
    add_segmentor(sweep, "high", val=0.6, test=0.7)
    for text in (write_table(sweep), (sweep / "table.md").read_text()):
        rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
        assert rows[-1] == ["miso_flair", "FLAIR", "high", "0.600", "0.700", "-"]
        assert rows[-3] == ["variant", "tumour in", "best run", "val: Dice", "test: Dice", "healthy: Dice"]
        assert "Dice of the whole tumour, mean over patients" in text
    with (sweep / "table.csv").open() as file:
        images, segmentor = csv.DictReader(file)
    assert (images["best run"], images["test tumour dice mean"]) == ("image", "")
    assert (segmentor["best run"], segmentor["test brain psnr mean"], segmentor["test tumour dice mean"]) == ("high", "", "0.7")
    assert (segmentor["val tumour dice mean"], segmentor["val tumour dice n"]) == ("0.6", "1")


def test_segmentors_alone_need_no_columns_of_images(tmp_path: Path) -> None:
    add_segmentor(tmp_path / "s", "only", val=0.5, test=0.9)
    text = write_table(tmp_path / "s")
    assert "PSNR" not in text
    assert "Patients: val 1, test 1, healthy 1." in text


def add_fold(sweep: Path, fold: int, seed: int, lr: float, val: float, test: float) -> None:
    """A run with a patient in val and one in test, who are the fold's own."""
    config = compose(["variant=miso_flair", f"train.lr={lr}", f"data.fold={fold}", f"seed={seed}"])
    run = RunDirectory(sweep / f"lr-{lr}_fold-{fold}_seed-{seed}")
    run.create(run.path.name, sweep.name)
    configuration.save(config, run.config)
    rows = [
        {"cohort": cohort, "subject": f"{cohort}{fold}", "modality": "flair", "model": model, "region": region,
         "psnr": value, "ssim": 0.5, "nmae": 0.1}
        for cohort, psnr in (("val", val), ("test", test))
        for model, value in (("synthesised", psnr), ("copy", 20.0)) for region in ("brain", "tumour")
    ]  # fmt: skip
    cohorts = {
        c: {"subjects": [f"{c}{fold}"], "scores": summarise([r for r in rows if r["cohort"] == c])} for c in ("val", "test")
    }
    write_json(run.scores, {"cohorts": cohorts, "copied": {"flair": "t1"}, "beaten_against": ["copy"], "rows": rows})


def test_folds_and_seeds_of_a_setting_are_taken_together(tmp_path: Path) -> None:
    """One fold's val patients are easier than another's, and say nothing of its test patients."""
    sweep = tmp_path / "folds"
    for fold, (val, test) in enumerate([(30, 21), (20, 22), (20, 26)]):
        add_fold(sweep, fold, 0, 0.001, val, test)
        add_fold(sweep, fold, 0, 0.002, val + 1, test + 1)
    add_fold(sweep, 2, 1, 0.002, 21, 30)
    terminal = write_table(sweep)
    (row,) = shown((sweep / "table.md").read_text())
    assert row["best run"] == "lr-0.002 (4 runs)"
    assert row["val"] == "23.50"  # of 31, 21, 21 and 21
    assert row["brain"] == "25.50 / 0.500 / 0.100"  # of 22, 23, 27 and 30
    assert row["beats it"] == "yes, +5.50"
    with (sweep / "table.csv").open() as file:
        (numbers,) = csv.DictReader(file)
    assert [float(numbers[f"test brain psnr {what}"]) for what in ("mean", "n")] == [25.5, 4]
    assert float(numbers["test psnr above best baseline"]) == 5.5
    assert [float(numbers[f"test psnr above best baseline, run {n}"]) for n in (1, 2, 3, 4)] == [2, 3, 7, 10]
    assert "Patients: val 3, test 3." in terminal
    assert "(4 runs)" in terminal
    assert "they differ only in fold or seed" in terminal


def test_a_sweep_of_several_methods_has_a_row_for_each(tmp_path: Path) -> None:
    sweep = tmp_path / "methods"
    for method, lr, val, test in (
        ("unet", 1e-3, 21, 25),
        ("unet", 2e-3, 22, 19),
        ("pix2pix", 1e-3, 30, 18),
        ("mmgan", 1e-3, 9, 26),
    ):
        add_run(sweep, f"{method}_{lr}", "mimo", val, test, words=(f"method={method}_small", f"train.lr={lr}"))
    add_segmentor(sweep, "segmentor", val=0.5, test=0.9)
    terminal = write_table(sweep)
    with (sweep / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["variant"], r["output"], r["method"], r["best run"], r["test brain psnr mean"]) for r in rows] == [
        *(("mimo", output, *cells) for output in ("T1c", "FLAIR") for cells in (
            ("mmgan", "mmgan_0.001", "26"), ("pix2pix", "pix2pix_0.001", "18"), ("unet", "unet_0.002", "19"))),
        ("miso_flair", "FLAIR", "segment", "segmentor", ""),
    ]  # fmt: skip
    for text in (terminal, (sweep / "table.md").read_text()):
        heads = [[cell.strip() for cell in line.split("|")[1:4]] for line in text.splitlines() if line.startswith("| variant")]
        assert heads == [["variant", "output", "method"], ["variant", "tumour in", "best run"]]


def test_the_files_have_more_columns_than_the_terminal(tmp_path: Path) -> None:
    """Margins of each run, in SSIM and NMAE and over the copy, and what a setting has cost."""
    sweep = tmp_path / "seeds"
    for fold, (test, updates, took) in enumerate([(21, 10, 4), (25, 12, 8)]):
        add_fold(sweep, fold, 0, 0.001, 20, test)
        run = RunDirectory(sweep / f"lr-0.001_fold-{fold}_seed-0")
        lines = [
            {"kind": "start", "time": 1000}, {"kind": "metrics", "time": 2000, "step": updates, "values": {}},
            {"kind": "progress", "time": 1000 + 1000 * took, "stage": "joint", "epoch": 1, "epochs": 1},
            {"kind": "end", "time": 10**6, "status": "finished", "reason": ""},
        ]  # fmt: skip
        run.journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    best = sweep / "lr-0.001_fold-0_seed-0" / "checkpoints" / "best.pt"
    best.parent.mkdir()
    torch.save({"method": {"a.weight": torch.zeros(50, 600)}}, best)
    terminal = write_table(sweep)
    (row,) = shown((sweep / "table.md").read_text())
    assert row["beats it"] == "yes, +3.00"
    extra = {"of each": "+1.00 +5.00", "SSIM beyond": "+0.000", "NMAE beyond": "+0.0%", "over the copy": "+3.00"}
    cost = {"updates": "10", "seconds": "6", "parameters": "0.03 M"}
    assert {name: row[name] for name in (*extra, *cost)} == extra | cost
    with (sweep / "table.csv").open() as file:
        (numbers,) = csv.DictReader(file)
    assert {name: numbers[name] for name in cost} == {"updates": "10", "seconds": "6", "parameters": "30000"}
    assert float(numbers["test psnr above copy"]) == 3
    text = (sweep / "table.md").read_text()
    assert "| of each " in text
    assert "Of each: dB of each run above the best baseline" in text
    for name in (*extra, *cost, "volume*"):
        assert name in text
        assert f"| {name} " not in terminal
    assert "method" not in row


def test_ssim_and_nmae_are_compared_with_the_baseline_that_is_best_in_each(tmp_path: Path) -> None:
    def cell(psnr: float, ssim: float, nmae: float) -> dict[str, Any]:
        return {name: {"mean": value, "std": 0.0, "n": 2} for name, value in (("psnr", psnr), ("ssim", ssim), ("nmae", nmae))}

    add_run(tmp_path / "s", "only", "miso_flair", val=20, test=25)
    run = RunDirectory(tmp_path / "s" / "only")
    scores = json.loads(run.scores.read_text())
    models = {"synthesised": cell(25, 0.8, 0.09), "copy": cell(20, 0.75, 0.12), "voxelwise": cell(24, 0.7, 0.1)}
    scores["cohorts"]["test"]["scores"]["flair"]["brain"] = models
    write_json(run.scores, scores)
    write_table(tmp_path / "s")
    (row,) = shown((tmp_path / "s" / "table.md").read_text())
    with (tmp_path / "s" / "table.csv").open() as file:
        (numbers,) = csv.DictReader(file)
    assert float(numbers["test ssim above best baseline"]) == pytest.approx(0.05)
    assert float(numbers["test nmae below best baseline"]) == pytest.approx(0.01)
    assert (row["SSIM beyond"], row["NMAE beyond"], row["over the copy"]) == ("+0.050", "+10.0%", "+5.00")
    assert "of each" not in row

"""The benchmarks are commands: that they measure, and report what is wrong."""

import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from distsynth.bench import gpu
from distsynth.bench.__main__ import main
from distsynth.bench.flops import count, counted
from distsynth.bench.synthetic import shipped
from distsynth.run_directory import CONFIGS
from preprocess.shared.settings import command


def test_start_prints_the_time_to_the_first_step(store: Path, tiny: tuple[str, ...], run: Any) -> None:
    done = run("distsynth.bench", "start", f"data.store={store}", "repeats=1", *tiny)
    assert done.returncode == 0, done.stderr
    found = re.search(r"median ([0-9.]+) s of 1", done.stdout)
    assert found is not None
    assert 0.5 < float(found[1]) < 60


def test_checkpoint_prints_how_long_training_pauses(store: Path, tiny: tuple[str, ...], run: Any) -> None:
    done = run("distsynth.bench", "checkpoint", f"data.store={store}", *tiny)
    assert done.returncode == 0, done.stderr
    found = re.search(r"^(\d) checkpoints of ([0-9.]+) MB: each pauses training for ([0-9.]+) s", done.stdout, re.M)
    assert found is not None
    assert int(found[1]) >= 2
    assert 0 < float(found[3]) < 10


def test_overhead_prints_its_share_measured_both_ways(tiny: tuple[str, ...], run: Any) -> None:
    done = run("distsynth.bench", "overhead", "rounds=3", "pixels=32", *tiny, "train.log_every=2")
    assert done.returncode == 0, done.stderr
    assert re.search(r"by themselves: \d+ us an update, [0-9.]+ % of its [0-9.]+ ms", done.stdout)
    assert re.search(r"with and without them: [+-][0-9.]+ %", done.stdout)


def test_memory_prints_the_most_slices_for_each_card(run: Any) -> None:
    done = run("distsynth.bench", "memory", "method=tcmgan_small", "cards=[6,24]", "pixels=64")
    assert done.returncode == 0, done.stderr
    (_, _, most, more) = done.stdout.splitlines()[-1].replace(",", "").split()[-4:]
    assert 0 < int(most) < int(more)


CARD = SimpleNamespace(name="Tesla V100", total_memory=16e9)


def test_gpu_says_that_there_is_none_and_tests_the_rest(run: Any) -> None:
    done = run("distsynth.bench", "gpu", "method=unet_small", "pixels=32")
    assert done.returncode == 0, done.stdout
    assert "no GPU: torch " in done.stdout
    assert "| method | fp32 | bf16 |" in done.stdout
    assert len(re.findall(r"^\| \w+_small \| \d.\de-\d\d \| (?:\d.\de-\d\d|not tested) \|$", done.stdout, re.M)) == 10
    assert re.search(r"^- gloo with 1 rank: pass, the sum is right$", done.stdout, re.M)
    assert re.search(r"^- gloo with 2 ranks: pass, a sum of 25 MiB takes [0-9.]+ ms", done.stdout, re.M)
    assert re.search(r"^- unet_small, 32x32, fp32: pass, it needs [0-9.]+ GB and \d+ MB a slice$", done.stdout, re.M)
    assert re.search(r"^All passed, \d+ s$", done.stdout, re.M)


def test_gpu_fails_where_a_jobs_gpus_cannot_be_used_or_have_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    report = gpu.Report()
    monkeypatch.setenv("SLURM_JOB_GPUS", "0")
    gpu.machine(report, gpu.CPU)
    assert report.failed
    assert "- FAIL: the job holds GPUs (SLURM_JOB_GPUS=0) that torch cannot use" in report.lines
    report = gpu.Report()
    for name, value in (("device_count", 2), ("get_device_properties", CARD), ("get_device_capability", (7, 0)),
                        ("get_arch_list", ["sm_75", "compute_75"])):  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.setattr(torch.cuda.nccl, "version", lambda: (2, 28, 9))
    gpu.machine(report, torch.device("cuda", 0))
    assert report.failed
    assert any("NCCL 2.28.9, built for sm_75, compute_75" in line for line in report.lines)
    assert report.lines[-1].startswith(
        "- GPU 1: Tesla V100, compute capability 7.0, 16.0 GB: FAIL, compute capability 7.0: it is built for sm_75"
    )


def test_gpu_fails_where_gradients_differ_or_a_method_ends_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert float(gpu.compared("unet_small", 32, gpu.CPU, "fp32")) < 1e-5
    monkeypatch.setitem(gpu.TOLERANCE, "fp32", 1e-12)
    assert gpu.compared("unet_small", 32, gpu.CPU, "fp32").startswith("FAIL ")
    assert gpu.compared("unet_small", 32, torch.device("meta"), "fp32").startswith("FAIL (")


def test_scaling_measures_and_predicts(tiny: tuple[str, ...], run: Any) -> None:
    words = ("ranks=[1,2]", "batch=2", "updates=2", "pixels=32")
    done = run("distsynth.bench", "scaling", *words, *tiny)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^(weak|strong) +[12] ", done.stdout, re.M)) == 4
    assert re.search(r"latency \d+ us, bandwidth [0-9.]+ GB/s", done.stdout)
    assert "trust the predictions no further" in done.stdout
    for path in (CONFIGS / "method").glob("*.yaml"):
        assert re.search(rf"^{path.stem}: [0-9.]+ Gflop per slice, \d+ kernels", done.stdout, re.M), path.stem
    assert done.stdout.count("16 GPUs of 4 slices fill a global batch of 64") == 3 * len(
        re.findall("Gflop per slice", done.stdout)
    )


@pytest.mark.parametrize("preset", ["tcmgan_small", "stargan_small", "unit_small", "unified_gan_small"])
def test_an_update_is_counted_as_if_it_were_run(preset: str) -> None:
    found, done = count(shipped(preset), 48), counted(shipped(preset), 48)
    assert (found.flops, found.gradients) == (done.flops, done.gradients)
    assert found.kernels == pytest.approx(done.kernels, rel=0.02)  # fake tensors are filled with zeros by other operations


def test_speed_times_an_update_and_the_published_procedure(tiny: tuple[str, ...], run: Any) -> None:
    done = run("distsynth.bench", "speed", "rounds=3", "pixels=32", "slices=2", "ways=[eager,channels_last]", *tiny)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^tcmgan, \w+ +procedure +[0-9.]+ ms, ours +[0-9.]+ ms: [0-9.]+ x", done.stdout, re.M)) == 2


def test_intervals_prints_the_coverage_of_each_kind(run: Any) -> None:
    done = run("distsynth.bench", "intervals", "cohorts=20", "patients=[5]")
    shares = re.findall(r"studentised bootstrap ([\d.]+)%", done.stdout)
    assert len(shares) == 3
    assert all(float(share) >= 75 for share in shares)


def test_inference_prints_seconds_and_memory(run: Any, tmp_path: Path) -> None:
    """Ours alone, and beside an inferer in MONAI's place, which is no dependency; without either it says so."""
    words = ["variant=siso", "method=unet_small", "method.width=2", "method.depth=2", "rounds=1"]
    (tmp_path / "monai").mkdir()
    (tmp_path / "monai" / "inferers.py").write_text(
        "class SliceInferer:\n    def __init__(self, **settings):\n        pass\n"
        "    def __call__(self, given, network):\n        return network(given[0].transpose(0, 1)).transpose(0, 1)[None]\n"
    )
    done = run(
        "distsynth.bench",
        "inference",
        *words,
        "windows=[4]",
        PYTHONPATH=f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^ours: [\d.]+ s, peak \d+ MB, of which \d+ MB for the synthesis$", done.stdout, re.M)
    assert re.search(r"^MONAI, 4 at once: .*; [\d.]+ x, [\d.]+ x, [\d.]+ x ours$", done.stdout, re.M)
    refused = run("distsynth.bench", "inference", *words, "windows=[1]")
    assert (refused.returncode, "pip install monai" in refused.stderr) == (2, True)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["strat"], "name a benchmark first: start"),
        (["start", "repeats=0"], "repeats=0 must be at least 1"),
        (["start", "data.store=/nowhere", "repeats=1"], "/nowhere"),
        (["scaling", "ranks=[1,3]"], "must begin with 1 and divide batch=8"),
        (["scaling", "gpu=abacus"], "setting gpu"),
        (["speed", "ways=[fast]"], "ways=['fast'] must be some of eager, channels_last, compile, both"),
        (["overhead", "rounds=1"], "rounds=1 must be at least 3"),
    ],
)
def test_a_benchmark_reports_an_error_in_one_sentence(
    words: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["bench", *words])
    with pytest.raises(SystemExit) as ended:
        command(main, __doc__)
    error = capsys.readouterr().err
    assert (ended.value.code, error.count("\n")) == (2, 1), error
    assert sentence in error

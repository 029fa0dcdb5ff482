"""Training as users run it: real processes, gloo, kills."""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from workbench import trainer_of, untrained_run

from distsynth import config as configuration
from distsynth import preflight
from distsynth.ranks.preemption import Stopped
from distsynth.ranks.world import World
from distsynth.run_directory import RunDirectory
from distsynth.tracking.journal import read
from distsynth.train import main, prepare, reason, transient
from distsynth.train import train as train_here
from distsynth.training import checkpoint, rehearsal
from distsynth.training.checkpoint import Saver
from distsynth.training.engine import Engine, NonFinite
from preprocess.cohort import Cohort
from preprocess.shared.errors import SettingError, UserError

ENV = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(run: Path, store: Path, words: tuple[str, ...], ranks: int) -> list[str]:
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"] if ranks > 1 else []
    settings = [f"data.store={store}", *words] if words else []  # without any, the run's own are used
    return [sys.executable, "-m", *torchrun, "distsynth.train", f"run={run}", *settings]


def train(run: Path, store: Path, words: tuple[str, ...], ranks: int = 1) -> None:
    done = subprocess.run(command(run, store, words, ranks), capture_output=True, text=True, env=ENV, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def weights(run: Path) -> dict[str, torch.Tensor]:
    newest = sorted((run / "checkpoints").glob("step-*.pt"))[-1]
    method: dict[str, torch.Tensor] = torch.load(newest, weights_only=True)["method"]
    return method


def curve(run: Path) -> list[tuple[int, dict[str, float]]]:
    """Every metric of the journal except those about the machine."""
    lines, _ = read(run / "journal.jsonl")
    points = [
        (line["step"], {k: v for k, v in line["values"].items() if not k.startswith(("time/", "system/"))})
        for line in lines
        if line["kind"] == "metrics"
    ]
    return [point for point in points if point[1]]


@pytest.fixture(scope="module")
def whole(store: Path, tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run on one rank."""
    run = tmp_path_factory.mktemp("whole") / "run"
    train(run, store, tiny)
    return run


def test_a_run_directory_is_complete(whole: Path, store: Path) -> None:
    assert {p.name for p in whole.iterdir()} == {
        ".lock",
        "checkpoints",
        "config.yaml",
        "evaluation",
        "figures",
        "journal.jsonl",
        "run.json",
    }
    lines, _ = read(whole / "journal.jsonl")
    assert (lines[0]["kind"], lines[-1]["kind"], lines[-1]["status"]) == ("start", "end", "finished")
    logged = {name for line in lines if line["kind"] == "metrics" for name in line["values"]}
    eleven = ["d_loss", "g_loss", "s_loss", "d_real", "d_fake", "d_cls", "d_gp", "g_fake", "g_cls", "g_rec", "g_seg"]
    assert {f"joint/{name}" for name in eleven} <= logged
    assert {"segmentor/s_loss", "val/flair/brain/psnr", "best/test/t1c/brain/psnr", "best/test/t1/tumour/ssim"} <= logged
    identity = json.loads((whole / "run.json").read_text())
    assert set(identity) == {"uid", "name", "sweep", "code", "commit"}
    scores = json.loads((whole / "evaluation" / "scores.json").read_text())
    assert scores["cohorts"]["test"]["subjects"] == Cohort.open(store).split("test")
    models = scores["cohorts"]["test"]["scores"]["flair"]["brain"]
    assert set(models) == {"synthesised", "lesion_erased", "copy", "mean", "linear", "voxelwise", "voxelwise_l1"}
    assert set(scores["cards"]) >= {"psnr", "ssim", "nmae", "range", "normalisation", "aggregation", "brain", "tumour", "volume"}
    (figure,) = (whole / "figures").iterdir()
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_the_evaluation_reproduces_the_score_that_chose_the_checkpoint(whole: Path) -> None:
    """The val patients' PSNR in the brain, in network units while training and in z-scores afterwards."""
    values = [v for _, v in curve(whole)]
    while_training = [v for v in values if "val/t1/brain/psnr" in v]
    best = max(while_training, key=lambda v: sum(v.values()))
    afterwards = next(v for v in values if "best/val/t1/brain/psnr" in v)
    assert len(while_training) == 2
    for name, value in best.items():
        assert afterwards[f"best/{name}"] == pytest.approx(value, abs=0.02)


def test_the_first_step_comes_soon(whole: Path) -> None:
    lines, _ = read(whole / "journal.jsonl")
    (seconds,) = [line["values"]["time/first_step_s"] for line in lines if "time/first_step_s" in line.get("values", {})]
    assert 0 < seconds < 10


@pytest.fixture(scope="module")
def through(store: Path, tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """The uninterrupted run on so many ranks, trained once. Losses are logged every third update."""
    folder = tmp_path_factory.mktemp("through")

    def get(ranks: int) -> Path:
        if not (folder / str(ranks)).exists():
            train(folder / str(ranks), store, (*tiny, *SPARSE), ranks)
        return folder / str(ranks)

    return get


SPARSE = ("train.log_every=3", "evaluate.baselines=false", "evaluate.figures=0")


def test_a_whole_run_on_two_ranks_is_nearly_that_on_one(through: Callable[[int], Path]) -> None:
    """In single precision. Sums in another order differ by rounding, which Adam amplifies where a gradient is nearly zero."""
    one, two = through(1), through(2)
    assert apart(one, two) < 5e-3
    for (step, a), (again, b) in zip(curve(one), curve(two), strict=True):
        assert step == again
        assert a == pytest.approx(b, rel=1e-2, abs=1e-2)
    start = read(two / "journal.jsonl")[0][0]
    assert (start["world_size"], start["device"]) == (2, "cpu")


def apart(one: Path, other: Path) -> float:
    """The largest difference of two runs' weights."""
    a, b = weights(one), weights(other)
    assert set(a) == set(b)
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def processes_of(run: Path) -> list[int]:
    """The processes whose command line names the run directory: torchrun's ranks are in sessions of their own."""
    numbers = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if f"run={run}".encode() in path.read_bytes().split(b"\0"):
                numbers.append(int(path.parent.name))
        except OSError:
            continue
    return numbers


def kill_after(run: Path, store: Path, words: tuple[str, ...], ranks: int, step: int, number: int) -> None:
    """Start a run, and send the signal to all its processes once its journal has reached the step."""
    process = subprocess.Popen(command(run, store, words, ranks), env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not any(line.get("step", 0) >= step for line in read(run / "journal.jsonl")[0] if line["kind"] == "metrics"):
        assert process.poll() is None, "the run ended before it came to the step"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    signalled = processes_of(run)
    for pid in signalled:
        os.kill(pid, number)
    assert process.wait(60) != 0
    deadline = time.monotonic() + 10
    # A killed torchrun waits for nobody: its ranks, killed too, are gone once the kernel has torn them down. Nobody else may be left.
    while number == signal.SIGKILL and set(signalled) & set(processes_of(run)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert processes_of(run) == []


@pytest.mark.parametrize(("ranks", "step", "then"), [(1, 2, ()), (2, 6, (1,)), (4, 6, ())])
def test_a_run_killed_and_restarted_ends_the_same(
    store: Path,
    tiny: tuple[str, ...],
    tmp_path: Path,
    through: Callable[[int], Path],
    ranks: int,
    step: int,
    then: tuple[int, ...],
) -> None:
    """kill -9 of all ranks, in the first stage or the second, with a checkpoint after each update: weights, losses and scores bit for bit.
    On another number of ranks the run continues with the same batches, and ends the same except for rounding."""
    run, words = tmp_path / "killed", (*tiny, *SPARSE)
    kill_after(run, store, (*words, "train.checkpoint_minutes=0"), ranks, step, signal.SIGKILL)
    for other in then:
        shutil.copytree(run, tmp_path / str(other))
        train(tmp_path / str(other), store, (), other)
        assert apart(through(ranks), tmp_path / str(other)) < 5e-3
    train(run, store, (), ranks)
    resumed_at = [line["resumed_at"] for line in read(run / "journal.jsonl")[0] if line["kind"] == "start"][-1]
    assert resumed_at >= step - 1
    assert apart(through(ranks), run) == 0
    assert curve(through(ranks)) == curve(run)


def test_a_run_asked_to_stop_writes_a_checkpoint_and_resumes_from_it(
    whole: Path, store: Path, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    run = tmp_path / "asked"
    kill_after(run, store, tiny, 1, 6, signal.SIGTERM)
    last = read(run / "journal.jsonl")[0][-1]
    assert (last["kind"], last["status"]) == ("end", "stopped")
    assert "SIGTERM after writing a checkpoint" in last["reason"]
    held = torch.load(sorted((run / "checkpoints").glob("step-*.pt"))[-1], weights_only=True)["position"]["total"]
    assert held >= 6
    train(run, store, tiny)
    resumed = [line["resumed_at"] for line in read(run / "journal.jsonl")[0] if line["kind"] == "start"]
    assert held in resumed
    done, asked = weights(whole), weights(run)
    assert all(torch.equal(done[name], asked[name]) for name in done)
    assert [p for p in curve(run) if p[1].keys() & {"joint/g_loss"}] == [
        p for p in curve(whole) if p[1].keys() & {"joint/g_loss"}
    ]


@pytest.mark.parametrize("place", ["training.validation", "evaluation.scoring"])
def test_a_run_asked_to_stop_between_two_patients_starts_again_with_them(
    place: str, whole: Path, store: Path, tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal arrives while a patient is read; the first validation has only one."""
    config = configuration.compose([f"data.store={store}", *tiny])
    run = RunDirectory(tmp_path / "run")
    prepare(run, config)
    module = importlib.import_module(f"distsynth.{place}")
    read_image, sent = module.read_image, []

    def signalled(*arguments: Any, **named: Any) -> Any:
        sent.append(os.kill(os.getpid(), signal.SIGUSR2))
        return read_image(*arguments, **named)

    before, threads = signal.signal(signal.SIGUSR2, lambda *_: None), torch.get_num_threads()  # in place of submitit's
    torch.set_num_threads(1)
    try:
        monkeypatch.setattr(module, "read_image", signalled)
        with pytest.raises(Stopped):
            train_here(run.path)
        monkeypatch.undo()
        assert 1 <= len(sent) <= 2  # the evaluation reads a patient's image twice
        assert not run.scores.exists()
        validated = any(name.startswith("val/") for _, values in curve(run.path) for name in values)
        assert validated == (place == "evaluation.scoring")
        train_here(run.path)
    finally:
        signal.signal(signal.SIGUSR2, before)
        torch.set_num_threads(threads)
    assert run.scores.exists()
    assert apart(whole, run.path) == 0
    assert curve(whole) == curve(run.path)


def test_an_evaluation_resumes_after_the_patients_it_has_finished(
    whole: Path, store: Path, tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the middle of a line; rows of other settings are not used."""
    run, seen = RunDirectory(tmp_path / "run"), []
    shutil.copytree(whole, run.path)
    config, scores = configuration.load(run.config), run.scores.read_bytes()
    world = World(0, 1, 0, torch.device("cpu"))
    module = importlib.import_module("distsynth.evaluation.scoring")
    patient = module.Patient

    def killed(config: Any, where: Any, subject: str, model: Any) -> Any:
        if seen:
            raise KeyboardInterrupt
        seen.append(subject)
        return patient(config, where, subject, model)

    monkeypatch.setattr(module, "Patient", killed)
    with pytest.raises(KeyboardInterrupt):
        module.evaluate(config, preflight.check(config, 1), run, world)
    kept = run.evaluation / "finished-0.jsonl"
    with kept.open("a") as file:
        file.write('["torn')
    again: list[str] = []
    monkeypatch.setattr(module, "Patient", lambda *given: again.append(given[2]) or patient(*given))
    run.scores.unlink()
    shutil.copytree(run.path, tmp_path / "other")
    module.evaluate(config, preflight.check(config, 1), run, world)
    assert seen[0] not in again
    assert len(again) == sum(len(cohort["subjects"]) for cohort in json.loads(scores)["cohorts"].values()) - 1
    assert run.scores.read_bytes() == scores
    assert not kept.exists()
    again.clear()
    config.evaluate.figures += 1
    module.evaluate(config, preflight.check(config, 1), RunDirectory(tmp_path / "other"), world)
    assert seen[0] in again


def failing(run: Path, store: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "distsynth.train", f"run={run}", f"data.store={store}", *words],
        capture_output=True,
        text=True,
        env=ENV,
    )
    assert done.returncode != 0
    error = done.stderr.strip().splitlines()[-1]
    assert error.startswith("error: "), done.stderr
    assert "Traceback" not in done.stderr
    return error


def test_a_loss_that_is_not_finite_ends_the_run_and_is_named(store: Path, tiny: tuple[str, ...], tmp_path: Path) -> None:
    error = failing(tmp_path / "run", store, *tiny, "train.lr=1e30")
    assert "of method tcmgan, stage joint, was not finite at step" in error
    last = read(tmp_path / "run" / "journal.jsonl")[0][-1]
    assert (last["status"], last["reason"]) == ("failed", error.removeprefix("error: "))


@pytest.mark.parametrize(
    ("method", "objective", "term"), [("tcmgan", "generator", "g_seg"), ("pix2pix", "discriminator", "d_fake")]
)
def test_a_loss_that_is_not_finite_is_named_and_the_previous_checkpoint_kept(
    method: str, objective: str, term: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the third update of the second epoch, checked after the fourth."""
    small = {"tcmgan": ["method.segmentor.epochs=0", "method.critic.width=4"], "pix2pix": ["method.discriminator.width=4"]}[
        method
    ]
    words = ["method.generator.width=4", *small, "train.epochs=3", "train.steps_per_epoch=4", "train.log_every=4"]
    config = configuration.compose([f"method={method}_small", f"data.store={store}", *words])
    run = RunDirectory(tmp_path / "run")
    monkeypatch.setattr(Saver, "cheap", True)  # a checkpoint at each epoch's end
    trainer = trainer_of(config, run)
    objectives = type(trainer.model.method).objectives

    def failing(own: Any) -> Any:
        originals = objectives(own)
        loss = originals[objective].loss

        def broken(batch: Any) -> Any:
            value, terms = loss(batch)
            return (value * torch.nan, {**terms, term: terms[term] * torch.nan}) if batch.update == 6 else (value, terms)

        return {**originals, objective: replace(originals[objective], loss=broken)}

    monkeypatch.setattr(type(trainer.model.method), "objectives", failing)
    stage = trainer.stages[-1].name
    with pytest.raises(
        NonFinite, match=rf"{term} of method {method}, stage {stage}, was not finite at step 7 on rank 0: .*is kept"
    ):
        trainer.fit()
    newest = checkpoint.newest(run.checkpoints)
    assert newest is not None
    assert newest[0]["position"]["total"] == 4
    assert all(value.isfinite().all() for value in newest[0]["method"].values())
    monkeypatch.undo()
    again = trainer_of(config, run)
    assert again.at.total == 4
    again.fit()
    assert again.at.total == 12


def test_a_weight_that_is_not_finite_never_becomes_a_checkpoint(store: Path, tiny: tuple[str, ...], tmp_path: Path) -> None:
    config = configuration.compose([f"data.store={store}", *tiny])
    trainer = trainer_of(config, RunDirectory(tmp_path / "run"))
    engine = Engine(trainer.model.method, trainer.stages[-1], config.train, trainer.world)
    next(trainer.model.method.generator.parameters()).data[0] = torch.nan
    with pytest.raises(NonFinite, match="a weight that generator of method tcmgan, stage joint, trains was not finite at step 0"):
        trainer.save(engine)
    assert not list(trainer.run.checkpoints.glob("*.pt"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("data.store=/nowhere/c.zarr",), "/nowhere/c.zarr"),
        (("train.batch=100000",), "a batch of 100000 slices is more than the"),
        (("variant=simoo",), "did you mean simo"),
        (("train.device=cuda",), "train.device=cuda: local rank 0 sees 0 GPUs"),
    ],
)
def test_invalid_settings_end_in_one_sentence(
    store: Path, tiny: tuple[str, ...], tmp_path: Path, words: tuple[str, ...], sentence: str
) -> None:
    if "cuda" in words[0] and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert sentence in failing(tmp_path / "run", store, *tiny, *words)


def test_an_error_at_the_start_leaves_no_run_directory(store: Path, tiny: tuple[str, ...], tmp_path: Path) -> None:
    assert "is not finished or is not a cohort" in failing(tmp_path / "run", tmp_path, *tiny)
    assert "train.precision=fp16 needs a GPU" in failing(
        tmp_path / "run", store, *tiny, "train.precision=fp16", "train.device=cpu"
    )
    assert not (tmp_path / "run").exists()


def test_a_cohort_without_patients_for_a_stage_is_refused(
    phantoms: Path, tiny: tuple[str, ...], tmp_path: Path, run: Any
) -> None:
    made = run(
        "preprocess.to_zarr", f"source={phantoms}", f"store={tmp_path / 'c.zarr'}", "recipe.n4.enabled=false", "split.segmentor=0"
    )
    assert made.returncode == 0
    assert "has no patients in split segmentor for stage segmentor" in failing(tmp_path / "run", tmp_path / "c.zarr", *tiny)


def test_a_run_directory_of_other_settings_and_of_another_cohort_is_refused(
    whole: Path, store: Path, phantoms: Path, tiny: tuple[str, ...], tmp_path: Path, run: Any
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    assert "holds another configuration" in failing(tmp_path / "run", store, *tiny, "train.lr=5e-3")
    other = tmp_path / "other.zarr"
    assert run("preprocess.to_zarr", f"source={phantoms}", f"store={other}", "recipe.n4.enabled=false").returncode == 0
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace(str(store), str(other)))
    done = run("distsynth.train", f"run={tmp_path / 'run'}")
    assert done.returncode == 2
    assert "does not match the run (recipe.n4.enabled:" in done.stderr


def test_a_checkpoint_of_another_variant_or_method_is_refused(whole: Path) -> None:
    before = (whole / "journal.jsonl").read_bytes()
    for change, sentence in (
        (
            {"method": {"critic": {"width": 8}}},
            r"\(method.critic.width: 4 before, 8 now\): start a new run, or restore that setting or cohort",
        ),
        (
            {"variant": {"outputs": ["t1", "flair"]}},
            r"\(variant.outputs: \['t1', 't1c', 'flair'\] before, \['t1', 'flair'\] now\)",
        ),
    ):
        tree = OmegaConf.merge(configuration.read_yaml(whole / "config.yaml"), change)
        with pytest.raises(UserError, match=sentence):
            trainer_of(configuration.typed(tree), RunDirectory(whole))
    assert (whole / "journal.jsonl").read_bytes() == before


def test_a_full_disk_is_one_sentence_and_the_run_resumes_with_more_space(
    store: Path, whole: Path, tiny: tuple[str, ...], small_disk: Path
) -> None:
    """600 kB hold the first checkpoints of this run but not the later ones."""
    filler = small_disk / "filler"
    filler.write_bytes(bytes(300_000))
    error = failing(small_disk / "run", store, *tiny)
    assert "space" in error
    assert str(small_disk) in error
    assert not list(small_disk.rglob("*.partial"))
    subprocess.run(["mount", "-o", "remount,size=40m", small_disk], check=True)
    train(small_disk / "run", store, tiny)
    done, resumed = weights(whole), weights(small_disk / "run")
    assert all(torch.equal(done[name], resumed[name]) for name in done)


def test_two_processes_never_train_one_run(whole: Path, tmp_path: Path, run: Any) -> None:
    shutil.copytree(whole, tmp_path / "run")
    before = (tmp_path / "run" / "journal.jsonl").read_bytes()
    with RunDirectory(tmp_path / "run").lock():
        done = run("distsynth.train", f"run={tmp_path / 'run'}")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "is being trained by another process" in done.stderr
    assert (tmp_path / "run" / "journal.jsonl").read_bytes() == before


def test_evaluate_scores_another_cohort_with_the_same_checkpoint(whole: Path, store: Path, tmp_path: Path, run: Any) -> None:
    shutil.copytree(whole, tmp_path / "run")
    done = run("distsynth.evaluate", f"run={tmp_path / 'run'}", f"data.external.again={store}", "evaluate.baselines=false")
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "run" / "evaluation" / "scores.json").read_text())["cohorts"]
    assert set(scores) == {"val", "test", "again"}
    first = json.loads((whole / "evaluation" / "scores.json").read_text())["cohorts"]["test"]["scores"]["t1"]["brain"]
    assert scores["test"]["scores"]["t1"]["brain"]["synthesised"] == first["synthesised"]
    assert "again/flair/brain/psnr" in done.stdout
    refused = run("distsynth.evaluate", f"run={tmp_path / 'run'}", "method.generator.width=9")
    assert (refused.returncode, "method.generator.width cannot change after training" in refused.stderr) == (2, True)
    assert "is not a run directory" in run("distsynth.evaluate", f"run={tmp_path}").stderr


def test_patients_that_a_run_was_trained_on_are_never_scored(
    whole: Path, store: Path, phantoms: Path, tmp_path: Path, run: Any
) -> None:
    """As test patients of a cohort that was split again, or of another."""
    shutil.copytree(whole, tmp_path / "run")
    shutil.copytree(store, tmp_path / "moved.zarr")
    shutil.copytree(store, tmp_path / "split.zarr")
    words = ["recipe.n4.iterations=[5]", "split.seed=3"]
    assert run("preprocess.to_zarr", f"source={phantoms}", f"store={tmp_path / 'split.zarr'}", *words).returncode == 0
    before = (tmp_path / "run" / "evaluation" / "scores.json").read_bytes()
    again = ["distsynth.evaluate", f"run={tmp_path / 'run'}"]
    assert run(*again, f"data.store={tmp_path / 'moved.zarr'}").returncode == 0
    assert (tmp_path / "run" / "evaluation" / "scores.json").read_bytes() == before
    refused = run(*again, f"data.store={tmp_path / 'split.zarr'}")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert f"was not trained on data.store={tmp_path / 'split.zarr'} as it is split now" in refused.stderr
    assert (tmp_path / "run" / "evaluation" / "scores.json").read_bytes() == before


def test_a_cohort_of_larger_slices_is_refused_before_any_work(
    whole: Path, store: Path, phantoms: Path, tiny: tuple[str, ...], tmp_path: Path, run: Any
) -> None:
    words = ["recipe.n4.iterations=[5]", "recipe.crop=[200,200,155]"]
    assert run("preprocess.to_zarr", f"source={phantoms}", f"store={tmp_path / 'large.zarr'}", *words).returncode == 0
    sentence = f"slices of 40x40 of cohort {tmp_path / 'large.zarr'} do not fit the networks' 32x32: make it with the training cohort's recipe"
    large = f"data.external.large={tmp_path / 'large.zarr'}"
    done = run("distsynth.train", f"run={tmp_path / 'new'}", f"data.store={store}", large, *tiny)
    assert sentence in done.stderr
    assert not list((tmp_path / "new" / "checkpoints").glob("*"))
    shutil.copytree(whole, tmp_path / "run")
    assert sentence in run("distsynth.evaluate", f"run={tmp_path / 'run'}", large).stderr


def test_restarting_a_finished_run_only_reports_that_it_is_finished(whole: Path, run: Any, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    assert run("distsynth.train", f"run={tmp_path / 'run'}").returncode == 0
    assert curve(tmp_path / "run")[-1] == curve(whole)[-1]


def test_a_full_gpu_is_one_sentence_and_is_not_retried(tmp_path: Path) -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    assert "set train.micro_batch" in reason(error, RunDirectory(tmp_path))
    assert not transient(error)
    assert transient(RuntimeError("CUDA error: unspecified launch failure"))


@pytest.mark.parametrize(("compile", "firsts"), [(False, 1), (True, 3)])
def test_every_update_that_may_compile_has_the_first_steps_time_limit(
    compile: bool, firsts: int, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """discogan's second update trains another network, and compiles again."""
    config = configuration.compose([f"data.store={store}", "variant=siso", "method=discogan_small", "train.epochs=1", "train.batch=2",
                                    "train.steps_per_epoch=5", f"train.compile={compile}"])  # fmt: skip
    trainer = trainer_of(config, RunDirectory(tmp_path / "run"))
    assert trainer.model.method.cycle == 3
    monkeypatch.setattr(rehearsal, "compile_losses", lambda *_: None)  # compilation itself is not tested here
    phases: list[str] = []
    entered = trainer.world.watchdog.enter
    monkeypatch.setattr(trainer.world.watchdog, "enter", lambda phase, step: (phases.append(phase), entered(phase, step)))
    trainer.fit()
    updates = [phase for phase in phases if phase in ("first_step", "step")]
    assert updates[: firsts + 1] == ["first_step"] * firsts + ["step"]


def test_a_slip_in_the_runs_name_starts_no_training(tmp_path: Path, store: Path) -> None:
    """`run=` alone means to resume; with all its defaults a new training would take hours, on the phantom."""
    untrained_run(tmp_path / "runs" / "first", "variant=mimo", "method=unet_small", f"data.store={store}")
    with pytest.raises(SettingError, match=r"runs/frist is not there to be resumed: did you mean run=.*runs/first\?"):
        main([f"run={tmp_path / 'runs' / 'frist'}"])
    assert not (tmp_path / "runs" / "frist").exists()

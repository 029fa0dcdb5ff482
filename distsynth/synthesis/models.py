"""Where a model comes from: a run's folder, the best runs of a sweep, or a model that was exported."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any

from distsynth import config as configuration
from distsynth.data.cohorts import Cohorts, trained_on
from distsynth.data.trained_on import TrainedOn
from distsynth.evaluation.metrics import CARD
from distsynth.evaluation.scoring import best_baseline
from distsynth.evaluation.sweep_scores import Scored, read_runs
from distsynth.methods import registry
from distsynth.run_directory import RunDirectory, is_sweep, similar
from distsynth.synthesis import bundle
from distsynth.synthesis.synthesiser import Synthesiser
from distsynth.synthesis.tasks import Tasks
from distsynth.training import checkpoint
from distsynth.training.model import restore, trained_here
from preprocess.recipe import Recipe
from preprocess.shared.errors import SettingError, StoreError, UserError


def load(path: str | Path, device: str = "cpu") -> Synthesiser:
    """The model of a run's folder, or of an exported model (a .zip, or the folder of one).

    Raises SettingError or StoreError if there is none, it cannot be used here, or the device is not available.
    """
    with readable(path):
        return opened(path, device)


@contextmanager
def readable(path: object) -> Iterator[None]:
    """Turn a folder or file that may not be read into one sentence. Raises SettingError."""
    try:
        yield
    except OSError as error:
        raise SettingError(f"run={path} cannot be read ({error.strerror}: {error.filename})") from error


def opened(path: str | Path, device: str) -> Synthesiser:
    where = Path(path) if isinstance(path, str | PathLike) else Path("/dev/null")
    if not where.exists() or (not where.is_dir() and where.suffix != ".zip"):
        what = "does not exist" if not where.exists() else "is no folder and no .zip"
        hint = "" if where.exists() else similar(where.absolute())
        raise SettingError(f"run={path} {what}: {hint or 'give a folder of a run or of a sweep, or a model.zip'}")
    if is_sweep(where):
        raise SettingError(f"run={path} is a sweep: {similar(where.absolute())}")
    made = of_run(RunDirectory(where)) if (where / "run.json").is_file() else bundle.read(where)
    return made.to(choose(str(device)))


def of_run(run: RunDirectory) -> Synthesiser:
    """The best checkpoint of a run. Raises StoreError if there is none or it is damaged, SettingError if its method makes no images."""
    run.read_identity()
    config = configuration.load(run.config)
    if not registry.method(config.method.name).images:
        raise SettingError(
            f"{run.path} trained method {config.method.name}, which makes no images: give the run of another method"
        )
    best = run.checkpoints / "best.pt"
    if not best.is_file():
        raise StoreError(f"{run.path} has no best checkpoint yet: train it on, python -m distsynth.train run={run.path}")
    state = checkpoint.load(best)
    try:
        model = restore(config, state)
        recipe = Recipe.of(state["made_from"]["recipe"])
    except UserError:
        raise
    except Exception as error:  # a newer version may store other weights or settings
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StoreError(f"{best} does not fit this version of distsynth ({why}): use the version that trained it") from error
    known = model.trained_on or from_cohort(config, state, best)
    return Synthesiser(run.path.name, config, model, recipe, known, card_of(run))


def from_cohort(config: configuration.Config, state: dict[str, Any], best: Path) -> TrainedOn:
    """What a checkpoint of version 0.1 lacks, from its training cohort. Raises StoreError if that is not there as it was."""
    why = f"{best} was written by version 0.1, which left the units of the outputs in the cohort"
    try:
        whole = Cohorts().open(config.data.store, config.data.fold)
    except StoreError as error:
        raise StoreError(f"{why}, and {error}") from error
    cohort = trained_on(whole, config.variant, registry.method(config.method.name).incomplete)
    if not trained_here(cohort, config, state):
        raise StoreError(f"{why}, and {config.data.store} has changed since: restore it, or train again")
    return TrainedOn.of(cohort)


def card_of(run: RunDirectory) -> dict[str, Any]:
    """By output, the scores in the run's evaluation and the best baseline beside them; empty if it was not evaluated."""
    if not run.scores.is_file():
        return {}
    try:
        return cards(json.loads(run.scores.read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{run.scores} is damaged: write it again with python -m distsynth.evaluate run={run.path}") from error


def cards(scores: dict[str, Any]) -> dict[str, Any]:
    """Of the content of scores.json."""
    card: dict[str, Any] = {}
    for cohort, content in scores["cohorts"].items():
        for output, regions in content["scores"].items():
            rows = {region: models["synthesised"] for region, models in regions.items() if "synthesised" in models}
            baseline = best_baseline(regions.get("brain", {}), scores["beaten_against"])
            best = {"best_baseline": {"name": baseline[0], "psnr": baseline[1]}} if baseline else {}
            card.setdefault(output, {})[cohort] = {"subjects": len(content["subjects"]), "regions": rows, **best}
    return card and {**card, "computed": CARD}


def choose(device: str) -> Any:
    """`auto`, `cpu`, `cuda` or `cuda:N` as torch's device. Raises SettingError if it is not there."""
    import torch

    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return torch.device("cuda" if there else "cpu")
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()):
        raise SettingError(f"device={device} is not known: choose auto, cpu, cuda or cuda:N")
    if kind == "cuda" and int(number or 0) >= there:
        raise SettingError(
            f"device={device}: this machine has {there} GPUs that torch can use: give device=cpu or another number"
        )
    return torch.device(device)


@dataclass(frozen=True)
class Candidate:
    """A model that may be used; it is loaded when it is."""

    path: Path
    tasks: Tasks
    psnr: Mapping[str, float]  # by output, on the val patients; empty where there is only this candidate


@dataclass(frozen=True)
class Models:
    """The models that one call can use: one, or those of a sweep."""

    candidates: Sequence[Candidate]
    device: str
    left_out: str = ""  # one sentence on a sweep's runs that are none, or nothing

    @classmethod
    def open(cls, path: str, device: str) -> Models:
        """Of a run, a sweep or an exported model. Raises SettingError or StoreError (see `load`) if there is no usable one."""
        where = Path(path)
        choose(device)
        with readable(path):
            if not is_sweep(where):
                return cls([Candidate(where, loaded(where, device).tasks, {})], device)
            runs, without = read_runs(where)
        each = [one for run in runs if run.images for one in (run.each or (run,))]
        if not each:
            why = f"none of its {len(without)} runs has scores yet" if without else "its runs make no images"
            raise SettingError(f"run={path} is a sweep from which none can be chosen: {why}; give one run's folder")
        total = len(without) + sum(len(run.directories) for run in runs)
        left_out = f"{len(without)} of the {total} runs of {path} have no scores yet and are left out" if without else ""
        return cls([candidate(one) for one in each], device, left_out)

    def best(self, there: Sequence[str], output: str) -> Candidate | None:
        """The one that makes an output of the contrasts that are there, and was best at it on the val patients. None if there is none."""
        able = [c for c in self.candidates if c.tasks.task(there, [output]) is not None]
        return max(able, key=lambda c: c.psnr.get(output, float("-inf"))) if able else None

    def loaded(self, chosen: Candidate) -> Synthesiser:
        return loaded(chosen.path, self.device)

    @property
    def outputs(self) -> list[str]:
        """What any of them makes, first what it was trained for."""
        usual = [output for each in self.candidates for output in each.tasks.trained.outputs]
        return list(dict.fromkeys([*usual, *(output for each in self.candidates for output in each.tasks.outputs)]))


@cache
def loaded(path: Path, device: str) -> Synthesiser:
    return load(path, device)


def candidate(run: Scored) -> Candidate:
    """A run that has scores."""
    directory = run.directories[0]
    val = {o: run.psnr("val", o) for o in run.variant.outputs if "synthesised" in run.in_brain("val", o)}
    return Candidate(directory.path, Tasks.of(run.name, configuration.load(directory.config)), val)

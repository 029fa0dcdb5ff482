"""Score a finished run's best checkpoint again, for example on another cohort.

    python -m distsynth.evaluate runs/lr/simo_lr-0.0002
    python -m distsynth.evaluate run=runs/lr/simo_lr-0.0002 data.external.mine=data/mine.zarr
    python -m distsynth.evaluate run=runs/any variant=miso_t1c        a task that it was not trained for
    python -m distsynth.evaluate run=runs/any variant=every           every subset of its contrasts as inputs, the rest as outputs
    python -m distsynth.evaluate run=runs/lr/simo_lr-0.0002 evaluate.judge=runs/segmentor

Training ends with the same evaluation; this repeats it with other settings of `data.external.*`, `data.store` (a cohort that has moved) or
`evaluate.*`, and adds its scores and figures to those in the run directory; only those of another checkpoint are dropped. A method that learns all
tasks at once (mmgan, stargan, unified_gan) can also be scored on other variants of the contrasts that it was trained with: `variant=NAME`, or
variant.name=, variant.inputs= and variant.outputs=. These scores and figures go into evaluation/VARIANT and figures/VARIANT.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from omegaconf import OmegaConf

from distsynth import config as configuration
from distsynth.config import Config
from distsynth.data.cohorts import Cohorts
from distsynth.evaluation.scoring import evaluate, flat
from distsynth.evaluation.table import table_of_run
from distsynth.methods import registry
from distsynth.modalities import Variant
from distsynth.preflight import open_cohorts
from distsynth.ranks.world import World, choose_device
from distsynth.run_directory import RunDirectory, run_of
from distsynth.settings import EvaluateSettings
from preprocess.shared.errors import SettingError
from preprocess.shared.settings import command, required, setting
from preprocess.shared.words import dotlist


@dataclass
class DataChanges:
    store: str = setting("", "the training cohort, where it has moved (empty: where it was)")
    external: dict[str, str] = setting({}, "other cohorts, data.external.NAME=STORE: the run is scored on all of their subjects")


@dataclass
class Settings:
    """What can change after training, for `--help`."""

    run: str = required("the run's folder; its path alone is enough")
    variant: str = setting("", "another task, also variant.name=, .inputs= and .outputs=, or every (empty: the run's own)")
    data: DataChanges = setting(DataChanges, "")
    evaluate: EvaluateSettings = setting(EvaluateSettings, "")


CHANGEABLE = ("data.store", "data.external.", "evaluate.")
TASK = ("variant=", "variant.")
EVERY = "variant=every"


def main(words: Sequence[str]) -> int:
    path, settings = run_of(words)
    task = [word for word in settings if word.startswith(TASK)]
    others = [word for word in settings if not word.startswith(TASK) and word != "data.store="]
    if not path:
        raise SettingError("give the run's folder: run=runs/SWEEP/RUN")
    for word in others:
        if not word.startswith(CHANGEABLE):
            raise SettingError(
                f"{word.partition('=')[0]} cannot change after training: only data.store, data.external.NAME, evaluate.* and variant can"
            )
    run = RunDirectory(path)
    config = load_with(run, others)
    variants = list(every_task(config)) if task == [EVERY] else [variant_with(config, task)]
    with run.lock():
        cohorts = Cohorts()
        for variant in variants:
            score(config, cohorts, run, variant)
    return 0


def score(config: Config, cohorts: Cohorts, run: RunDirectory, variant: Variant) -> None:
    """Evaluate on a variant and print the scores."""
    place = run if variant == config.variant else run.beside(variant.name)
    opened = open_cohorts(replace(config, variant=variant), cohorts)
    scores = evaluate(config, opened, place, World(0, 1, 0, choose_device("auto", 0)), variant)
    if variant != config.variant:
        print(f"{variant.name}: {variant.title}")
    for name, value in flat(scores).items():
        print(f"{name:<48} {value:.4f}")
    print(table_of_run(place, replace(config, variant=variant)))
    print(f"written: {place.scores} and {place.figures}")


def load_with(run: RunDirectory, words: Sequence[str]) -> Config:
    """The run's config, changed by `words`. Raises SettingError."""
    run.read_identity()
    tree = OmegaConf.merge(configuration.saved(run.config), configuration.overrides(words))
    return configuration.with_absolute_paths(configuration.typed(tree))  # type: ignore[arg-type]


def variant_with(config: Config, words: Sequence[str]) -> Variant:
    """The run's variant, changed by `words`. Raises SettingError if the method does not serve it, or its name cannot name a folder beside the
    run's own."""
    tree = OmegaConf.create(configuration.to_yaml(config))
    for word in words:
        key, _, value = word.partition("=")
        named = key == "variant" and not value.startswith("{")
        tree = OmegaConf.merge(tree, configuration.fragment("variant", value) if named else dotlist([word]))  # type: ignore[assignment]
    asked = configuration.typed(tree).variant  # type: ignore[arg-type]
    if asked != config.variant and (asked.name == config.variant.name or Path(asked.name).name != asked.name):
        raise SettingError(
            f"variant.name={asked.name} is taken by the run's own variant or is no folder name: give the variant another name"
        )
    return asked


def every_task(config: Config) -> Iterator[Variant]:
    """Every subset of the run's contrasts as inputs with the rest as outputs, of the kinds that its method serves, fewest inputs first."""
    own, kinds = config.variant, registry.method(config.method.name).kinds
    for count in range(1, len(own.modalities)):
        for inputs in combinations(sorted(own.modalities), count):
            outputs = [name for name in sorted(own.modalities) if name not in inputs]
            task = Variant("_".join(["from", *inputs]), list(inputs), outputs)
            if task.kind in kinds:
                yield task


if __name__ == "__main__":
    command(main, __doc__, Settings)

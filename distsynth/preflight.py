"""Checks everything before any work starts: batches, cohorts, the judge. Training and evaluation use the cohorts that it opens."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from distsynth.config import Config
from distsynth.data.cohorts import Cohorts, Opened, external, left_out, trained_on
from distsynth.data.recipes import other_tumour, refuse_other, spacings
from distsynth.evaluation.judge import Judge
from distsynth.methods import registry
from distsynth.ranks.world import World
from distsynth.training.patients import patients
from distsynth.training.precision import resolve
from preprocess.shared.errors import SettingError


def on_one_rank(config: Config, world: World) -> Opened:
    """Check a run and open its cohorts, on rank 0 for all of them. Raises UserError (see `check` and `resolve`) on every rank."""
    opened = None
    with world.together():
        resolve(config.train.precision, world.device)
        if world.leads:
            opened = check(config, world.size)
    return world.from_first(opened)


def check(config: Config, ranks: int) -> Opened:
    """Check a run and open its cohorts. Raises UserError (see `check_all`)."""
    return check_all([config], ranks)[0]


def check_all(configs: Sequence[Config], ranks: int) -> list[Opened]:
    """Check many runs on so many ranks each; a cohort that several of them name is opened once.

    Raises UserError if a batch cannot be shared out evenly to the ranks, a cohort cannot be opened, none of its subjects has the variant's
    modalities, a split that is needed has none, an external one was made by another recipe, or the judge of `evaluate.judge` does not fit.
    """
    cohorts, judged, opened = Cohorts(), set(), []
    for config in configs:
        share_out(config, ranks)
        opened.append(open_cohorts(config, cohorts))
        own = opened[-1].cohort
        for split, purpose in needed(config):
            patients(config, own, split, purpose)
        for name, (other, subjects) in opened[-1].externals.items():
            refuse_other(f"data.external.{name}", other, subjects, own.recipe, spacings(own, own.subjects))
            if warning := other_tumour(f"data.external.{name}", other, own.recipe):
                print(warning, file=sys.stderr)
        question = (config.evaluate.judge, config.method.name, *config.variant.outputs, config.data.store, config.data.fold)
        if question not in judged:
            Judge.of(config, opened[-1].cohort)
            judged.add(question)
    return opened


def needed(config: Config) -> Iterator[tuple[str, str]]:
    """The splits that a training needs patients of, and what for."""
    yield from (("gan", "training"), ("val", "validation"))
    batches = registry.method(config.method.name).batches(config.method, config.train)
    if "method.segmentor.batch" in batches and "segmentor" not in config.train.freeze:
        yield "segmentor", "stage segmentor"


def share_out(config: Config, ranks: int) -> None:
    """Raise SettingError if a batch cannot be shared out evenly to so many ranks."""
    for name, batch in registry.method(config.method.name).batches(config.method, config.train).items():
        if batch % ranks:
            fewer = max(n for n in range(1, ranks) if batch % n == 0)
            raise SettingError(
                f"{name}={batch} cannot be shared by {ranks} ranks: give a multiple of {ranks}, such as "
                f"{name}={-(-batch // ranks) * ranks}, or take {fewer} rank{'s' * (fewer > 1)}"
            )


def open_cohorts(config: Config, cohorts: Cohorts) -> Opened:
    """The run's cohort and its external ones. Raises StoreError if one cannot be opened, or has no subject for the variant."""
    kind, variant = registry.method(config.method.name), config.variant
    whole = cohorts.open(config.data.store, config.data.fold)
    own = trained_on(whole, variant, kind.incomplete)
    externals = {name: external(cohorts.open(store), variant) for name, store in config.data.external.items()}
    return Opened(own, externals, left_out(whole, variant, kind.incomplete, kind.tumours))

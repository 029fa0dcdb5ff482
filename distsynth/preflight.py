"""What is checked before any work starts: batches, cohorts, the judge. What it opens, training and evaluation take over."""

from __future__ import annotations

from distsynth.config import Config
from distsynth.data.cohorts import Cohorts, Opened, external, left_out, trained_on
from distsynth.evaluation.judge import Judge
from distsynth.methods import registry
from distsynth.ranks.world import World
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


def check(config: Config, ranks: int, cohorts: Cohorts | None = None) -> Opened:
    """Check a run, and open its cohorts where `cohorts` does not hold them yet.

    Raises UserError if a batch cannot be shared out evenly to so many ranks, a cohort cannot be opened, none of its subjects has the
    variant's modalities, or the judge of `evaluate.judge` does not fit.
    """
    share_out(config, ranks)
    opened = open_cohorts(config, cohorts or Cohorts())
    Judge.of(config, opened.cohort)
    return opened


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
    return Opened(
        trained_on(whole, variant, kind.incomplete),
        {name: external(cohorts.open(store), variant) for name, store in config.data.external.items()},
        left_out(whole, variant, kind.incomplete, kind.tumours),
    )

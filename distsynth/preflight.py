"""What is checked before any work starts: batches, cohorts, the judge."""

from __future__ import annotations

from distsynth.config import Config
from distsynth.data import cohorts
from distsynth.evaluation.judge import Judge
from distsynth.methods import registry
from preprocess.shared.errors import SettingError


def check(config: Config, ranks: int) -> cohorts.Opened:
    """Raise UserError, before any work, if a batch cannot be shared out evenly to so many ranks, a cohort cannot be opened, none of its
    subjects has the variant's modalities, or the judge of `evaluate.judge` does not fit."""
    kind = registry.method(config.method.name)
    for name, batch in kind.batches(config.method, config.train).items():
        if batch % ranks:
            fewer = max(n for n in range(1, ranks) if batch % n == 0)
            raise SettingError(
                f"{name}={batch} cannot be shared by {ranks} ranks: give a multiple of {ranks}, such as "
                f"{name}={-(-batch // ranks) * ranks}, or take {fewer} rank{'s' * (fewer > 1)}"
            )
    cohort = cohorts.open_cohort(config.data.store, config.variant, config.data.fold, kind.incomplete)
    externals = {name: cohorts.open_external(store, config.variant) for name, store in config.data.external.items()}
    if config.evaluate.judge:
        Judge.of(config)
    return cohorts.Opened(cohort, externals, left_out(config))


def left_out(config: Config) -> str:
    """One sentence on the subjects that a training leaves out, or nothing."""
    kind = registry.method(config.method.name)
    return cohorts.left_out(config.data.store, config.variant, config.data.fold, kind.incomplete, kind.tumours)

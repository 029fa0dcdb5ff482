"""Learning rates as pure functions of the epoch."""

import pytest

from distsynth.config import compose
from distsynth.training.schedule import share


@pytest.mark.parametrize(("epoch", "lr"), [(0, 5e-4), (25, 1e-4), (50, 5e-4), (75, 1e-4), (12.5, 3e-4)])
def test_the_reports_cycle_runs_between_1e4_and_5e4_every_25_epochs(epoch: float, lr: float) -> None:
    train = compose(["method=tcmgan"]).train
    assert train.lr * share(train.schedule, epoch) == pytest.approx(lr)  # type: ignore[arg-type]


@pytest.mark.parametrize(("epoch", "lr"), [(0, 2e-4), (29, 2e-4), (30, 1e-4), (60, 5e-5), (99, 1e-5)])
def test_the_authors_steps(epoch: int, lr: float) -> None:
    train = compose(["method=tcmgan_authors"]).train
    assert train.lr * share(train.schedule, epoch) == pytest.approx(lr)


def test_constant() -> None:
    assert share(compose(["train.schedule.name=constant"]).train.schedule, 17) == 1

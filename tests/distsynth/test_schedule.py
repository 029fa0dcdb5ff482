"""Learning rates as pure functions of the epoch."""

import re

import pytest

from distsynth.config import compose
from distsynth.training.schedule import share
from preprocess.shared.errors import SettingError


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


PIX2PIX = ["method=pix2pix"]


@pytest.mark.parametrize(("epoch", "lr"), [(0, 2e-4), (50, 2e-4), (99, 2e-4), (100, 2e-4 * 100 / 101), (149, 2e-4 * 51 / 101),
                                           (199, 2e-4 / 101), (200, 0), (500, 0)])  # fmt: skip
def test_pix2pix_is_steady_for_100_epochs_and_falls_to_nothing_in_100(epoch: int, lr: float) -> None:
    """The published code counts epochs from 1: 1 - max(0, epoch + 1 - 100) / (100 + 1) of the rate, so that the last of 200 still learns."""
    train = compose(PIX2PIX).train
    assert train.lr * share(train.schedule, epoch) == pytest.approx(lr)


def test_linear_without_a_flat_part_or_without_a_fall() -> None:
    falling = compose(["train.schedule={name: linear, flat: 0, decay: 3}", "train.epochs=3"]).train.schedule
    assert [share(falling, epoch) for epoch in range(5)] == pytest.approx([0.75, 0.5, 0.25, 0, 0])
    sudden = compose(["train.schedule={name: linear, flat: 2, decay: 0}", "train.epochs=2"]).train.schedule
    assert [share(sudden, epoch) for epoch in range(4)] == [1, 1, 0, 0]


def test_epochs_without_any_learning_are_refused() -> None:
    sentence = (
        "train.epochs=400 is longer than the schedule, which ends at a learning rate of 0: "
        "train.schedule.flat=100 and train.schedule.decay=100 must"
    )
    with pytest.raises(SettingError, match=re.escape(sentence)):
        compose(["method=pix2pix", "train.epochs=400"])
    compose(["method=pix2pix", "train.epochs=400", "train.schedule.decay=300"])

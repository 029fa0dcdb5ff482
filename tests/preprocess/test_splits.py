"""Patients are split evenly by grade, the same way every time."""

import random

import pytest

from preprocess.errors import SettingError
from preprocess.splits import SPLITS, SplitSettings, split

BRATS_2018 = {f"H{i}": "HGG" for i in range(210)} | {f"L{i}": "LGG" for i in range(75)}


@pytest.mark.parametrize("n", range(0, 40))
@pytest.mark.parametrize("seed", [0, 1])
def test_every_patient_is_in_exactly_one_split(n: int, seed: int) -> None:
    patients = {f"p{i}": ("HGG", "LGG", "unknown")[i % 3] for i in range(n)}
    made = split(patients, SplitSettings(seed=seed))
    assert sorted(p for name in SPLITS for p in made[name]) == sorted(patients)
    if n >= 5:
        assert all(made[name] for name in SPLITS)
    if n >= 3:
        assert made["gan"]
        assert made["segmentor"]
        assert made["test"]


def test_the_shares_are_the_reports() -> None:
    sizes = {name: len(members) for name, members in split(BRATS_2018, SplitSettings()).items()}
    assert sizes == {"segmentor": 114, "gan": 103, "val": 11, "test": 57}


@pytest.mark.parametrize("seed", range(10))
def test_grades_are_spread_evenly(seed: int) -> None:
    for name, members in split(BRATS_2018, SplitSettings(seed=seed)).items():
        low = sum(BRATS_2018[p] == "LGG" for p in members)
        assert abs(low - len(members) * 75 / 285) <= 2, name


def test_the_order_of_listing_does_not_matter_and_the_seed_does() -> None:
    shuffled = list(BRATS_2018.items())
    random.Random(0).shuffle(shuffled)
    assert split(dict(shuffled), SplitSettings()) == split(BRATS_2018, SplitSettings())
    assert split(BRATS_2018, SplitSettings(seed=1)) != split(BRATS_2018, SplitSettings())


def test_a_cohort_can_be_for_testing_alone() -> None:
    made = split(BRATS_2018, SplitSettings(test=1))
    assert len(made["test"]) == 285
    assert not made["gan"] + made["val"] + made["segmentor"]


@pytest.mark.parametrize("name", ["test", "segmentor", "val"])
@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_outside_0_to_1_is_refused(name: str, share: float) -> None:
    with pytest.raises(SettingError, match=rf"split\.{name}"):
        SplitSettings(**{name: share})

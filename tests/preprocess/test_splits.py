"""Patients are split evenly by grade, reproducibly, and all time points of one into the same split."""

import random
from pathlib import Path

import pytest

from preprocess.shared.errors import SettingError
from preprocess.splits import SPLITS, Member, SplitSettings, split


def members(grades: dict[str, str]) -> list[Member]:
    """One time point a patient."""
    return [Member(patient, patient, grade) for patient, grade in grades.items()]


GRADE = {f"H{i}": "HGG" for i in range(210)} | {f"L{i}": "LGG" for i in range(75)}
BRATS_2018 = members(GRADE)


@pytest.mark.parametrize("n", range(0, 40))
@pytest.mark.parametrize("seed", [0, 1])
def test_every_patient_is_in_exactly_one_split(n: int, seed: int) -> None:
    patients = members({f"p{i}": ("HGG", "LGG", "unknown")[i % 3] for i in range(n)})
    (made,) = split(patients, SplitSettings(seed=seed))
    assert sorted(p for name in SPLITS for p in made[name]) == sorted(m.subject for m in patients)
    if n >= 5:
        assert all(made[name] for name in SPLITS)
    if n >= 3:
        assert made["gan"]
        assert made["segmentor"]
        assert made["test"]


def sizes(settings: SplitSettings) -> dict[str, int]:
    return {name: len(subjects) for name, subjects in split(BRATS_2018, settings)[0].items()}


def test_the_shares_are_the_reports() -> None:
    assert sizes(SplitSettings()) == {"segmentor": 114, "gan": 103, "val": 11, "test": 57}


@pytest.mark.parametrize("counts", [[22, 23, 10], [125, 125, 35], [0, 0, 285]])
def test_counts_are_exact_and_the_other_patients_are_in_no_split(counts: list[int]) -> None:
    made = sizes(SplitSettings(counts=counts))
    assert [made["segmentor"], made["gan"] + made["val"], made["test"]] == counts
    assert made["val"] == round(0.1 * counts[1])


@pytest.mark.parametrize("settings", [SplitSettings(seed=4), SplitSettings(counts=[125, 125, 35]), SplitSettings(folds=5)])
def test_grades_are_spread_evenly(settings: SplitSettings) -> None:
    for fold in split(BRATS_2018, settings):
        for name, subjects in fold.items():
            low = sum(GRADE[p] == "LGG" for p in subjects)
            assert abs(low - len(subjects) * 75 / 285) <= 2, name


def test_every_patient_is_tested_in_exactly_one_of_the_folds() -> None:
    folds = split(BRATS_2018, SplitSettings(folds=5))
    assert len(folds) == 5
    assert sorted(s for fold in folds for s in fold["test"]) == sorted(GRADE)
    for fold in folds:
        assert sorted(s for name in SPLITS for s in fold[name]) == sorted(GRADE)
        assert len(fold["test"]) == 57
        assert all(fold[name] for name in SPLITS)


@pytest.mark.parametrize("settings", [SplitSettings(), SplitSettings(counts=[22, 23, 10]), SplitSettings(folds=3)])
def test_the_order_of_listing_does_not_matter_and_the_seed_does(settings: SplitSettings) -> None:
    shuffled = list(BRATS_2018)
    random.Random(0).shuffle(shuffled)
    made = split(BRATS_2018, settings)
    assert split(shuffled, settings) == made
    settings.seed = 1
    assert split(BRATS_2018, settings) != made


@pytest.mark.parametrize("settings", [SplitSettings(), SplitSettings(counts=[5, 5, 5]), SplitSettings(folds=4)])
def test_time_points_of_a_patient_stay_together(settings: SplitSettings) -> None:
    visits = [Member(f"p{i}_{t}", f"p{i}", "HGG") for i in range(20) for t in range(1 + i % 3)]
    for fold in split(visits, settings):
        homes: dict[str, set[str]] = {}
        for name in SPLITS:
            for subject in fold[name]:
                homes.setdefault(subject.split("_")[0], set()).add(name)
        assert all(len(names) == 1 for names in homes.values())
        assigned = {s for name in SPLITS for s in fold[name]}
        assert {m.subject for m in visits if m.patient in homes} == assigned


def test_a_cohort_can_be_only_for_testing() -> None:
    assert sizes(SplitSettings(test=1)) == {"segmentor": 0, "gan": 0, "val": 0, "test": 285}


VISITS = [Member("a_1", "a", "HGG"), Member("a_2", "a", "HGG"), Member("b_1", "b", "LGG"), Member("c_1", "c", "LGG")]


def listing(tmp_path: Path, text: str) -> SplitSettings:
    (tmp_path / "my split.csv").write_text(text)
    return SplitSettings(file=str(tmp_path / "my split.csv"))


def test_a_users_list_is_taken_as_it_is(tmp_path: Path) -> None:
    by_patient = listing(tmp_path, "patient, split\na, gan\nb, test\n")
    assert split(VISITS, by_patient) == [{"segmentor": [], "gan": ["a_1", "a_2"], "val": [], "test": ["b_1"]}]
    by_subject = listing(tmp_path, "\ufeffsplit,subject\ngan,a_2\nval,c_1\n")
    assert split(VISITS, by_subject) == [{"segmentor": [], "gan": ["a_2"], "val": ["c_1"], "test": []}]


@pytest.mark.parametrize(
    "text",
    [
        "subject;split\r\nSUB-X_1;GAN\r\ny;Test\r\n", "\ufeffparticipant_id\tsplit\nX\tgan\nsub-y\ttest\n",
        'Split , Patient\n gan,"x"\ntest , sub-Y\n',
    ],
)  # fmt: skip
def test_a_users_list_is_read_as_people_and_excel_write_it(tmp_path: Path, text: str) -> None:
    people = [Member("sub-X_1", "sub-X", "HGG"), Member("sub-y", "sub-y", "LGG")]
    assert split(people, listing(tmp_path, text)) == [{"segmentor": [], "gan": ["sub-X_1"], "val": [], "test": ["sub-y"]}]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("subject,split\na_1,gan\na_2,test\n", r"leaks: patient a is in gan \(a_1\) and in test \(a_2\)"),
        ("patient,split\na,gan\na,val\n", "leaks: patient a"),
        ("subject,split\nz,gan\n", "names z, which is not a subject"),
        ("subject,split\na_1,train\n", "line 2: 'train' is not a split: choose from segmentor, gan, val, test"),
        ("a_1,gan\nb_1,gan\n", "line 2: expected the columns"),
        ("subject,split\n", "has no rows"),
        ("", "has no rows"),
    ],
)
def test_a_leak_or_a_mistake_in_a_users_list_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        split(VISITS, listing(tmp_path, text))


def test_a_missing_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"none\.csv cannot be read"):
        split(VISITS, SplitSettings(file=str(tmp_path / "none.csv")))


@pytest.mark.parametrize("name", ["test", "segmentor", "val"])
@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_outside_0_to_1_is_refused(name: str, share: float) -> None:
    with pytest.raises(SettingError, match=rf"split\.{name}"):
        SplitSettings(**{name: share})


@pytest.mark.parametrize("bad", [{"counts": [1, 2]}, {"counts": [1, -1, 2]}, {"folds": 0}, {"folds": 2, "counts": [1, 1, 1]}])
def test_impossible_settings_are_refused(bad: dict) -> None:
    with pytest.raises(SettingError, match=r"split\."):
        SplitSettings(**bad)


@pytest.mark.parametrize("settings", [SplitSettings(counts=[200, 80, 10]), SplitSettings(folds=286)])
def test_more_patients_than_there_are_is_refused(settings: SplitSettings) -> None:
    with pytest.raises(SettingError, match="and there are 285"):
        split(BRATS_2018, settings)

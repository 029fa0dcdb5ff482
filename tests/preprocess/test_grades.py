"""Grades come from the nearest folder, else from tables among the data."""

from pathlib import Path

import pytest

from preprocess.shared.errors import UserError
from preprocess.source.grades import grade_in, listed_grades


def table(folder: Path, name: str, *lines: str) -> Path:
    (folder / name).write_text("\n".join(lines), encoding="utf-8-sig")
    return folder / name


def test_a_mapping_gives_the_grade_for_the_name_of_every_year(tmp_path: Path) -> None:
    path = table(
        tmp_path, "name_mapping.csv", "Grade,BraTS_2019_subject_ID,BraTS_2020_subject_ID,TCIA_ID", "LGG,BraTS19_X_1,B20,NA"
    )
    assert listed_grades([path]) == {"BraTS19_X_1": "LGG", "B20": "LGG", "NA": "LGG"}


def test_every_patient_of_the_challenges_survival_table_has_a_high_grade(tmp_path: Path) -> None:
    assert listed_grades([table(tmp_path, "survival_info.csv", "Brats20ID,Age,Survival_days", "B20_1,60.4,289")]) == {
        "B20_1": "HGG"
    }


def test_a_column_of_grades_counts_and_may_hold_who_grades(tmp_path: Path) -> None:
    survival = table(tmp_path, "Survival.csv", "ID,Grade,Age", "a,II,60", "b,IV,30", "c,,30", "d,HGG,1")
    people = table(tmp_path, "participants.tsv", "participant_id\tGrade", "sub-1\t2", "sub-2\tn/a", "d\tLGG")
    assert listed_grades([survival, people]) == {"a": "LGG", "b": "HGG", "sub-1": "LGG", "d": "LGG"}


def test_the_nearest_folder_counts(tmp_path: Path) -> None:
    assert grade_in(tmp_path / "hgg" / "LGG" / "a" / "a_t1.nii") == "LGG"
    assert grade_in(tmp_path / "a_t1.nii") == ""


def test_an_unreadable_table_is_one_sentence(tmp_path: Path) -> None:
    path = table(tmp_path, "survival.csv", "a_id,b", '"' + "x" * 200_000 + '",1')
    with pytest.raises(UserError, match=r"survival\.csv cannot be read \(field larger"):
        listed_grades([path])

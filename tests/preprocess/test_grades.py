"""Grades come from the nearest folder, else from tables among the data."""

from pathlib import Path

import pytest

from preprocess.source.brats import discover
from preprocess.source.grades import grade_in, listed_grades


def table(folder: Path, name: str, *lines: str) -> Path:
    (folder / name).write_text("\n".join(lines), encoding="utf-8-sig")
    return folder / name


def test_a_mapping_gives_the_grade_for_the_name_of_every_year(tmp_path: Path) -> None:
    path = table(
        tmp_path, "name_mapping.csv", "Grade,BraTS_2019_subject_ID,BraTS_2020_subject_ID,TCIA_ID", "LGG,BraTS19_X_1,B20,NA"
    )
    assert listed_grades([path])[0] == {"BraTS19_X_1": "LGG", "B20": "LGG", "NA": "LGG"}


def test_every_patient_of_the_challenges_survival_table_has_a_high_grade(tmp_path: Path) -> None:
    assert listed_grades([table(tmp_path, "survival_info.csv", "Brats20ID,Age,Survival_days", "B20_1,60.4,289")])[0] == {
        "B20_1": "HGG"
    }


def test_a_column_of_grades_counts_and_may_hold_who_grades(tmp_path: Path) -> None:
    survival = table(tmp_path, "Survival.csv", "ID,Grade,Age", "a,II,60", "b,IV,30", "c,,30", "d,HGG,1")
    people = table(tmp_path, "participants.tsv", "participant_id\tGrade", "sub-1\t2", "sub-2\tn/a", "d\tLGG")
    assert listed_grades([survival, people])[0] == {"a": "LGG", "b": "HGG", "sub-1": "LGG", "d": "LGG"}


def test_the_nearest_folder_counts(tmp_path: Path) -> None:
    assert grade_in(tmp_path / "hgg" / "LGG" / "a" / "a_t1.nii") == "LGG"
    assert grade_in(tmp_path / "a_t1.nii") == ""


def test_a_table_that_cannot_be_read_is_reported_and_stops_nothing(tmp_path: Path) -> None:
    tables = [table(tmp_path, "survival.csv", "a_id,b", '"' + "x" * 200_000 + '",1'), tmp_path / "participants.tsv"]
    tables[1].symlink_to("../.git/annex/objects/x/MD5E-s9--0.tsv")
    for name, content in (
        ("name_mapping_a.csv", b"version https://git-lfs.github.com/spec/v1\n"),
        ("name_mapping_b.csv", b"\x00\x01\x02"),
        ("name_mapping_c.csv", b""),
    ):
        tables.append(tmp_path / name)
        tables[-1].write_bytes(content)
    tables.append(table(tmp_path, "name_mapping_d.csv", "Grade,ID", "LGG,a"))
    grades, unread = listed_grades(tables)
    assert grades == {"a": "LGG"}
    assert [line.split(" cannot")[0] for line in unread] == [
        f"left out: {name}" for name in ("survival.csv", "participants.tsv", *(f"name_mapping_{c}.csv" for c in "abc"))
    ]
    assert "field larger" in unread[0]
    assert "is not fetched: run datalad get" in unread[1]


def test_a_table_may_be_in_the_encodings_of_excel(tmp_path: Path) -> None:
    (tmp_path / "participants.tsv").write_bytes("participant_id\tgrade\nsub-ä\tIV\n".encode("utf-16"))
    (tmp_path / "survival.csv").write_bytes("ID,Grade\nMüller,LGG\n".encode("latin-1"))
    assert listed_grades(sorted(tmp_path.iterdir())) == ({"sub-ä": "HGG", "Müller": "LGG"}, [])


BOM = "\ufeff"


@pytest.mark.parametrize(
    "text",
    [
        "participant_id\tgrade\n01\tIV\n02\tII\n", "participant_id,grade\nsub-01,IV\nsub-02,II\n", "participant_id;Grade\r\nSUB-01;4\r\nSub-02;2\r\n",
        BOM + "participant_id\tWHO_grade\r\nsub-01\tWHO grade IV\r\nsub-02\tgrade 2\r\n",
        '"participant_id","age","grade"\n"01","40","HGG"\n"02","","lgg"\n',
    ],
)  # fmt: skip
def test_a_table_of_participants_is_read_as_people_write_it(tmp_path: Path, text: str) -> None:
    for subject in ("sub-01", "sub-02"):
        (tmp_path / subject / "anat").mkdir(parents=True)
        (tmp_path / subject / "anat" / f"{subject}_T1w.nii.gz").touch()
    (tmp_path / "participants.tsv").write_bytes(text.encode())
    discovery = discover(tmp_path)
    assert [case.grade for case in discovery.cases] == ["HGG", "LGG"]
    assert "match no case" not in discovery.message


def test_names_that_match_no_case_are_counted(tmp_path: Path) -> None:
    (tmp_path / "anat").mkdir()
    (tmp_path / "anat" / "sub-001_T1w.nii.gz").touch()
    (tmp_path / "participants.tsv").write_text("participant_id\tgrade\nsub-1\tIV\nsub-001\tII\nsub-009\tn/a\n")
    discovery = discover(tmp_path)
    assert discovery.cases[0].grade == "LGG"
    assert "1 of 2 names in the tables of grades match no case, such as sub-1" in discovery.message
    assert discovery.left_out == []


def test_the_names_of_other_years_and_of_cases_elsewhere_are_no_alarm(tmp_path: Path) -> None:
    table(tmp_path, "name_mapping.csv", "Grade,BraTS_2019_subject_ID,BraTS_2020_subject_ID", "LGG,BraTS19_X_1,B20", "HGG,Y,B21")
    for name in ("B20", "sub-B21"):
        (tmp_path / f"{name}_t1.nii.gz").touch()
    discovery = discover(tmp_path)
    assert [case.grade for case in discovery.cases] == ["LGG", "HGG"]
    assert "match no case" not in discovery.message


def test_a_name_that_could_be_two_is_neither(tmp_path: Path) -> None:
    for name in ("sub-a", "A"):
        (tmp_path / f"{name}_t1.nii.gz").touch()
    table(tmp_path, "participants.tsv", "participant_id\tgrade", "a\tIV")
    discovery = discover(tmp_path)
    assert [case.grade for case in discovery.cases] == ["unknown", "unknown"]
    assert "1 of 1 names in the tables of grades match no case, such as a" in discovery.message

"""Grades come from the nearest folder, else from tables among the data."""

from pathlib import Path

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

"""Cases are found by the challenge's names of each year."""

from pathlib import Path

import pytest

from preprocess.brats import MODALITIES, discover, patient_of
from preprocess.errors import CaseError, UserError

BRATS_2023 = {"t1": "-t1n", "t1c": "-t1c", "t2": "-t2w", "flair": "-t2f", "seg": "-seg"}


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def names_of(case: str, style: str = "2018", ext: str = ".nii.gz") -> list[str]:
    suffixes = ("_t1", "_t1ce", "_t2", "_flair", "_seg") if style == "2018" else tuple(BRATS_2023.values())
    return [case + suffix + ext for suffix in suffixes]


@pytest.mark.parametrize("ext", [".nii", ".nii.gz"])
@pytest.mark.parametrize("style", ["2018", "2023"])
def test_both_years_names_give_the_same_modalities(tmp_path: Path, style: str, ext: str) -> None:
    touch(tmp_path / "deep" / "er", *names_of("case 1 é", style, ext))
    (case,) = discover(tmp_path).cases
    assert case.name == "case 1 é"
    assert set(case.files) == {*MODALITIES, "seg"}
    assert case.files["t1c"].name == f"case 1 é{'_t1ce' if style == '2018' else '-t1c'}{ext}"
    assert case.files["t1"].name == f"case 1 é{'_t1' if style == '2018' else '-t1n'}{ext}"


def test_other_files_are_ignored(tmp_path: Path) -> None:
    touch(tmp_path / "a", *names_of("a"), "a_notes.nii.gz", "a_t1.json", "._a_t1.nii.gz", "survival.csv")
    touch(tmp_path / "truth", "a.json", "a_log_bias.npz")
    assert [case.name for case in discover(tmp_path).cases] == ["a"]


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("Brats18_2013_2_1", "Brats18_2013_2"),
        ("BraTS19_TCIA01_131_2", "BraTS19_TCIA01_131"),
        ("BraTS-GLI-00000-000", "BraTS-GLI-00000"),
        ("BraTS-GLI-00000-001", "BraTS-GLI-00000"),
        ("BraTS20_Training_001", "BraTS20_Training_001"),  # the last number is the patient's
        ("BraTS2021_00002", "BraTS2021_00002"),
        ("TCGA-DU-7294", "TCGA-DU-7294"),
    ],
)
def test_time_points_share_a_patient(name: str, patient: str) -> None:
    assert patient_of(name) == patient


def test_the_nearest_folder_names_the_grade(tmp_path: Path) -> None:
    touch(tmp_path / "HGG" / "LGG" / "a", *names_of("a"))
    assert discover(tmp_path).cases[0].grade == "LGG"


def test_a_mapping_names_the_grade_where_no_folder_does(tmp_path: Path) -> None:
    header = "Grade,BraTS_2017_subject_ID,BraTS_2018_subject_ID,BraTS_2019_subject_ID,BraTS_2020_subject_ID\n"
    (tmp_path / "name_mapping.csv").write_text(header + "LGG,NA,NA,BraTS19_X_1,BraTS20_Training_001\n")
    touch(tmp_path, *names_of("BraTS20_Training_001"), *names_of("BraTS20_Training_002"))
    assert [case.grade for case in discover(tmp_path).cases] == ["LGG", "unknown"]


def test_linked_folders_are_followed_and_a_loop_ends(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere" / "a", *names_of("a"))
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a").symlink_to(tmp_path / "elsewhere" / "a")
    (tmp_path / "source" / "loop").symlink_to(tmp_path / "source")
    (case,) = discover(tmp_path / "source").cases
    case.check()


def test_a_missing_modality_and_a_second_file_are_told_by_check(tmp_path: Path) -> None:
    touch(tmp_path / "1", *names_of("lacking")[1:])
    touch(tmp_path / "1", *names_of("twice"))
    touch(tmp_path / "2", "twice_t2.nii.gz")
    lacking, twice = discover(tmp_path).cases
    with pytest.raises(CaseError, match=r"lacking: no t1 file"):
        lacking.check()
    with pytest.raises(CaseError, match=r"1/twice_t2\.nii\.gz and 2/twice_t2\.nii\.gz are both its t2"):
        twice.check()


def test_a_wrong_folder_is_told_with_the_names_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        discover(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"holds no case.*CASE_t1ce.*-t2f"):
        discover(tmp_path)

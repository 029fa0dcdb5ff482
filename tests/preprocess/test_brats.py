"""Cases are recognised by the file names of each year's challenge."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from preprocess.shared.errors import CaseError, UserError
from preprocess.source.brats import discover, patient_of
from preprocess.source.layouts import MODALITIES

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
def test_the_names_of_both_years_give_the_same_modalities(tmp_path: Path, style: str, ext: str) -> None:
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
        ("brats_tcia_pat105_0001", "brats_tcia_pat105"),
        ("brats_2013_pat0001_1", "brats_2013_pat0001"),
        ("sub-X1_ses-post", "sub-X1"),
        ("BraTS20_Training_001", "BraTS20_Training_001"),  # the last number is the patient's
        ("BraTS2021_00002", "BraTS2021_00002"),
        ("TCGA-DU-7294", "TCGA-DU-7294"),
    ],
)
def test_time_points_share_a_patient(name: str, patient: str) -> None:
    assert patient_of(name) == patient


def test_a_folder_names_the_grade_and_a_table_where_no_folder_does(tmp_path: Path) -> None:
    (tmp_path / "name_mapping.csv").write_text(
        "Grade,BraTS_2020_subject_ID\nLGG,BraTS20_Training_001\nLGG,BraTS20_Training_003\n"
    )
    touch(tmp_path, *names_of("BraTS20_Training_001"), *names_of("BraTS20_Training_002"))
    touch(tmp_path / "HGG", *names_of("BraTS20_Training_003"))
    assert [case.grade for case in discover(tmp_path).cases] == ["LGG", "unknown", "HGG"]


def test_linked_folders_are_followed_and_a_loop_ends(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere" / "a", *names_of("a"))
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a").symlink_to(tmp_path / "elsewhere" / "a")
    (tmp_path / "source" / "loop").symlink_to(tmp_path / "source")
    (case,) = discover(tmp_path / "source").cases
    case.check()


def test_check_names_a_missing_modality_and_a_second_file(tmp_path: Path) -> None:
    touch(tmp_path / "1", *names_of("lacking")[1:])
    touch(tmp_path / "1", *names_of("twice"))
    touch(tmp_path / "2", "twice_t2.nii.gz")
    lacking, twice = discover(tmp_path).cases
    with pytest.raises(CaseError, match=r"lacking: no t1 file"):
        lacking.check()
    with pytest.raises(CaseError, match=r"1/twice_t2\.nii\.gz and 2/twice_t2\.nii\.gz are both its t2"):
        twice.check()


def test_auto_takes_every_layout_and_counts_each(tmp_path: Path) -> None:
    for i in range(3):
        touch(tmp_path / "new", *names_of(f"new{i}", "2023"))
    touch(tmp_path / "old", *names_of("old"))
    touch(
        tmp_path / "sub-1" / "anat", *(f"sub-1_{w}.nii.gz" for w in ("T1w", "ce-gd_T1w", "T2w", "FLAIR"))
    )  # also fits brats2018
    touch(tmp_path / "derivatives" / "x", "sub-1_desc-preproc_FLAIR.nii.gz")
    touch(tmp_path / "old", "unpaired_seg.nii.gz")
    discovery = discover(tmp_path)
    assert [case.name for case in discovery.cases] == ["new0", "new1", "new2", "old", "sub-1"]
    assert discovery.message.startswith("layout brats2023: 3 cases in 15 files")
    assert "\nlayout brats2018: 1 cases in 5 files" in discovery.message
    assert "\nlayout bids: 1 cases in 4 files" in discovery.message
    assert discovery.left_out == ["left out: 1 labels or masks without an image, such as unpaired_seg.nii.gz"]
    discovery = discover(tmp_path, "brats2023")
    assert [case.name for case in discovery.cases] == ["new0", "new1", "new2"]
    assert "left out: 4 images named as in brats2018, such as old_flair.nii.gz: layout=auto reads them too" in discovery.message
    assert "left out: 4 images named as in bids, such as sub-1_FLAIR.nii.gz: layout=auto" in discovery.message


def test_bids_sessions_are_time_points_and_derived_images_do_not_shadow_raw_ones(tmp_path: Path) -> None:
    for session in ("ses-1", "ses-2"):
        raw = f"sub-1_{session}"
        touch(tmp_path / "sub-1" / session / "anat", *(f"{raw}_{w}.nii.gz" for w in ("T1w", "ce-gd_T1w", "T2w", "FLAIR")))
        touch(
            tmp_path / "derivatives" / "x" / "sub-1",
            f"{raw}_dseg.nii.gz",
            f"{raw}_desc-preproc_FLAIR.nii.gz",
            f"{raw}_desc-2_FLAIR.nii",
        )
    (tmp_path / "participants.tsv").write_text("participant_id\tgrade\nsub-1\tHGG\n")
    discovery = discover(tmp_path)
    assert [(case.name, case.patient, case.grade) for case in discovery.cases] == [
        ("sub-1_ses-1", "sub-1", "HGG"),
        ("sub-1_ses-2", "sub-1", "HGG"),
    ]
    for case in discovery.cases:
        case.check()
        assert {"seg"} == set(case.files) - set(MODALITIES)
        assert not any("derivatives" in case.files[m].parts for m in MODALITIES)


def test_two_runs_of_one_contrast_are_refused_naming_both(tmp_path: Path) -> None:
    touch(tmp_path / "sub-1" / "anat", *(f"sub-1_{w}.nii.gz" for w in ("T1w", "ce-gd_T1w", "T2w", "FLAIR", "run-2_T2w")))
    with pytest.raises(CaseError, match=r"sub-1_T2w\.nii\.gz and sub-1/anat/sub-1_run-2_T2w\.nii\.gz are both its t2"):
        discover(tmp_path).cases[0].check()


def test_one_image_as_nii_and_as_nii_gz_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, *names_of("a"), "a_t1.nii")
    with pytest.raises(CaseError, match=r"a_t1\.nii and a_t1\.nii\.gz are both its t1"):
        discover(tmp_path).cases[0].check()


def test_a_pattern_numbers_cases_by_patient_and_may_name_the_grade(tmp_path: Path) -> None:
    for patient in ("p1", "p2"):
        touch(tmp_path / "LGG" / patient / "visit1", "pre.nii", "post.nii", "T2.nii", "flair.nii")
    discovery = discover(tmp_path, pattern="{grade}/{patient}/{case}/{modality}.nii", names={"pre": "t1", "Post": "t1c"})
    assert [(case.name, case.patient, case.grade) for case in discovery.cases] == [
        ("p1_visit1", "p1", "LGG"),
        ("p2_visit1", "p2", "LGG"),
    ]
    discovery.cases[0].check()


@pytest.mark.parametrize("name", ["..", ".hidden", "a\\b", "line\nbreak", os.fsdecode(b"latin-\xe9")])
def test_a_name_that_the_store_cannot_have_is_set_aside(tmp_path: Path, name: str) -> None:
    touch(tmp_path, *names_of(name))
    (case,) = discover(tmp_path).cases
    case.name.encode()
    with pytest.raises(CaseError, match="cannot have this name"):
        case.check()


def test_a_case_needs_only_what_is_required(tmp_path: Path) -> None:
    touch(tmp_path, "a_t2.nii.gz")
    (case,) = discover(tmp_path).cases
    case.check(["t2"])
    with pytest.raises(CaseError, match="no t1, t1c, flair file beside a_t2"):
        case.check()


def test_a_folder_that_cannot_be_listed_is_reported() -> None:
    with TemporaryDirectory() as place:  # tmp_path is closed to all but its owner
        Path(place).chmod(0o755)
        touch(Path(place) / "open", *names_of("a"))
        touch(Path(place) / "closed", *names_of("b"))
        (Path(place) / "closed").chmod(0)
        user = os.geteuid()
        os.seteuid(user or 65534)  # root may list anything
        try:
            discovery = discover(Path(place))
        finally:
            os.seteuid(user)
    assert [case.name for case in discovery.cases] == ["a"]
    assert "closed cannot be listed (Permission denied)" in discovery.message


def test_a_wrong_folder_is_refused_with_the_expected_names(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        discover(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"holds no case.*CASE_t1ce.*-t2f.*it holds no file"):
        discover(tmp_path)
    touch(tmp_path / "x", "scan1.dcm", *names_of("a"))
    with pytest.raises(
        UserError,
        match=r"expected \{case\}\.\{modality\} \(pattern\); it holds x/a_flair.*; left out: 4 images named as in brats2018",
    ):
        discover(tmp_path, pattern="{case}.{modality}")

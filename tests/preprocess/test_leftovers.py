"""Scans that no case took are reported, and what tools write beside scans is not."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from preprocess.shared.errors import UserError
from preprocess.source.brats import discover

CASE = ("a_t1.nii.gz", "a_t1ce.nii.gz", "a_t2.nii.gz", "a_flair.nii.gz")
RAW = ("sub-1_T1w.nii.gz", "sub-1_ce-gd_T1w.nii.gz", "sub-1_T2w.nii.gz", "sub-1_FLAIR.nii.gz")


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


@pytest.mark.parametrize(
    "name",
    [
        "b/T1.nii.gz",
        "b/b_T1w_brain.nii.gz",
        "b/scan.nii",
        "a/b_t1_raw.nii.gz",
        "a/a_t1post_x.mha",
        "b/b_t1.img",
        "sub-2/sub-2_T1w.nii.gz",
    ],
)
def test_a_scan_that_fits_no_layout_is_reported_with_an_example(tmp_path: Path, name: str) -> None:
    touch(tmp_path / "a", *(each for each in CASE if "t1ce" not in each))
    touch((tmp_path / name).parent, Path(name).name)
    (line,) = discover(tmp_path).left_out
    assert line.startswith(f"left out: 1 images that fit no layout, such as {name}: as NIfTI files named CASE_t1.nii.gz")


@pytest.mark.parametrize(
    "name",
    [
        "a/a_t1_bias.nii.gz", "a/a_mask2.nii.gz", "a/a_adc.nii.gz", "a/a_t1ce_to_t1.nii.gz", "a/._a_t1.nii.gz", "a/a.bvec", "extra/a_t2_n4.nii.gz",
        "masks/tumour-prob.nii.gz", "probability_maps/a.nii.gz", "out/a_flair_synth.nii.gz", "derivatives/x/sub-1_desc-synth_T2w.nii.gz",
        "derivatives/fmriprep/sub-1/anat/sub-1_desc-preproc_T1w.nii.gz", "derivatives/fmriprep/sub-1/anat/sub-1_space-MNI_dseg.nii.gz",
        "derivatives/fmriprep/sub-1/anat/sub-1_label-GM_probseg.nii.gz", "sub-1/func/sub-1_task-rest_bold.nii.gz", "sub-1/dwi/sub-1_dwi.nii.gz",
        "sub-1/anat/sub-1_ce-gd_FLAIR.nii.gz", "sub-1/anat/sub-1_part-phase_T1w.nii.gz", "sub-1/anat/sub-1_PD.nii.gz",
        "sub-1/fmap/sub-1_dir-AP_epi.nii.gz",
    ],
)  # fmt: skip
def test_what_stands_beside_scans_is_no_alarm(tmp_path: Path, name: str) -> None:
    touch(tmp_path / "a", *CASE)
    touch(tmp_path / "sub-1" / "anat", *RAW)
    touch((tmp_path / name).parent, Path(name).name)
    discovery = discover(tmp_path)
    assert discovery.left_out == []
    assert [case.name for case in discovery.cases] == ["a", "sub-1"]
    for case in discovery.cases:
        case.check()


@pytest.mark.parametrize(
    "name",
    [
        *(f"a/a_{word}.nii.gz" for word in (
            "segmentation", "label", "labels", "tumor", "seg_v2", "seg_corrected", "GlistrBoost_ManuallyCorrected", "GlistrBoost", "tumorseg",
            "tumor_segmentation", "lesion", "gt", "truth", "mask_tumor", "OT", "roi", "seg1",
        )),
        "labels/a.nii.gz", "segmentations/a.nii.gz", "a/seg.nii.gz", "a/a.nii.gz", "a/labels/tumor.nii.gz", "masks/a_tumor_mask.nii.gz",
        *(f"derivatives/x/sub-1/anat/sub-1_{word}.nii.gz" for word in (
            "dseg_v2", "dseg_final", "tumor", "tumorseg", "desc-tumor", "label", "labels", "segmentation", "lesion", "mask_tumor",
        )),
    ],
)  # fmt: skip
def test_labels_that_no_layout_reads_are_reported(tmp_path: Path, name: str) -> None:
    touch(tmp_path / "a", *CASE)
    touch(tmp_path / "sub-1" / "anat", *RAW)
    touch((tmp_path / name).parent, Path(name).name)
    (line,) = discover(tmp_path).left_out
    assert line.startswith("left out: 1 ")
    assert Path(name).name in line
    own = "a_seg.nii.gz" if name.startswith(("a", "labels", "seg", "masks")) else "derivatives/y/sub-1/anat/sub-1_dseg.nii.gz"
    touch((tmp_path / "a" / own).parent if own.startswith("a") else (tmp_path / own).parent, Path(own).name)
    assert discover(tmp_path).left_out == []


def test_labels_that_were_joined_by_their_name_only_are_said(tmp_path: Path) -> None:
    touch(tmp_path / "siteA" / "001", *(name.replace("a_", "001_") for name in CASE))
    touch(tmp_path / "siteB" / "001", "001_seg.nii.gz")
    said = "the labels of 1 cases lie in other folders than their scans, such as siteB/001/001_seg.nii.gz for siteA/001/001_t1.nii.gz"
    assert said in discover(tmp_path).message
    assert "other folders" not in discover(tmp_path / "siteA").message


def test_synthesised_images_never_count(tmp_path: Path) -> None:
    touch(tmp_path / "a", *CASE)
    image = nib.Nifti1Image(np.zeros((2, 2, 2), "f4"), np.eye(4))
    image.header["descrip"] = b"SYNTHETIC by x"
    (tmp_path / "b").mkdir()
    nib.save(image, tmp_path / "b" / "T1.nii.gz")
    assert discover(tmp_path).left_out == []


def test_a_pattern_that_fits_nothing_says_what_it_would_have_needed(tmp_path: Path) -> None:
    touch(tmp_path / "x" / "p1", "p1_weird.nii.gz")
    with pytest.raises(UserError, match=r"x/p1/p1_weird.nii.gz fits if weird is a word for a contrast: give words.weird=KIND"):
        discover(tmp_path, pattern="**/{case}_{modality}.nii.gz", words="words")
    with pytest.raises(
        UserError, match=r"begin the pattern with \*\*/ \(x/p1/p1_weird.nii.gz lies in 2 folders\), and give names.weird"
    ):
        discover(tmp_path, pattern="{case}_{modality}.nii.gz")
    with pytest.raises(UserError, match=r"pattern=: a pattern is a path below source with \{case\}"):
        discover(tmp_path)


def test_an_output_named_after_a_case_and_a_contrast_is_no_case_and_is_mentioned(tmp_path: Path) -> None:
    touch(tmp_path, *CASE, "a_t1ce_to_t1.nii.gz", "a_2_t1.nii.gz")
    discovery = discover(tmp_path)
    assert [case.name for case in discovery.cases] == ["a", "a_2"]
    assert "not read: 1 images made of a case's contrasts, such as a_t1ce_to_t1.nii.gz" in discovery.message


def test_labels_that_a_case_lacks_are_reported_under_a_name_near_its_own(tmp_path: Path) -> None:
    touch(tmp_path / "a", *CASE, "a_final_seg.nii.gz")
    assert discover(tmp_path).left_out == ["left out: 1 labels or masks without an image, such as a_final_seg.nii.gz"]
    touch(tmp_path / "a", "a_seg.nii.gz")
    assert discover(tmp_path).left_out == []


def test_a_subjects_labels_beside_scans_in_sessions_are_reported(tmp_path: Path) -> None:
    touch(tmp_path / "sub-1/ses-1/anat", *(name.replace("sub-1", "sub-1_ses-1") for name in RAW))
    touch(tmp_path / "derivatives/x/sub-1", "sub-1_dseg.nii.gz", "sub-1_desc-brain_mask.nii.gz")
    assert discover(tmp_path).left_out == ["left out: 1 labels or masks without an image, such as sub-1_dseg.nii.gz"]

"""One file of each kind is taken by rule, or the message names a rule or pattern that works when it is followed."""

import re
import shlex
from pathlib import Path

import pytest

from preprocess.shared.errors import CaseError
from preprocess.source.brats import discover

CONTRASTS = {"t1": "T1w", "t1c": "ce-gd_T1w", "t2": "T2w", "flair": "FLAIR"}
OF_2018 = ("t1", "t1ce", "t2", "flair", "seg")


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def bids(root: Path, subject: str, **words: str) -> Path:
    """A subject's raw images; `words` replace those of a contrast."""
    anat = root / subject / "anat"
    touch(anat, *(f"{subject}_{word}.nii.gz" for word in (CONTRASTS | words).values()))
    return anat


def followed(source: Path, sentence: str) -> dict[str, dict[str, str]]:
    """The cases that the pattern in a sentence gives."""
    words = [word.partition("=") for word in shlex.split(re.search(r"select one with (.*)", sentence)[1])]
    names = {key.removeprefix("names."): value for key, _, value in words if key.startswith("names.")}
    (pattern,) = (value for key, _, value in words if key == "pattern")
    cases = discover(source, pattern=pattern, names=names).cases
    for case in cases:
        case.check()
    return {case.name: {kind: path.name for kind, path in case.files.items()} for case in cases}


def test_of_runs_the_first_or_last_is_taken_as_numbers_or_the_case_is_refused_with_a_pattern_that_works(tmp_path: Path) -> None:
    anat = bids(tmp_path, "sub-01", t1="run-2_T1w")
    bids(tmp_path, "sub-02", t1="run-2_T1w")
    touch(anat, "sub-01_run-10_T1w.nii.gz")
    touch(tmp_path / "derivatives" / "x" / "sub-01" / "anat", "sub-01_desc-brain_mask.nii.gz", "sub-01_dseg.nii.gz")
    case = discover(tmp_path).cases[0]
    with pytest.raises(
        CaseError, match=r"run-2_T1w\.nii\.gz and .*run-10_T1w\.nii\.gz are both its t1: keep one, or set bids\.run=first"
    ) as refusal:
        case.check()
    taken = followed(tmp_path, str(refusal.value))
    assert taken["sub-01"]["t1"] == "sub-01_run-2_T1w.nii.gz"
    assert taken["sub-01"].keys() == {"t1", "t1c", "t2", "flair", "seg", "mask"}
    assert taken["sub-02"].keys() == {"t1", "t1c", "t2", "flair"}
    for run, number in (("first", 2), ("last", 10)):
        discovery = discover(tmp_path, run=run)
        assert discovery.cases[0].files["t1"].name == f"sub-01_run-{number}_T1w.nii.gz"
        assert f"bids.run={run}: 1 images of other runs are not read" in discovery.message
        assert not discovery.left_out


def test_a_rule_on_runs_does_not_choose_between_acquisitions(tmp_path: Path) -> None:
    anat = bids(tmp_path, "sub-01", t2="acq-tse_T2w")
    touch(anat, "sub-01_acq-space_T2w.nii.gz")
    with pytest.raises(CaseError, match=r"are both its t2: keep one, or select one with") as refusal:
        discover(tmp_path, run="last").cases[0].check()
    assert followed(tmp_path, str(refusal.value))["sub-01"]["t2"] == "sub-01_acq-space_T2w.nii.gz"


@pytest.mark.parametrize("word", ["part-phase", "part-real", "inv-1", "echo-1"])
def test_a_part_inversion_or_echo_is_no_contrast_and_is_reported_where_the_contrast_lacks(tmp_path: Path, word: str) -> None:
    anat = bids(tmp_path, "sub-01", t2=f"{word}_T2w")
    discovery = discover(tmp_path)
    assert "t2" not in discovery.cases[0].files
    assert f"left out: 1 images that fit no layout, such as sub-01/anat/sub-01_{word}_T2w.nii.gz: one part" in discovery.message
    touch(anat, "sub-01_part-mag_T2w.nii.gz")
    discovery = discover(tmp_path)
    assert discovery.cases[0].files["t2"].name == "sub-01_part-mag_T2w.nii.gz"
    assert not discovery.left_out


def test_masks_in_template_space_and_tissues_are_never_taken_even_if_the_source_is_a_derivative(tmp_path: Path) -> None:
    anat = bids(tmp_path / "ds000001-fmriprep", "sub-01", t1="desc-preproc_T1w")
    mni = "sub-01_space-MNI152NLin2009cAsym_desc-"
    touch(anat, "sub-01_desc-brain_mask.nii.gz", f"{mni}brain_mask.nii.gz", f"{mni}preproc_T1w.nii.gz")
    touch(anat, "sub-01_dseg.nii.gz", "sub-01_label-GM_probseg.nii.gz")
    for name in ("ds000001-fmriprep", "plain"):
        source = (tmp_path / "ds000001-fmriprep").rename(tmp_path / name)
        case = discover(source).cases[0]
        case.check()
        assert case.files["mask"].name == "sub-01_desc-brain_mask.nii.gz"
        assert case.files["t1"].name == "sub-01_desc-preproc_T1w.nii.gz"
        assert "seg" not in case.files
        source.rename(tmp_path / "ds000001-fmriprep")


def test_where_all_images_lie_on_a_template_so_does_the_mask(tmp_path: Path) -> None:
    anat = bids(tmp_path, "sub-01")
    for path in list(anat.iterdir()):
        path.rename(path.with_name(path.name.replace("sub-01_", "sub-01_space-SRI24_")))
    touch(anat, "sub-01_space-SRI24_desc-brain_mask.nii.gz", "sub-01_desc-brain_mask.nii.gz")
    (case,) = discover(tmp_path).cases
    case.check()
    assert case.files["mask"].name == "sub-01_space-SRI24_desc-brain_mask.nii.gz"


def test_a_packed_and_an_unpacked_twin_are_refused_with_a_pattern_that_works(tmp_path: Path) -> None:
    touch(tmp_path / "a", *(f"a_{word}.nii.gz" for word in OF_2018), "a_t1.nii")
    touch(tmp_path / "b", *(f"b_{word}.nii.gz" for word in OF_2018))
    with pytest.raises(CaseError, match=r"a_t1\.nii and a/a_t1\.nii\.gz are both its t1") as refusal:
        discover(tmp_path).cases[0].check()
    taken = followed(tmp_path, str(refusal.value))
    assert {name: files["t1"] for name, files in taken.items()} == {"a": "a_t1.nii.gz", "b": "b_t1.nii.gz"}


def test_two_folders_never_become_one_case(tmp_path: Path) -> None:
    for site, words in (("A", OF_2018), ("B", OF_2018)):
        touch(tmp_path / "whole" / site / "P1", *(f"P1_{word}.nii.gz" for word in words))
    with pytest.raises(
        CaseError, match=r"A/P1/P1_t1.nii.gz and B/P1/P1_t1.nii.gz are both its t1: keep one, or rename one's files"
    ):
        discover(tmp_path / "whole").cases[0].check()
    for site, words in (("A", OF_2018[:2]), ("B", OF_2018[2:])):
        touch(tmp_path / "half" / site / "P1", *(f"P1_{word}.nii.gz" for word in words))
    with pytest.raises(CaseError, match=r"P1: its contrasts lie in 2 folders, A/P1 and B/P1: if they are two patients, rename"):
        discover(tmp_path / "half").cases[0].check()
    for site in "AB":
        bids(tmp_path / "sets" / site, "sub-01", **({"t1": "x", "t1c": "y"} if site == "A" else {"t2": "x", "flair": "y"}))
    with pytest.raises(CaseError, match="lie in 2 folders"):
        discover(tmp_path / "sets").cases[0].check()


def test_labels_mask_and_contrasts_may_lie_in_folders_of_their_own(tmp_path: Path) -> None:
    for word, folder in (*((w, f"{w}_images") for w in OF_2018[:4]), ("seg", "labels"), ("mask", "masks")):
        touch(tmp_path / folder, f"P1_{word}.nii.gz", f"P2_{word}.nii.gz")
    cases = discover(tmp_path).cases
    assert [(case.name, len(case.files)) for case in cases] == [("P1", 6), ("P2", 6)]
    for case in cases:
        case.check()


def taken(source: Path, **settings: str) -> dict[str, str]:
    (case,) = discover(source, **settings).cases
    case.check()
    return {kind: path.name for kind, path in case.files.items() if kind in ("seg", "mask")}


@pytest.mark.parametrize("space", ["T2w", "FLAIR", "T1w", "orig"])
@pytest.mark.parametrize("place", ["sub-01/anat", "derivatives/x/sub-01/anat"])
def test_labels_and_masks_in_the_space_of_a_contrast_are_taken(tmp_path: Path, space: str, place: str) -> None:
    bids(tmp_path, "sub-01")
    touch(tmp_path / place, f"sub-01_space-{space}_desc-brain_mask.nii.gz", f"sub-01_space-{space}_dseg.nii.gz")
    assert taken(tmp_path) == {"mask": f"sub-01_space-{space}_desc-brain_mask.nii.gz", "seg": f"sub-01_space-{space}_dseg.nii.gz"}
    assert discover(tmp_path).left_out == []
    touch(tmp_path / place, "sub-01_desc-brain_mask.nii.gz")
    assert taken(tmp_path)["mask"] == "sub-01_desc-brain_mask.nii.gz"
    assert "not read: 1 files in another space" in discover(tmp_path).message


@pytest.mark.parametrize("space", ["MNI152NLin2009cAsym", "MNI", "SRI24", "T1template", "fsaverage"])
@pytest.mark.parametrize("place", ["sub-01/anat", "derivatives/x/sub-01/anat"])
def test_labels_and_masks_on_a_templates_grid_are_left_out_and_named(tmp_path: Path, space: str, place: str) -> None:
    bids(tmp_path, "sub-01")
    touch(tmp_path / place, f"sub-01_space-{space}_desc-brain_mask.nii.gz", f"sub-01_space-{space}_label-tumor_mask.nii.gz")
    assert taken(tmp_path) == {}
    (line,) = discover(tmp_path).left_out
    assert line.startswith(f"left out: 2 files in another space than the case's scans, such as sub-01_space-{space}_")
    touch(tmp_path / "derivatives/y", "sub-01_desc-brain_mask.nii.gz", "sub-01_dseg.nii.gz")
    assert set(taken(tmp_path)) == {"seg", "mask"}
    assert discover(tmp_path).left_out == []
    assert "not read: 2 files in another space" in discover(tmp_path).message


@pytest.mark.parametrize(
    "word",
    [
        "label-ventricles_mask", "label-WholeVentricles_dseg", "label-tumorfree_mask", "atlas-AAL_dseg", "desc-ventricles_dseg", "label-thalamus_roi",
        "desc-manual_mask", "label-lesion_probseg", "label-edema_mask",
    ],
)  # fmt: skip
def test_a_mask_of_something_else_is_never_the_tumour_and_is_named(tmp_path: Path, word: str) -> None:
    bids(tmp_path, "sub-01")
    touch(tmp_path / "derivatives/x/sub-01/anat", f"sub-01_{word}.nii.gz")
    assert taken(tmp_path) == {}
    (line,) = discover(tmp_path).left_out
    assert line.startswith(f"left out: 1 masks of something else than a brain or tumour, such as sub-01_{word}.nii.gz")
    touch(tmp_path / "derivatives/x/sub-01/anat", "sub-01_label-lesion_mask.nii.gz")
    assert taken(tmp_path) == {"seg": "sub-01_label-lesion_mask.nii.gz"}
    assert discover(tmp_path).left_out == []


@pytest.mark.parametrize(
    "word",
    [
        "label-L_mask",
        "label-tumour_mask",
        "label-Lesion1_roi",
        "label-WT_mask",
        "desc-tumor_mask",
        "desc-expert_dseg",
        "label-tumor_seg",
    ],
)
def test_what_is_called_a_tumour_or_lesion_is_one(tmp_path: Path, word: str) -> None:
    bids(tmp_path, "sub-01")
    touch(tmp_path / "derivatives/x/sub-01/anat", f"sub-01_{word}.nii.gz")
    assert taken(tmp_path) == {"seg": f"sub-01_{word}.nii.gz"}
    if "dseg" not in word:
        (tmp_path / "derivatives/x").rename(tmp_path / "derivatives/fmriprep")
        assert taken(tmp_path) == {"seg": f"sub-01_{word}.nii.gz"}


def test_masks_of_functional_scans_are_no_brain_masks(tmp_path: Path) -> None:
    bids(tmp_path, "sub-01")
    touch(tmp_path / "derivatives/fmriprep/sub-01/func", "sub-01_task-rest_desc-brain_mask.nii.gz")
    touch(tmp_path / "derivatives/fmriprep/sub-01/anat", "sub-01_desc-brain_mask.nii.gz")
    assert taken(tmp_path) == {"mask": "sub-01_desc-brain_mask.nii.gz"}


def test_images_in_another_contrasts_space_do_not_rival_a_complete_set(tmp_path: Path) -> None:
    anat = bids(tmp_path, "sub-01")
    touch(anat, "sub-01_space-T2w_T1w.nii.gz")
    discovery = discover(tmp_path)
    discovery.cases[0].check()
    assert discovery.cases[0].files["t1"].name == "sub-01_T1w.nii.gz"
    assert "not read: 1 files in another space than the case's scans, such as sub-01_space-T2w_T1w.nii.gz" in discovery.message
    (anat / "sub-01_FLAIR.nii.gz").rename(anat / "sub-01_space-T2w_FLAIR.nii.gz")  # no longer complete: which T1 fits?
    with pytest.raises(CaseError, match="are both its t1"):
        discover(tmp_path).cases[0].check()


def refused(source: Path, number: int = 0) -> str:
    with pytest.raises(CaseError) as refusal:
        discover(source).cases[number].check()
    return str(refusal.value)


def test_two_acquisitions_beside_plain_names_and_sessions_have_a_pattern_that_works(tmp_path: Path) -> None:
    touch(bids(tmp_path / "plain", "sub-01", t2="acq-tse_T2w"), "sub-01_acq-space_T2w.nii.gz")
    bids(tmp_path / "plain", "sub-02")
    result = followed(tmp_path / "plain", refused(tmp_path / "plain"))
    assert [files["t2"] for files in result.values()] == ["sub-01_acq-space_T2w.nii.gz", "sub-02_T2w.nii.gz"]
    for session in ("ses-1", "ses-2"):
        words = (*CONTRASTS.values(), *(["acq-x_T2w"] if session == "ses-1" else []))
        touch(tmp_path / "long/sub-1" / session / "anat", *(f"sub-1_{session}_{word}.nii.gz" for word in words))
        touch(tmp_path / "long/derivatives/d/sub-1" / session, f"sub-1_{session}_dseg.nii.gz")
    result = followed(tmp_path / "long", refused(tmp_path / "long"))
    assert {name: (len(files), files["t2"]) for name, files in result.items()} == {
        "sub-1_ses-1": (5, "sub-1_ses-1_T2w.nii.gz"),
        "sub-1_ses-2": (5, "sub-1_ses-2_T2w.nii.gz"),
    }


def test_the_acquisition_that_every_subject_has_is_the_one_in_the_pattern(tmp_path: Path) -> None:
    touch(bids(tmp_path, "sub-01", t2="acq-a_T2w"), "sub-01_acq-b_T2w.nii.gz")
    bids(tmp_path, "sub-02", t2="acq-b_T2w")
    result = followed(tmp_path, refused(tmp_path))
    assert [files["t2"] for files in result.values()] == ["sub-01_acq-b_T2w.nii.gz", "sub-02_acq-b_T2w.nii.gz"]


def test_all_kinds_that_have_several_files_are_named_and_a_rule_is_only_advised_where_it_settles_all(tmp_path: Path) -> None:
    anat = bids(tmp_path, "sub-01", t1="run-1_T1w")
    touch(anat, "sub-01_run-2_T1w.nii.gz", "sub-01_acq-x_T2w.nii.gz")
    sentence = refused(tmp_path)
    assert sentence.startswith("sub-01: there are several files each of t1, t2: sub-01/anat/sub-01_run-1_T1w.nii.gz and ")
    assert "bids.run" not in sentence
    assert followed(tmp_path, sentence)["sub-01"]["t2"] == "sub-01_T2w.nii.gz"


def test_masks_of_one_name_in_two_folders_have_a_pattern_that_works(tmp_path: Path) -> None:
    for subject in ("sub-01", "sub-02"):
        bids(tmp_path, subject)
        for tool in ("hdbet", "synthstrip") if subject == "sub-01" else ("synthstrip",):
            touch(tmp_path / "derivatives" / tool / subject / "anat", f"{subject}_desc-brain_mask.nii.gz")
    touch(tmp_path / "derivatives/expert/sub-02", "sub-02_dseg.nii.gz")
    sentence = refused(tmp_path)
    assert "derivatives/synthstrip/{case}/anat/{case}_{modality}.nii.gz" in sentence
    result = followed(tmp_path, sentence)
    assert {name: len(files) for name, files in result.items()} == {"sub-01": 5, "sub-02": 6}


def test_labels_named_with_a_dash_and_with_an_underscore_have_a_pattern_that_works(tmp_path: Path) -> None:
    for number in range(14):
        touch(tmp_path / f"p{number}", *(f"p{number}_{word}.nii.gz" for word in OF_2018), f"p{number}-seg.nii.gz")
    result = followed(tmp_path, refused(tmp_path))
    assert {name: files["seg"] for name, files in result.items()} == {f"p{n}": f"p{n}_seg.nii.gz" for n in range(14)}


def test_cases_of_a_patient_in_a_pattern_have_their_labels(tmp_path: Path) -> None:
    touch(tmp_path / "p1" / "v1", *(f"{word}.nii.gz" for word in ("t1", "t1c", "t2", "flair", "seg")))
    discovery = discover(tmp_path, pattern="{patient}/{case}/{modality}.nii.gz|old/{patient}/{case}/{modality}.nii.gz")
    assert [(case.name, len(case.files)) for case in discovery.cases] == [("p1_v1", 5)]
    assert discovery.left_out == []


def test_labels_in_the_images_own_space_come_first(tmp_path: Path) -> None:
    touch(tmp_path / "sub-1" / "anat", *(f"sub-1_space-T1w_{word}.nii.gz" for word in ("T1w", "ce-gd_T1w", "T2w", "FLAIR")))
    touch(tmp_path / "derivatives" / "x" / "sub-1" / "anat", "sub-1_dseg.nii.gz", "sub-1_space-T1w_dseg.nii.gz")
    (case,) = discover(tmp_path).cases
    assert case.files["seg"].name == "sub-1_space-T1w_dseg.nii.gz"


@pytest.mark.parametrize(("other", "kind"), [("acq-post_T1w", "t1c"), ("acq-gd_T1w", "t1c"), ("acq-FLAIR_T2w", "flair")])
def test_the_advice_knows_a_contrast_that_is_named_as_another(tmp_path: Path, other: str, kind: str) -> None:
    words = {"t1": "T1w", "t1c": "ce-gd_T1w", "t2": "T2w", "flair": "FLAIR"} | {kind: other}
    touch(tmp_path / "sub-1" / "anat", *(f"sub-1_{word}.nii.gz" for word in words.values()))
    (case,) = discover(tmp_path).cases
    advice = dict(word.split("=", 1) for word in shlex.split(case.problem.partition("select one with ")[2]))
    names = {key.removeprefix("names."): value for key, value in advice.items() if key != "pattern"}
    assert names[other] == kind
    (followed,) = discover(tmp_path, pattern=advice["pattern"], names=names).cases
    followed.check()
    assert followed.files[kind].name == f"sub-1_{other}.nii.gz"

"""A file's path gives its case and kind in each layout; a pattern describes the user's own names."""

import pytest

from preprocess.shared.errors import SettingError
from preprocess.source.layouts import LAYOUTS, Match
from preprocess.source.patterns import candidates, from_pattern

BY_NAME = {layout.name: layout for layout in LAYOUTS}
IN_2015 = "HGG/brats_2013_pat0001_1/VSD.Brain"
MASKS = "derivatives/masks/sub-1/anat/sub-1"


@pytest.mark.parametrize(
    ("layout", "path", "case", "kind"),
    [
        ("brats2015", f"{IN_2015}.XX.O.MR_Flair.54512/VSD.Brain.XX.O.MR_Flair.54512.mha", "brats_2013_pat0001_1", "flair"),
        ("brats2015", f"{IN_2015}.XX.O.MR_T1c.54514/VSD.Brain.XX.O.MR_T1c.54514.mha", "brats_2013_pat0001_1", "t1c"),
        ("brats2015", f"{IN_2015}.XX.O.MR_T1.54513/VSD.Brain.XX.O.MR_T1.54513.mha", "brats_2013_pat0001_1", "t1"),
        ("brats2015", f"{IN_2015}_3more.XX.O.OT.54517/VSD.Brain_3more.XX.O.OT.54517.mha", "brats_2013_pat0001_1", "seg"),
        ("brats2015", "VSD.Brain.XX.O.MR_T2.1/VSD.Brain.XX.O.MR_T2.1.mha", "source", "t2"),  # the source is the case's folder
        ("brats2018", "HGG/Brats18_2013_2_1/Brats18_2013_2_1_t1ce.nii.gz", "Brats18_2013_2_1", "t1c"),
        ("brats2018", "BRATS_001_T1CE.NII.GZ", "BRATS_001", "t1c"),
        ("brats2018", "BraTS20_Training_355/W39_1998.09.19_Segm.nii", "BraTS20_Training_355", "seg"),
        ("brats2018", "BraTS2021_1/BraTS2021_1_flair.nii/0057_brain_flair.nii", "BraTS2021_1", "flair"),
        ("brats2018", "a/.._t1.nii.gz", "..", "t1"),
        ("brats2023", "BraTS-GLI-00000-000-t1n.nii.gz", "BraTS-GLI-00000-000", "t1"),
        ("brats2023", "x/BraTS-MET-00001-000-t1c.nii/BraTS-MET-00001-000-t1c.nii", "BraTS-MET-00001-000", "t1c"),
        ("bids", "sub-1/anat/sub-1_T1w.nii.gz", "sub-1", "t1"),
        ("bids", "sub-1/ses-2/anat/sub-1_ses-2_acq-mprage_run-1_T1w.nii", "sub-1_ses-2", "t1"),
        ("bids", "sub-1/anat/sub-1_ce-GADOLINIUM_run-1_T1w.nii.gz", "sub-1", "t1c"),
        ("bids", "sub-1/ses-2/anat/sub-1_ses-2_acq-3d_ce-Gd_T1w.nii.gz", "sub-1_ses-2", "t1c"),
        ("bids", "sub-1/anat/sub-1_FLAIR.nii.gz", "sub-1", "flair"),
        ("bids", f"{MASKS}_dseg.nii.gz", "sub-1", "seg"),
        ("bids", f"{MASKS}_ses-2_label-tumor_desc-manual_mask.nii.gz", "sub-1_ses-2", "seg"),
        ("bids", f"{MASKS}_T1w_label-lesion_roi.nii.gz", "sub-1", "seg"),
        ("bids", f"{MASKS}_desc-brain_mask.nii.gz", "sub-1", "mask"),
        ("bids", "derivatives/fmriprep/sub-1/anat/sub-1_desc-brain_mask.nii.gz", "sub-1", "mask"),
    ],
)
def test_each_layout_recognises_its_names(layout: str, path: str, case: str, kind: str) -> None:
    assert BY_NAME[layout].match(f"/source/{path}") == Match(case, kind)


@pytest.mark.parametrize(
    "path",
    [
        "derivatives/strip/sub-1/anat/sub-1_desc-preproc_T1w.nii.gz",  # would shadow the raw image
        "derivatives/strip/sub-1/anat/sub-1_space-MNI152_desc-brain_mask.nii.gz",  # lies on another grid
        "derivatives/fmriprep/sub-1/anat/sub-1_dseg.nii.gz",  # tissues, no tumour
        "derivatives/x/sub-1/anat/sub-1_desc-aseg_dseg.nii.gz",
        "derivatives/x/sub-1/anat/sub-1_label-GM_mask.nii.gz",
        "sub-1/anat/sub-1_ce-gadolinium_FLAIR.nii.gz",
        "sub-1/func/sub-1_task-rest_bold.nii.gz",
    ],
)
def test_bids_ignores_derived_images_templates_and_anatomy(path: str) -> None:
    assert BY_NAME["bids"].match(f"/source/{path}") is None


def test_a_bids_derivative_given_as_source_gives_its_images() -> None:
    assert BY_NAME["bids"].match("/strip/sub-1/anat/sub-1_desc-preproc_T1w.nii.gz") == Match("sub-1", "t1")


@pytest.mark.parametrize(
    ("pattern", "names", "path", "match"),
    [
        ("{case}/*_{modality}.nii.gz", {}, "a b é/x_t1c.nii.gz", Match("a b é", "t1c")),
        ("{case}/{case}_{modality}.nii", {"T1post": "t1c"}, "a/a_T1post.nii", Match("a", "t1c")),
        ("{case}_{modality}.nii", {"t1_gd": "t1c"}, "a_t1_gd.nii", Match("a", "t1c")),
        ("{case}_{modality}.nii.gz", {"0000": "flair"}, "BRATS_001_0000.nii.gz", Match("BRATS_001", "flair")),
        ("**/{grade}/{patient}/{case}/{modality}.mha", {}, "x/y/LGG/p1/c2/T2.mha", Match("c2", "t2", "p1", "LGG")),
        ("./{case}/{modality}/*", {"ROI": "seg"}, "a/roi/1.nii", Match("a", "seg")),
        ("{case}/{case}_{modality}.nii", {}, "a/b_t1.nii", None),
        ("{case}/*_{modality}.nii", {}, "deep/a/x_t1.nii", None),
        ("{case}.{modality}.nii", {}, "a-t1-nii", None),
    ],
)
def test_a_pattern_matches_what_it_describes(pattern: str, names: dict, path: str, match: Match | None) -> None:
    assert from_pattern(pattern, names).match(f"/source/{path}") == match


@pytest.mark.parametrize(
    ("layout", "pattern", "names", "sentence"),
    [
        ("brats", "", {}, "layout=brats is not known: choose from auto, brats2015"),
        ("pattern", "", {}, "layout=pattern and pattern="),
        ("bids", "{case}_{modality}.nii", {}, "contradict each other"),
        ("auto", "", {"a": "t1"}, "give pattern= too"),
        ("pattern", "{case}.nii", {}, "lacks {modality}"),
        ("pattern", "*_{modality}.nii", {}, "lacks {case}"),
        ("pattern", "{case}_{modality}_{visit}.nii", {}, "unknown field {visit}"),
        ("pattern", "{case_{modality}.nii", {}, "lacks {case}"),
        ("pattern", "{case}_{modality}.nii", {"a": "t3"}, "names.a=t3 must be one of t1,"),
    ],
)
def test_contradicting_settings_are_refused(layout: str, pattern: str, names: dict, sentence: str) -> None:
    with pytest.raises(SettingError) as refusal:
        candidates(layout, pattern, names)
    assert sentence in str(refusal.value)


@pytest.mark.parametrize(
    ("given", "near"), [("brats2021", "brats2018"), ("BraTS2024", "brats2023"), ("decathlon", "msd"), ("BIDs2", "bids")]
)
def test_an_unknown_layout_is_answered_with_the_nearest(given: str, near: str) -> None:
    with pytest.raises(SettingError, match=f"did you mean layout={near}\\?"):
        candidates(given, "", {})


def test_a_layouts_name_may_be_in_any_case() -> None:
    assert [layout.name for layout in candidates("BIDS", "", {})] == ["bids"]
    assert [layout.name for layout in candidates("Auto", "", {})] == [layout.name for layout in LAYOUTS]

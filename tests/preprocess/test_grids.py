"""What headers say of a grid: what contradicts itself is said, and what would lose labels or brain is set aside."""

from collections.abc import Callable

import nibabel as nib
import numpy as np
import pytest
from sick import KINDS, Sick

from preprocess import restore
from preprocess.cohort import Cohort
from preprocess.source.grids import SAME, same_grid

Array = np.ndarray


def moved(affine: Array, *mm: float) -> Array:
    affine = affine.copy()
    affine[:3, 3] += mm
    return affine


def diagonal(affine: Array) -> Array:
    """The affine that a library writes that was given none but the voxel sizes."""
    return np.diag([*np.linalg.norm(affine[:3, :3], axis=0), 1])


LOST: dict[str, Callable[[Array], Array]] = {
    "identity": lambda _: np.eye(4),
    "voxel sizes": diagonal,
    "ITK's": lambda affine: np.diag([-1, -1, 1, 1]) @ diagonal(affine),
}


@pytest.mark.parametrize("words", [(), ("resample=t1",)])
@pytest.mark.parametrize("kind", LOST)
def test_labels_whose_header_was_lost_are_set_aside_with_the_cure(sick: Sick, kind: str, words: tuple[str, ...]) -> None:
    sick.put("seg", sick.a["seg"].astype("u1"), LOST[kind](sick.affine))
    sentence = sick.refusal(*words)
    assert "_seg.nii.gz's header gives no position and seems to have been lost: if it has the voxel grid of" in sentence
    cure = sentence.partition("copy that header: fslcpgeom ")[2].split()[:2]
    assert cure == [f"{sick.name}_t1.nii.gz", f"{sick.name}_seg.nii.gz"]


@pytest.mark.parametrize("mm", [(0.0, -120.0, 0.0), (0.0, 0.0, 90.0), (400.0, 0.0, 0.0)])
def test_labels_that_resampling_loses_are_set_aside(sick: Sick, mm: tuple[float, ...]) -> None:
    sick.put("seg", sick.a["seg"].astype("u1"), moved(sick.affine, *mm))
    sentence = sick.refusal("resample=t1")
    assert "lie outside the grid of" in sentence or "lie outside the brain" in sentence
    assert "resample" not in sentence


@pytest.mark.parametrize("kept", [("seg",), ("seg", "t1ce")])
def test_scans_whose_headers_were_lost_are_set_aside_beside_one_good_file(sick: Sick, kept: tuple[str, ...]) -> None:
    for kind in KINDS:
        if kind not in kept:
            sick.put(kind, sick.a[kind].astype("i2"), diagonal(sick.affine))
    sentence = sick.refusal()
    assert "_t1.nii.gz's header gives no position and seems to have been lost: if it has the voxel grid of" in sentence
    assert "fslcpgeom" in sentence


def test_what_was_said_before_is_in_the_refusal(sick: Sick) -> None:
    mirror = np.diag([-1.0, 1, 1, 1])
    mirror[0, 3] = sick.brain.shape[0] - 1
    moved_brain = np.roll(sick.a["t2"], 5, axis=0)
    sick.put("t2", moved_brain.astype("i2"), sick.affine @ mirror)
    assert "; also: the voxel axes of t2 are RPS and those of t1 LPS: is its header right?" in sick.refusal()


def test_a_contrast_without_position_beside_others_is_set_aside(sick: Sick) -> None:
    without_position(sick, ("t2",))
    assert "_t2.nii.gz's header gives no position" in sick.refusal("resample=t1")
    assert "_t2.nii.gz's header gives no position" in sick.refusal()


def without_position(sick: Sick, kinds: tuple[str, ...]) -> None:
    for kind in kinds:
        image = nib.Nifti1Image(sick.a[kind].astype("i2"), None)
        image.header.set_zooms(np.linalg.norm(sick.affine[:3, :3], axis=0))
        nib.save(image, sick.files[kind])


def test_files_without_orientation_are_said_and_take_the_users(sick: Sick) -> None:
    oriented = sick.make()
    z = Cohort.open(sick.store).image(oriented.subject)
    assert oriented.original_orientation == "LPS"
    without_position(sick, KINDS)
    assert sick.said() == (
        "no header gives an orientation (qform and sform codes are 0): read as LAS; if that is wrong, give orientation=LPS, for example"
    )
    record = sick.make("orientation=LPS")
    assert not record.noted
    assert record.original_orientation == "LPS"
    np.testing.assert_array_equal(Cohort.open(sick.store).image(record.subject), z)


def test_identity_headers_in_all_files_are_said_and_take_the_users_orientation(sick: Sick) -> None:
    z = Cohort.open(sick.store).image(sick.make().subject) if sick.make() else None
    for kind in KINDS:
        sick.put(kind, sick.a[kind].astype("i2"), diagonal(sick.affine))
    assert "all are the identity times the voxel size, as libraries write them): read as RAS" in sick.said()
    record = sick.make("orientation=lps")
    assert record.original_orientation == "LPS"
    assert not record.noted
    np.testing.assert_array_equal(Cohort.open(sick.store).image(record.subject), z)


def test_two_positions_in_one_header_are_said(sick: Sick) -> None:
    image = nib.load(sick.files["t2"])
    both = nib.Nifti1Image(np.asarray(image.dataobj), image.affine)
    both.set_sform(image.affine, 1)
    both.set_qform(moved(image.affine, 5, 0, 0), 1)
    nib.save(both, sick.files["t2"])
    assert sick.said() == "the header of t2 gives two positions, 5.0 mm apart (qform and sform): the sform is used"


@pytest.mark.parametrize(("shear", "code"), [(0.05, 0), (0.01, 0), (0.0, 1)])
def test_a_sheared_grid_is_said_and_restored_without_a_qform(sick: Sick, shear: float, code: int) -> None:
    matrix = np.eye(4)
    matrix[0, 1] = shear
    for kind in KINDS:
        sick.put(kind, sick.a[kind].astype("i2"), matrix @ sick.affine)
    said = sick.said()
    assert said == (
        f"the axes of t1, t1c, t2, flair, seg are sheared, by {shear:.1%}: distances are approximate" if shear else ""
    )
    out = sick.store.with_name("out")
    assert restore.main([f"store={sick.store}", f"subject={sick.name}", f"out={out}"]) == 0
    image = nib.load(out / f"{sick.name}_t1.nii.gz")
    np.testing.assert_allclose(image.affine, matrix @ sick.affine, atol=1e-4)
    assert (int(image.header["qform_code"]), int(image.header["sform_code"])) == (code, 1)
    if code:
        np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-3)


@pytest.mark.parametrize("factor", [0.02, 0.1, 0.4, 3, 10, 1000])
def test_voxel_sizes_that_cannot_be_are_set_aside(sick: Sick, factor: float) -> None:
    for kind in KINDS:
        sick.put(kind, sick.a[kind].astype("i2"), np.diag([factor, factor, factor, 1]) @ sick.affine)
    sentence = sick.refusal()
    side = 5 * factor
    assert f"{side:.4g}" in sentence
    assert "correct it" in sentence


def test_a_crop_that_keeps_almost_nothing_is_refused(sick: Sick) -> None:
    for kind in KINDS:
        sick.put(kind, sick.a[kind].astype("i2"), np.diag([20, 20, 20, 1]) @ sick.affine)
    sentence = sick.refusal("checks=warn")
    assert "of its brain, in voxels of 100 x 100 x 100 mm: correct the voxel size" in sentence


@pytest.mark.parametrize("kind", ["seg", "t2"])
def test_other_voxel_axes_on_the_same_grid_are_said(sick: Sick, kind: str) -> None:
    mirror = np.diag([-1.0, 1, 1, 1])
    mirror[0, 3] = sick.brain.shape[0] - 1
    sick.put(kind, sick.a[kind].astype("i2"), sick.affine @ mirror)
    assert f"the voxel axes of {kind} are RPS and those of t1 LPS: is its header right?" in sick.said("checks=warn")


def test_two_voxel_sizes_in_one_header_are_said(sick: Sick) -> None:
    for kind in KINDS:
        image = nib.Nifti1Image(sick.a[kind].astype("i2"), sick.affine)
        image.set_qform(None, 0)
        image.header["pixdim"][1:4] = 1
        nib.save(image, sick.files[kind])
    said = sick.said()
    assert "the header of t1 gives two voxel sizes, 1 x 1 x 1 and 5 x 5 x 5 mm (pixdim and sform): the sform is used" in said


def test_a_crop_is_never_a_thousand_times_the_grid(sick: Sick) -> None:
    for kind in KINDS:
        sick.put(kind, sick.a[kind].astype("i2"), np.diag([0.02, 0.02, 0.02, 1]) @ sick.affine)
    assert "the crop would have" in sick.refusal("checks=warn")


def test_corners_are_compared_in_mm(sick: Sick) -> None:
    shape = sick.brain.shape
    turned = sick.affine.copy()
    turned[0, 1] += 0.9 * SAME / shape[1]
    assert same_grid(shape, sick.affine, shape, turned)
    turned[0, 1] += 2 * SAME / shape[1]
    assert not same_grid(shape, sick.affine, shape, turned)
    assert not same_grid(shape, sick.affine, shape[::-1], sick.affine)


def test_a_contrast_whose_brain_lies_off_the_grid_is_set_aside(sick: Sick) -> None:
    sick.put("flair", sick.a["flair"].astype("i2"), moved(sick.affine, 0, 0, 150))
    assert "_flair.nii.gz's brain lie outside the grid of" in sick.refusal("resample=t1")


def test_labels_that_land_elsewhere_in_the_brain_are_said(sick: Sick) -> None:
    sick.put("seg", sick.a["seg"].astype("u1"), moved(sick.affine, 20, 0, 0))
    assert "_seg.nii.gz has the shape of " in (said := sick.said("resample=t1"))
    assert "lies 20 mm off: is its header right?" in said

"""What counts as background, and as brain: inputs that went wrong in other tools give the clean case's brain, or one sentence."""

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from sick import CONTRASTS, Sick

from preprocess import to_zarr
from preprocess.cohort import Cohort
from preprocess.source.background import zeroed

Array = np.ndarray
SLABS = Path(__file__).parents[3] / "shared/data/slabs"
REAL = SLABS.with_name("real")


def ring(sick: Sick, width: int = 2) -> Array:
    return ndimage.binary_dilation(sick.brain, iterations=width) & ~sick.brain


def clean(sick: Sick) -> tuple[int, Array]:
    return sick.brain_voxels(), sick.z_scores()


@pytest.mark.parametrize("kinds", [("t2",), CONTRASTS])
@pytest.mark.parametrize("value", [1e-4, -1e-4, 0.05])
def test_values_close_to_0_around_the_brain_are_background(sick: Sick, kinds: tuple[str, ...], value: float) -> None:
    voxels, z = clean(sick)
    sick.put_all(lambda array: np.where(ring(sick), value, array), kinds)
    assert sick.brain_voxels() == voxels
    np.testing.assert_array_equal(sick.z_scores(), z)


def test_a_brain_that_was_interpolated_after_it_was_stripped_is_named(sick: Sick) -> None:
    sick.put("t2", ndimage.shift(sick.a["t2"], 0.3, order=3).astype(np.float32))
    sentence = sick.refusal()
    assert "_t2.nii.gz most: was its skull left, or was it interpolated after the skull was removed?" in sentence
    assert "checks=warn" in sentence
    assert "brains are" in sick.said("checks=warn")


@pytest.mark.parametrize("value", [-1024, -1, 7, 32767])
def test_a_constant_that_is_not_0_is_background_and_said_once(sick: Sick, value: float) -> None:
    voxels, z = clean(sick)
    sick.put_all(lambda array: np.where(sick.brain, array, value))
    assert sick.said() == f"the background of t1, t1c, t2, flair is {value}, not 0: it is taken as 0"
    assert sick.brain_voxels() == voxels
    np.testing.assert_array_equal(sick.z_scores(), z)


def test_a_constant_in_one_contrast_of_a_padded_volume_is_background_too(sick: Sick) -> None:
    voxels, z = clean(sick)

    def padded(array: Array) -> Array:
        array = np.where(sick.brain, array, -1024)
        for axis, width in enumerate((8, 6, 0)):
            side = np.moveaxis(array, axis, 0)
            side[:width] = 0
            side[len(side) - width :] = 0
        return array

    sick.put_all(padded)
    assert sick.said() == "the background of t1, t1c, t2, flair is -1024 and 0, not 0: it is taken as 0"
    assert sick.brain_voxels() == voxels
    np.testing.assert_array_equal(sick.z_scores(), z)


def test_normalised_scans_with_a_background_below_the_brain_are_taken_and_said(sick: Sick) -> None:
    voxels, z = clean(sick)

    def normalised(array: Array) -> Array:
        inside = array[sick.brain]
        return np.where(sick.brain, (array - inside.mean()) / inside.std(), -5.7)

    sick.put_all(normalised)
    said = sick.said()
    assert "is -5.7, not 0" in said
    assert "many intensities in the brain are negative, as if already normalised (t1 " in said
    assert "recipe.n4.enabled=false" in said
    assert sick.brain_voxels() == voxels
    assert np.abs(sick.z_scores() - z).max() < 0.01


def test_a_float_saved_as_whole_numbers_has_a_background_next_to_0(sick: Sick) -> None:
    voxels, _ = clean(sick)
    inside = sick.a["t2"][sick.brain]
    sick.packed("t2", np.where(sick.brain, (sick.a["t2"] - inside.mean()) / inside.std(), 0.0), "int16")
    assert sick.brain_voxels() == voxels
    assert "background" not in sick.said()


@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_outside_the_brain_is_background(sick: Sick, hole: float) -> None:
    voxels, z = clean(sick)
    sick.put_all(lambda array: np.where(sick.brain, array, hole), (*CONTRASTS, "seg"))
    record = sick.make()
    assert record.brain_voxels + record.brain_voxels_lost == voxels
    assert sum(record.label_voxels.values()) == sick.tumour
    np.testing.assert_array_equal(sick.z_scores(), z)


def test_what_is_not_finite_in_the_brain_is_counted(sick: Sick) -> None:
    middle = tuple(int(n) for n in np.argwhere(ndimage.binary_erosion(sick.brain, iterations=3))[50])
    array = sick.a["t2"].astype(np.float32)
    array[middle] = np.nan
    sick.put("t2", array)
    assert "_t2.nii.gz holds 1 NaN or infinite intensities in the brain: export it again" in sick.refusal()
    assert "holds 1 NaN" in sick.refusal("checks=warn")  # no image can be made of it


def test_a_scalp_left_in_one_contrast_is_set_aside_and_a_thin_one_said(sick: Sick) -> None:
    sick.put("t1ce", np.where(ring(sick), 90, sick.a["t1ce"]).astype("i2"))
    assert "_t1ce.nii.gz most: was its skull left" in sick.refusal()
    thin = ring(sick, 1) & (np.indices(sick.brain.shape)[2] > 20)
    sick.put("t1ce", np.where(thin, 90, sick.a["t1ce"]).astype("i2"))
    assert "% apart" in sick.said()
    assert dict(sick.make().noted)["t1c"].startswith("the contrasts' brains are")


def test_half_a_contrast_is_named(sick: Sick) -> None:
    sick.put("flair", np.where(np.indices(sick.brain.shape)[2] < 12, 0, sick.a["flair"]).astype("i2"))
    assert "_flair.nii.gz most: is part of it missing?" in sick.refusal()


def test_a_contrast_that_lies_elsewhere_is_named_with_coregister(sick: Sick) -> None:
    sick.put("t2", np.roll(sick.a["t2"], 4, axis=0).astype("i2"))
    assert "do they lie on each other? coregister=true aligns them" in sick.refusal()


def masked(brain: Array, kind: str) -> Array:
    soft = ndimage.gaussian_filter(brain.astype(np.float32), 2)
    soft[soft < 0.01] = 0
    return {
        "probability": soft, "half": (0.5 * brain).astype("f4"), "255": (255 * brain).astype("u1"), "100": (100.0 * brain).astype("f4"),
        "nan": np.where(brain, 1, np.nan).astype("f4"), "-1/1": np.where(brain, 1, -1).astype("i2"),
        "labels": (brain * (1 + np.indices(brain.shape)[0] // 20)).astype("u1"), "all": np.ones(brain.shape, "u1"),
        "scan": (brain * (1 + np.arange(brain.size).reshape(brain.shape) % 700)).astype("i2"), "inverted": (~brain).astype("u1"),
        "hemisphere": (brain & (np.indices(brain.shape)[0] < 23)).astype("u1"),
        "tumour": (brain & (np.indices(brain.shape)[0] > 28)).astype("u1"), "empty": np.zeros(brain.shape, "u1"),
    }[kind]  # fmt: skip


@pytest.mark.parametrize("kind", ["probability", "half", "255", "100", "nan"])
def test_a_given_mask_is_cut_at_half(sick: Sick, kind: str) -> None:
    mask = masked(sick.brain, kind)
    sick.as_bids(mask)
    wanted = int((mask >= 0.5).sum())
    assert sick.brain_voxels() == wanted
    assert 0.9 * sick.brain.sum() < wanted < 1.1 * sick.brain.sum()


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("-1/1", "holds negative values, so it is no brain mask"),
        ("labels", "labels (1, 2"),
        ("scan", "values (1, 2, 3, 4, 5, …), so it is no brain mask"),
        ("inverted", "litres, so it is no brain mask"),
        ("hemisphere", "is it a whole brain, in voxels of 5 x 5 x 5 mm as its header has it?"),
        ("all", "litres, so it is no brain mask"),
        ("tumour", "is this the segmentation?"),
        ("empty", "the brain mask is empty"),
    ],
)
def test_what_is_no_brain_mask_is_refused(sick: Sick, kind: str, sentence: str) -> None:
    sick.as_bids(masked(sick.brain, kind))
    assert sentence in sick.refusal()
    if kind in ("-1/1", "labels"):
        assert sick.brain_voxels("checks=warn") == sick.brain.sum()
        assert sentence in sick.said("checks=warn")


def test_a_mask_beside_stripped_scans_must_fit_them(sick: Sick) -> None:
    import nibabel as nib

    path = sick.files["t1"].with_name(f"{sick.name}_mask.nii.gz")
    nib.save(nib.Nifti1Image(np.roll(sick.brain, 5, axis=1).astype("u1"), sick.affine), path)
    assert "of the brain mask is background in" in sick.refusal()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slab_is_measured_only_across(sick: Sick, axis: int) -> None:
    part = [slice(None)] * 3
    part[axis] = slice(20, 26)
    for kind in sick.files:
        sick.put(kind, sick.a[kind][tuple(part)].astype("i2"))
    assert "the scan covers a part of the brain: it is cut off along" in sick.said("recipe.crop=[160,160,155]")


@pytest.mark.skipif(not SLABS.is_dir(), reason="needs the real scans and slabs in ../shared/data")
def test_all_real_cases_and_slabs_go_in(tmp_path: Path) -> None:
    source = tmp_path / "all"
    source.mkdir()
    for case in (*SLABS.iterdir(), *REAL.iterdir()):
        if case.is_dir():
            (source / case.name).symlink_to(case)
    store = tmp_path / "all.zarr"
    words = ("workers=1", "recipe.n4.enabled=false", "recipe.spacing=3", "split.test=1")
    assert to_zarr.main([f"source={source}", f"store={store}", *words]) == 0
    cohort = Cohort.open(store)
    noted = {subject: [sentence for _, sentence in record.noted] for subject, record in cohort.records.items()}
    assert {subject for subject, sentences in noted.items() if sentences} == {"MSD-009", "MSD-119"}
    assert len(cohort.subjects) == 5


def test_a_volume_with_background_of_0_is_returned_itself() -> None:
    volume = np.zeros((20, 20, 20), np.float32)
    volume[5:15, 5:15, 5:15] = np.random.default_rng(0).normal(300, 30, (10, 10, 10))
    for step in (0.0, 1.0):
        made, constants, beyond = zeroed(volume, step)
        assert made is volume
        assert (constants, beyond) == ([0.0], 0)


def test_an_enclosed_value_close_to_0_stays_brain() -> None:
    volume = np.zeros((20, 20, 20), np.float32)
    volume[5:15, 5:15, 5:15] = 300
    volume[5:15, 5:15, 5:15] += np.random.default_rng(0).normal(0, 30, (10, 10, 10))
    volume[10, 10, 10], volume[4, 10, 10] = 1e-3, 1e-3
    made, _, _ = zeroed(volume, 0.0)
    assert made[10, 10, 10] == np.float32(1e-3)
    assert made[4, 10, 10] == 0

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


@pytest.mark.parametrize("change", ["cubic", "cut at 0", "rotated", "smoothed"])
def test_brains_that_were_all_interpolated_after_they_were_stripped_are_set_aside(sick: Sick, change: str) -> None:
    def interpolated(array: Array) -> Array:
        if change == "smoothed":
            return ndimage.gaussian_filter(array, 1.0)
        if change == "rotated":
            return ndimage.rotate(array, 7, axes=(0, 1), reshape=False, order=3)
        moved = ndimage.shift(array, 0.3, order=3)
        return np.clip(moved, 0, None) if change == "cut at 0" else moved

    sick.put_all(interpolated)
    sentence = sick.refusal()
    assert (
        "% of the brain is close to 0 in every contrast, as interpolation leaves around a brain: interpolate before" in sentence
    )
    assert "already normalised" not in sick.said("checks=warn")


def test_an_edge_of_half_intensities_is_no_doubt(sick: Sick) -> None:
    sick.put_all(lambda array: ndimage.shift(array, 0.5, order=1))
    assert sick.said() == ""


@pytest.mark.parametrize("kind", ["voxel", "text", "salt"])
def test_what_lies_apart_from_the_brain_moves_nothing(sick: Sick, kind: str) -> None:
    voxels, z = clean(sick)
    stray = np.zeros(sick.brain.shape, bool)
    if kind == "voxel":
        stray[1, 1, 1] = True
    elif kind == "text":
        stray[2:8, 1, 1:4] = True
    else:
        far = ~ndimage.binary_dilation(sick.brain, iterations=3)
        stray = far & (np.random.default_rng(0).random(far.shape) < 2e-3)
    sick.put_all(lambda array: np.where(stray, 300, array), ("t1", "t2"))
    said = sick.said()
    assert f"{stray.sum()} voxel" in said
    assert "apart from the brain: taken as background" in said
    assert sick.brain_voxels() == voxels
    np.testing.assert_array_equal(sick.z_scores(), z)


def test_stray_voxels_of_a_brain_mask_move_nothing_either(sick: Sick) -> None:
    mask = sick.brain.astype("u1")
    mask[1, 1, 1] = 1
    sick.as_bids(mask)
    assert sick.brain_voxels() == sick.brain.sum()
    assert "1 voxel lies apart from sub-01_desc-brain_mask.nii.gz: taken as background" in sick.said()


def test_a_detached_rest_of_the_head_is_set_aside(sick: Sick) -> None:
    grown = [ndimage.binary_dilation(sick.brain, iterations=n) for n in (2, 4)]
    sick.put_all(lambda array: np.where(grown[1] & ~grown[0], 300, array))
    assert "litres that lie apart, one around the other: was a part of the head left? make a brain mask with" in sick.refusal()


def test_halves_of_a_brain_are_kept_and_said(sick: Sick) -> None:
    middle = int(np.argwhere(sick.brain)[:, 0].mean())
    gap = np.abs(np.indices(sick.brain.shape)[0] - middle) <= 1
    sick.put_all(lambda array: np.where(gap, 0, array))
    assert "litres that lie apart: is each a part of the brain?" in sick.said()
    assert sick.brain_voxels() == (sick.brain & ~gap).sum()


def test_an_island_in_a_cavity_is_a_part_of_the_brain(sick: Sick) -> None:
    middle = np.argwhere(ndimage.binary_erosion(sick.brain, iterations=4)).mean(axis=0).round()
    away = np.sqrt(((np.indices(sick.brain.shape) - middle[:, None, None, None]) ** 2).sum(axis=0))
    cavity = (away >= 3) & (away < 5)
    sick.put_all(lambda array: np.where(cavity, 0, array))
    assert "litres that lie apart: is each a part of the brain?" in sick.said()
    assert sick.brain_voxels() == (sick.brain & ~cavity).sum()


def test_a_brainstem_behind_a_gap_is_kept(sick: Sick) -> None:
    slices = np.flatnonzero(sick.brain.any(axis=(0, 1)))
    gap = np.isin(np.indices(sick.brain.shape)[2], slices[2:4])
    below = np.isin(np.indices(sick.brain.shape)[2], slices[:2]) & sick.brain
    assert below.sum() * 0.125 > 5  # ml
    sick.put_all(lambda array: np.where(gap, 0, array), (*CONTRASTS, "seg"))
    assert sick.brain_voxels() == (sick.brain & ~gap).sum()
    assert "is each a part of the brain?" in sick.said()


def test_dark_voxels_that_were_cut_off_within_the_brain_are_said(sick: Sick) -> None:
    dark = np.percentile(sick.a["t1"][sick.brain], 10)
    sick.put("t1", np.where(sick.a["t1"] < dark, 0, sick.a["t1"]).astype("i2"))
    for kind in ("t1ce", "t2", "flair"):
        sick.files[kind].unlink()
    assert "% of what lies within the brain is background: were dark intensities cut off?" in sick.said("require=[t1]")


def test_a_brain_that_is_saturated_in_a_third_is_no_background(sick: Sick) -> None:
    def saturated(array: Array) -> Array:
        return np.clip(array / np.percentile(array[sick.brain], 55) * 255, 0, 255).round()

    sick.put_all(saturated)
    assert sick.brain_voxels() == sick.brain.sum()


@pytest.mark.parametrize("constant", [-1e6, -3e38])
def test_a_0_in_the_brain_stays_close_to_0_whatever_the_background_is(sick: Sick, constant: float) -> None:
    voxels, z = clean(sick)
    lowest = {kind: sick.a[kind][sick.brain].min() for kind in CONTRASTS}
    for kind in CONTRASTS:
        sick.put(kind, np.where(sick.brain, sick.a[kind] - lowest[kind], constant).astype("f4"))
    assert sick.brain_voxels() == voxels
    assert np.abs(sick.z_scores() - z).max() < 0.01


def test_outliers_do_not_decide_what_is_close_to_0(sick: Sick) -> None:
    bright = sick.brain & (np.random.default_rng(0).random(sick.brain.shape) < 0.01)
    sick.put_all(lambda array: np.where(bright, 1000 * array, array))
    assert sick.brain_voxels() == sick.brain.sum()


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
    assert "do they lie on each other (coregister=true aligns them), or were dark intensities cut off?" in sick.refusal()


def masked(brain: Array, kind: str) -> Array:
    soft = ndimage.gaussian_filter(brain.astype(np.float32), 2)
    soft[soft < 0.01] = 0
    return {
        "probability": soft, "half": (0.5 * brain).astype("f4"), "255": (255 * brain).astype("u1"), "100": (100.0 * brain).astype("f4"),
        "spline": np.where(brain, 1, -1e-3).astype("f4"),
        "nan": np.where(brain, 1, np.nan).astype("f4"), "-1/1": np.where(brain, 1, -1).astype("i2"),
        "labels": (brain * (1 + np.indices(brain.shape)[0] // 20)).astype("u1"), "all": np.ones(brain.shape, "u1"),
        "scan": (brain * (1 + np.arange(brain.size).reshape(brain.shape) % 700)).astype("i2"), "inverted": (~brain).astype("u1"),
        "hemisphere": (brain & (np.indices(brain.shape)[0] < 23)).astype("u1"),
        "tumour": (brain & (np.indices(brain.shape)[0] > 28)).astype("u1"), "empty": np.zeros(brain.shape, "u1"),
    }[kind]  # fmt: skip


@pytest.mark.parametrize("kind", ["probability", "half", "255", "100", "nan", "spline"])
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

"""A case is read onto one canonical grid, whatever its layout, orientation and grids, and a head with its skull is refused."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from preprocess.shared.errors import CaseError
from preprocess.source.brats import Case, discover
from preprocess.source.layouts import MODALITIES
from preprocess.source.scans import Reading, Scans, read


def the_case(folder: Path) -> Case:
    (case,) = discover(folder).cases
    return case


@pytest.fixture
def scans(tmp_path: Path, write_case) -> Scans:
    write_case(tmp_path / "plain", "a")
    return read(the_case(tmp_path / "plain"))


@pytest.mark.parametrize("layout", ["brats2015", "brats2023", "bids"])
def test_every_layout_gives_the_same_scans(tmp_path: Path, write_case, scans: Scans, layout: str) -> None:
    write_case(tmp_path / "other", "sub-1", layout=layout)
    other = read(the_case(tmp_path / "other"))
    assert other.modalities == scans.modalities == list(MODALITIES)
    for name in ("volumes", "mask", "labels", "affine"):
        np.testing.assert_array_equal(getattr(other, name), getattr(scans, name))
    assert other.original == scans.original == {
        "original_shape": [28, 28, 28], "original_affine": np.diag([-4.0, -4, 4, 1]).tolist(), "original_orientation": "LPS",
    }  # fmt: skip
    assert other.dtypes == scans.dtypes == {**dict.fromkeys(MODALITIES, "float32"), "seg": "uint8"}


def turned(path: Path, orientation: str) -> None:
    image = nib.load(path)
    wanted = nib.orientations.axcodes2ornt(orientation)
    nib.save(image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), wanted)), path)


@pytest.mark.parametrize("orientation", ["RAS", "PIR", "SLA"])
def test_one_grid_in_two_orientations_is_one_grid(tmp_path: Path, write_case, scans: Scans, orientation: str) -> None:
    files = write_case(tmp_path / "other", "a")
    for kind in ("t2", "seg"):
        turned(files[kind], orientation)
    other = read(the_case(tmp_path / "other"))
    np.testing.assert_array_equal(other.volumes, scans.volumes)
    np.testing.assert_array_equal(other.labels, scans.labels)
    assert other.original == scans.original


def test_missing_contrasts_are_left_out_and_the_others_keep_their_order(tmp_path: Path, write_case, scans: Scans) -> None:
    files = write_case(tmp_path / "other", "a")
    files["t1"].unlink()
    files["t2"].unlink()
    some = read(the_case(tmp_path / "other"))
    assert some.modalities == ["t1c", "flair"]
    np.testing.assert_array_equal(some.volumes, scans.volumes[[1, 3]])


def on_half_the_grid(path: Path, save) -> None:
    """Repeat the file's voxels onto voxels of half the size, with a margin of two voxels around its field of view."""
    image = nib.load(path)
    fine = np.pad(np.asanyarray(image.dataobj), 2).repeat(2, 0).repeat(2, 1).repeat(2, 2)
    step = np.diag([0.5, 0.5, 0.5, 1.0])
    step[:3, 3] = -2.25
    save(fine, image.affine @ step, path)


def test_other_grids_are_refused_by_name_or_resampled_to_one(tmp_path: Path, write_case, save, scans: Scans) -> None:
    files = write_case(tmp_path / "other", "a")
    for kind in ("t2", "seg"):
        on_half_the_grid(files[kind], save)
    case = the_case(tmp_path / "other")
    with pytest.raises(CaseError, match=r"a_t2\.nii\.gz has shape \[64, 64, 64\] and a_t1\.nii\.gz \[28, 28, 28\].*resample=t1"):
        read(case)
    moved = read(case, Reading("t1"))
    np.testing.assert_array_equal(moved.labels, scans.labels)
    np.testing.assert_array_equal(moved.volumes[[0, 1, 3]], scans.volumes[[0, 1, 3]])
    inside, t2, was = scans.mask, moved.volumes[2], scans.volumes[2]
    assert np.corrcoef(t2[inside], was[inside])[0, 1] > 0.85
    assert not np.array_equal(t2, was)
    assert not t2[~inside].any()  # the background is exactly 0 and the brain's edge has not moved
    assert t2[inside].min() > 0.7 * was[inside].min()
    fine = read(case, Reading("t2"))
    assert fine.original["original_shape"] == [64, 64, 64]
    np.testing.assert_array_equal(fine.volumes[2], np.pad(was, 2).repeat(2, 0).repeat(2, 1).repeat(2, 2))
    assert set(np.unique(fine.labels)) == {0, 2}


def test_resampling_onto_a_contrast_that_is_missing_is_refused(tmp_path: Path, write_case) -> None:
    write_case(tmp_path, "a")["t1"].unlink()
    with pytest.raises(CaseError, match=r"a: no t1 file, to whose grid resample=t1"):
        read(the_case(tmp_path), Reading("t1"))


def test_the_brain_ends_where_a_resampled_contrasts_field_of_view_does(tmp_path: Path, write_case, save, scans: Scans) -> None:
    files = write_case(tmp_path / "other", "a")
    image = nib.load(files["flair"])
    save(np.asanyarray(image.dataobj)[:, :, 14:], image.affine @ nib.affines.from_matvec(np.eye(3), [0, 0, 14]), files["flair"])
    half = read(the_case(tmp_path / "other"), Reading("t1"))
    np.testing.assert_array_equal(half.mask[14:], scans.mask[14:])
    assert not half.mask[:14].any()


def whole_head(write_case, folder: Path, layout: str = "bids", zeros: int = 0) -> dict[str, Path]:
    """A case whose background is noise, with a number of zeros."""
    files = write_case(folder, "sub-1", size=40, layout=layout)
    air = np.random.default_rng(9).integers(1, 9, (40, 40, 40)).astype(np.float32)
    air.ravel()[:zeros] = 0
    for kind in MODALITIES:
        image = nib.load(files[kind])
        volume = image.get_fdata(dtype=np.float32)
        nib.save(nib.Nifti1Image(np.where(volume == 0, air, volume), image.affine), files[kind])
    return files


@pytest.mark.parametrize(("zeros", "sentence"), [(0, "no voxel is background"), (500, r"4\.1 litres are not background")])
def test_a_head_with_its_skull_is_refused_unless_there_is_a_brain_mask(
    tmp_path: Path, write_case, save, zeros: int, sentence: str
) -> None:
    files = whole_head(write_case, tmp_path, zeros=zeros)
    with pytest.raises(CaseError, match=f"sub-1: {sentence}, so this is more than a brain"):
        read(the_case(tmp_path))
    brain = np.zeros((40, 40, 40), np.uint8)
    brain[10:30, 10:30, 10:30] = 1
    save(brain, nib.load(files["t1"]).affine, files["seg"].with_name("sub-1_desc-brain_mask.nii.gz"))
    case = the_case(tmp_path)
    masked = read(case)
    np.testing.assert_array_equal(masked.mask, brain[::-1, ::-1].T.astype(bool))
    assert masked.dtypes["mask"] == "uint8"
    save(0 * brain, nib.load(files["t1"]).affine, case.files["mask"])
    with pytest.raises(CaseError, match=r"desc-brain_mask\.nii\.gz is 0 wherever.*the brain mask is empty"):
        read(case)


def test_a_crop_of_a_brain_that_fills_its_border_is_a_brain(tmp_path: Path, write_case, rewrite) -> None:
    for path in write_case(tmp_path, "a").values():
        rewrite(path, lambda v: v[6:22, 6:22, 6:22])
    mask = read(the_case(tmp_path)).mask
    assert 0.9 < mask.mean() < 1
    assert all(mask[side].any() and mask[:, side].any() and mask[:, :, side].any() for side in (0, -1))


def test_labels_and_mask_move_with_the_contrast_that_they_were_drawn_on(tmp_path: Path, write_case) -> None:
    files = write_case(tmp_path, "a", size=40)
    truth = read(the_case(tmp_path))
    shift = np.eye(4)
    shift[:3, 3] = [9.0, -7.0, 6.0]
    for kind in ("t2", "seg"):  # the header of both lies
        scan = nib.load(files[kind])
        nib.save(nib.Nifti1Image(np.asarray(scan.dataobj), shift @ scan.affine), files[kind])
    apart = read(the_case(tmp_path), Reading("t1", checks="warn"))
    together = read(the_case(tmp_path), Reading(registered=False))
    tumour = truth.labels > 0
    dice = [2 * (tumour & (each.labels > 0)).sum() / (tumour.sum() + (each.labels > 0).sum()) for each in (apart, together)]
    assert dice[0] < 0.6 < 0.85 < dice[1]
    assert set(together.moved) == {"t2"}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda brain: 255 * brain, ""),
        (lambda brain: np.where(brain, 0.9, 0.2), ""),  # a probability with a long tail
        (lambda brain: 2.0 * brain - 1, "holds negative values, so it is no brain mask"),
        (lambda brain: np.ones(brain.shape), "marks .* litres, so it is no brain mask"),
    ],
)
def test_a_mask_is_cut_at_half_and_must_be_one(change, sentence: str, tmp_path: Path, write_case) -> None:
    files = write_case(tmp_path, "a", size=40)
    scan = nib.load(files["t1"])
    brain = np.asarray(scan.dataobj) != 0
    mask = tmp_path / "a_mask.nii.gz"
    nib.save(nib.Nifti1Image(change(brain).astype(np.float32), scan.affine), mask)
    if sentence:
        with pytest.raises(CaseError, match=rf"a_mask\.nii\.gz {sentence}"):
            read(the_case(tmp_path))
    else:
        np.testing.assert_array_equal(read(the_case(tmp_path)).mask, brain[::-1, ::-1].T)

"""Grids become canonical, resampling keeps background out of the brain, and uncrop inverts crop."""

import itertools

import nibabel as nib
import numpy as np
import pytest

from preprocess.geometry import crop, crop_offset, crop_shape, resample, spacing_of, to_canonical, uncrop


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "PIR", "SLA"])
def test_any_orientation_becomes_z_up_y_forward_x_right(codes: str) -> None:
    world = np.zeros((4, 5, 6))  # x to the right, y forward, z up
    world[3, 0, 0], world[0, 4, 0], world[0, 0, 5] = 1, 2, 3
    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(codes)))
    scanned = nib.apply_orientation(world, turn)
    affine = np.diag([1, 2, 3, 1.0]) @ nib.orientations.inv_ornt_aff(turn, world.shape)
    turned, new_affine, named = to_canonical(scanned, affine)
    assert named == codes
    np.testing.assert_array_equal(turned, world.T)
    np.testing.assert_allclose(new_affine, np.diag([1, 2, 3, 1]), atol=1e-9)
    assert spacing_of(new_affine) == pytest.approx((3, 2, 1))


def test_the_crop_is_given_in_mm() -> None:
    assert crop_shape([160, 160, 155], (1, 1, 1)) == (155, 160, 160)
    assert crop_shape([160, 160, 155], (3, 3, 3)) == (52, 54, 54)


def test_the_crop_is_centred_on_the_brain_and_stays_inside_the_grid() -> None:
    mask = np.zeros((40, 40, 40), bool)
    mask[10:20, 0:6, 33:40] = True
    assert crop_offset(mask, (20, 20, 20)) == (5, 0, 20)


@pytest.mark.parametrize("shape", list(itertools.product((5, 9, 14), repeat=3)))
def test_uncrop_undoes_crop_for_smaller_and_larger_boxes(shape: tuple[int, ...]) -> None:
    volume = np.zeros((2, 9, 10, 11), np.float32)
    volume[:, 3:6, 4:7, 5:8] = np.random.default_rng(0).normal(size=(2, 3, 3, 3))
    offset = crop_offset(volume[0] != 0, shape)
    cropped = crop(volume, offset, shape, 0)
    assert cropped.shape == (2, *shape)
    np.testing.assert_array_equal(uncrop(cropped, offset, volume.shape[1:], 0), volume)


def ball(size: int = 48) -> np.ndarray:
    return (
        sum((np.arange(size).reshape(s) - (size - 1) / 2) ** 2 for s in ((-1, 1, 1), (1, -1, 1), (1, 1, -1))) < (0.4 * size) ** 2
    )


@pytest.mark.parametrize("target", [0.7, 3.0, 2.3])
def test_background_does_not_dim_a_resampled_brain(target: float) -> None:
    mask = ball()
    volumes, inside, _, affine = resample(
        np.where(mask, 500, 0)[None].astype(np.float32), mask, mask.astype(np.uint8), np.eye(4), target
    )
    assert spacing_of(affine) == pytest.approx((target,) * 3)
    np.testing.assert_allclose(volumes[0][inside], 500, rtol=1e-3)
    assert not volumes[0][~inside].any()
    assert inside.sum() * target**3 == pytest.approx(mask.sum(), rel=0.03)


def test_resampling_keeps_things_where_they_are_in_mm() -> None:
    labels = np.zeros((48, 48, 48), np.uint8)
    labels[12:21, 18:30, 24:30] = 2
    affine = np.array([[1, 0, 0, -20], [0, 1, 0, 7], [0, 0, 1, 3], [0, 0, 0, 1.0]])
    volumes, _, small, new_affine = resample(
        labels[None].astype(np.float32) + 1, np.ones(labels.shape, bool), labels, affine, 3.0
    )

    def centre(volume: np.ndarray, grid: np.ndarray) -> np.ndarray:
        weights = volume / volume.sum()
        voxel = [(np.indices(volume.shape)[axis] * weights).sum() for axis in (2, 1, 0)]
        return grid[:3, :3] @ voxel + grid[:3, 3]

    np.testing.assert_allclose(centre(small, new_affine), centre(labels, affine), atol=0.5)
    np.testing.assert_allclose(centre(volumes[0] - 1, new_affine), centre(labels, affine), atol=0.1)
    assert set(np.unique(small)) == {0, 2}


def test_coarse_voxels_average_what_they_cover() -> None:
    noise = np.random.default_rng(0).normal(100, 10, (1, 48, 48, 48)).astype(np.float32)
    mask = np.ones(noise.shape[1:], bool)
    coarse = resample(noise, mask, mask.astype(np.uint8), np.eye(4), 4.0)[0]
    assert coarse.std() < 3  # picking voxels would keep 10

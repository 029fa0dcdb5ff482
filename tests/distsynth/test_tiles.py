"""Brains larger than the training crop: every voxel is covered, and crops that agree are not changed by the blending."""

import numpy as np
import pytest

from distsynth.synthesis.tiles import blended, ramp, starts


def brain_of(size: tuple[int, int, int], box: tuple[slice, slice, slice]) -> np.ndarray:
    brain = np.zeros(size, bool)
    brain[box] = True
    return brain


def test_a_brain_that_fits_gets_the_training_crop_and_only_that() -> None:
    brain = brain_of((20, 40, 40), (slice(3, 15), slice(5, 30), slice(6, 33)))
    asked = []

    def make(corner: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
        asked.append((corner, shape))
        return np.zeros((1, *shape), np.float32)

    corner, made = blended(brain, [-2, 4, 5], [24, 28, 30], make)
    assert (asked, corner, made.shape) == ([((-2, 4, 5), (24, 28, 30))], (-2, 4, 5), (1, 24, 28, 30))


@pytest.mark.parametrize("shape", [(9, 16, 16), (30, 16, 64), (12, 8, 11), (20, 37, 13)])
def test_crops_that_agree_are_blended_to_what_they_agree_on(shape: tuple[int, int, int]) -> None:
    brain = brain_of((30, 60, 50), (slice(2, 27), slice(3, 51), slice(5, 44)))
    field = np.random.default_rng(0).normal(size=(2, 200, 200, 200)).astype(np.float32)
    sizes = set()

    def make(corner: tuple[int, ...], sides: tuple[int, ...]) -> np.ndarray:
        sizes.add(sides[1:])
        z, y, x = (slice(c + 50, c + 50 + s) for c, s in zip(corner, sides, strict=True))
        return field[:, z, y, x]

    offset = [(first + last - side) // 2 for first, last, side in zip((2, 3, 5), (27, 51, 44), shape, strict=True)]
    corner, made = blended(brain, offset, shape, make)
    assert sizes == {shape[1:]}  # the networks only see the size that they were trained on
    voxels = np.argwhere(brain)
    within = voxels - corner
    assert within.min() >= 0
    assert (within.max(axis=0) < made.shape[1:]).all()
    z, y, x = (voxels + 50).T
    np.testing.assert_allclose(made[:, within[:, 0], within[:, 1], within[:, 2]], field[:, z, y, x], atol=1e-6)


def test_crops_overlap_by_at_least_a_quarter() -> None:
    for size in (8, 13, 160):
        for extent in range(size + 1, 5 * size, 7):
            places = starts(10, 10 + extent, 0, size)
            assert (places[0], places[-1] + size) == (10, 10 + extent)
            assert max(np.diff(places)) <= np.ceil(0.75 * size) + 1


def test_weights_fall_to_both_edges_and_never_to_zero() -> None:
    for size in (1, 2, 7, 160):
        weights = ramp(size)
        assert (weights > 0).all()
        assert (weights <= 1).all()
        np.testing.assert_array_equal(weights, weights[::-1])

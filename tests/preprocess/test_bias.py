"""N4 removes a known field, on any grid."""

import numpy as np
import pytest
import SimpleITK as sitk
from threadpoolctl import threadpool_limits

from preprocess.bias import N4Settings, correct, log_bias_field
from preprocess.shared.errors import SettingError


def biased_brain(size: int = 40, strength: float = 0.35) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two tissues in a ball, times a smooth field: volume, mask, log of the field."""
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, size)] * 3, indexing="ij")
    mask = z**2 + y**2 + x**2 < 0.8
    tissue = np.where(np.sin(9 * x) * np.sin(9 * y) * np.sin(9 * z) > 0, 100.0, 160.0)
    field = strength * (x + 0.6 * y - 0.7 * z**2)
    noise = np.random.default_rng(0).normal(size=mask.shape)
    return ((tissue + 2 * noise) * np.exp(field) * mask).astype(np.float32), mask, field


@pytest.mark.parametrize("spacing", [1.0, 3.0])
def test_most_of_a_known_field_is_removed(spacing: float) -> None:
    volume, mask, field = biased_brain()
    estimated = log_bias_field(volume, mask, (spacing,) * 3, N4Settings(spacing=3 * spacing, iterations=[40, 30]))
    assert (field - estimated)[mask].std() < 0.35 * field[mask].std()


def test_one_tissue_becomes_more_even() -> None:
    volume, mask, field = biased_brain()
    tissue = mask & (volume / np.exp(field) > 130)
    after = correct(volume, mask, (3.0,) * 3, N4Settings(spacing=9.0, iterations=[40, 30]))
    assert after[tissue].std() / after[tissue].mean() < 0.5 * volume[tissue].std() / volume[tissue].mean()


def test_the_same_volume_gives_the_same_bytes() -> None:
    volume, mask, _ = biased_brain(24)
    first, second = (correct(volume, mask, (3.0,) * 3, N4Settings(iterations=[5])) for _ in range(2))
    assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize(("levels", "control_points"), [(1, 4), (2, 4), (2, 5), (4, 4)])
def test_the_field_is_itks_own_to_half_a_part_in_ten_thousand(levels: int, control_points: int) -> None:
    volume, mask, _ = biased_brain(41)  # every fourth voxel includes both edges, so ITK stretches its spline as we do
    settings = N4Settings(spacing=4.0, iterations=[20] * levels, control_points=control_points)
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations(settings.iterations)
    n4.SetConvergenceThreshold(settings.tolerance)
    n4.SetNumberOfControlPoints([control_points] * 3)
    whole = np.maximum(volume, 1e-3 * np.median(volume[mask]))
    n4.Execute(sitk.GetImageFromArray(whole[::4, ::4, ::4]), sitk.GetImageFromArray(mask[::4, ::4, ::4].astype(np.uint8)))
    itk = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(sitk.GetImageFromArray(whole)))
    assert itk.std() > 0.05
    np.testing.assert_allclose(log_bias_field(volume, mask, (1.0,) * 3, settings), itk, rtol=0, atol=5e-5)


def test_the_bytes_do_not_depend_on_the_number_of_blas_threads() -> None:
    volume, mask, _ = biased_brain(120)
    stored = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            stored.append(correct(volume, mask, (1.0,) * 3, N4Settings(iterations=[2, 2])).tobytes())
    assert stored[0] == stored[1]


def test_air_around_the_head_changes_nothing() -> None:
    volume, mask, _ = biased_brain(24)
    margins = ((2, 9), (5, 1), (0, 17))
    wide = correct(np.pad(volume, margins), np.pad(mask, margins), (3.0,) * 3, N4Settings(iterations=[5]))
    assert np.array_equal(wide, np.pad(correct(volume, mask, (3.0,) * 3, N4Settings(iterations=[5])), margins))


@pytest.mark.parametrize("where", [(20, 20, 20), (20, slice(5, 35), slice(5, 35)), ([3, 38], [3, 38], [3, 38])])
def test_masks_too_small_for_a_spline_work(where: tuple) -> None:
    mask = np.zeros((40, 40, 40), bool)
    mask[where] = True
    volume = (mask * np.random.default_rng(0).normal(100, 5, mask.shape)).astype(np.float32)
    after = correct(volume, mask, (1.0, 1.0, 1.0), N4Settings())
    assert np.isfinite(after).all()
    assert (after[mask] > 0).all()


def test_a_failure_of_itk_is_a_runtime_error() -> None:
    """The command sets such a case aside."""
    with pytest.raises(RuntimeError, match="spacing"):
        correct(np.full((1, 30, 30), 100, np.float32), np.ones((1, 30, 30), bool), (1.0, 1.0, 1.0), N4Settings())


def test_negative_intensities_in_the_brain_keep_their_sign_and_stay_finite() -> None:
    volume, mask, _ = biased_brain(24)
    volume[12, 12, 12] = -3
    after = correct(volume, mask, (3.0,) * 3, N4Settings(iterations=[5]))
    assert np.isfinite(after).all()
    assert after[12, 12, 12] < 0


@pytest.mark.parametrize("shape", [(2, 30, 30), (3, 30, 30), (5, 5, 5)])
def test_grids_thinner_than_the_coarse_copy_work(shape: tuple[int, ...]) -> None:
    volume = np.random.default_rng(0).normal(100, 5, shape).astype(np.float32)
    assert np.isfinite(correct(volume, np.ones(shape, bool), (1.0, 1.0, 1.0), N4Settings())).all()


def test_switched_off_it_changes_nothing() -> None:
    volume, mask, _ = biased_brain(16)
    assert correct(volume, mask, (1.0,) * 3, N4Settings(enabled=False)) is volume


@pytest.mark.parametrize("bad", [{"spacing": 0.0}, {"iterations": []}, {"iterations": [0]}, {"control_points": 3}])
def test_impossible_settings_are_refused(bad: dict) -> None:
    with pytest.raises(SettingError, match=next(iter(bad))):
        N4Settings(**bad)

"""N4 removes a field that was put in, whatever the grid."""

import numpy as np
import pytest

from preprocess.bias import N4Settings, correct, log_bias_field
from preprocess.errors import SettingError


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
    found = log_bias_field(volume, mask, (spacing,) * 3, N4Settings(spacing=3 * spacing, iterations=[40, 30]))
    assert (field - found)[mask].std() < 0.35 * field[mask].std()


def test_one_tissue_becomes_more_even() -> None:
    volume, mask, field = biased_brain()
    tissue = mask & (volume / np.exp(field) > 130)
    after = correct(volume, mask, (3.0,) * 3, N4Settings(spacing=9.0, iterations=[40, 30]))
    assert after[tissue].std() / after[tissue].mean() < 0.5 * volume[tissue].std() / volume[tissue].mean()


def test_the_same_volume_gives_the_same_bytes() -> None:
    volume, mask, _ = biased_brain(24)
    first, second = (correct(volume, mask, (3.0,) * 3, N4Settings(iterations=[5])) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_negative_intensities_in_the_brain_keep_their_sign_and_stay_finite() -> None:
    volume, mask, _ = biased_brain(24)
    volume[12, 12, 12] = -3
    after = correct(volume, mask, (3.0,) * 3, N4Settings(iterations=[5]))
    assert np.isfinite(after).all()
    assert after[12, 12, 12] < 0


@pytest.mark.parametrize("shape", [(2, 30, 30), (3, 30, 30), (5, 5, 5)])
def test_grids_thinner_than_the_working_copy_go_through(shape: tuple[int, ...]) -> None:
    volume = np.random.default_rng(0).normal(100, 5, shape).astype(np.float32)
    assert np.isfinite(correct(volume, np.ones(shape, bool), (1.0, 1.0, 1.0), N4Settings())).all()


def test_switched_off_it_changes_nothing() -> None:
    volume, mask, _ = biased_brain(16)
    assert correct(volume, mask, (1.0,) * 3, N4Settings(enabled=False)) is volume


@pytest.mark.parametrize("bad", [{"spacing": 0.0}, {"iterations": []}, {"iterations": [0]}])
def test_impossible_settings_are_refused(bad: dict) -> None:
    with pytest.raises(SettingError, match=next(iter(bad))):
        N4Settings(**bad)

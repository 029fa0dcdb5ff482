"""Statistics come from the clipped brain, stored intensities are unclipped, and only background is -9."""

import numpy as np
import pytest

from preprocess.intensity import BACKGROUND, Statistics, clip_share, normalise, statistics


def volume() -> tuple[np.ndarray, np.ndarray]:
    brain = np.random.default_rng(0).normal(500, 50, (20, 20, 20)).astype(np.float32)
    mask = np.zeros(brain.shape, bool)
    mask[4:16, 4:16, 4:16] = True
    return np.where(mask, brain, 0), mask


def test_percentiles_ignore_the_background() -> None:
    brain, mask = volume()
    stats = statistics(brain, mask, 1.0)
    assert (stats.raw_low, stats.raw_high) == pytest.approx(np.percentile(brain[mask].astype(np.float64), [1, 99]))


def test_an_outlier_moves_no_statistic_and_is_stored_beyond_the_bounds() -> None:
    brain, mask = volume()
    before = statistics(brain, mask, 1.0)
    brain[np.unravel_index(np.argmax(brain), brain.shape)] = 32767
    after = statistics(brain, mask, 1.0)
    assert after == before
    assert float(normalise(brain, mask, after, "float16").max()) > 100 > after.record()["clip_high"]


def test_the_clipped_z_scores_have_mean_0_and_deviation_1() -> None:
    brain, mask = volume()
    stats = statistics(brain, mask, 1.0)
    bounds = stats.record()
    z = np.clip(normalise(brain, mask, stats, "float32")[mask], bounds["clip_low"], bounds["clip_high"])
    assert (z.mean(), z.std()) == pytest.approx((0, 1), abs=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_background_is_exactly_minus_9_and_the_brain_never_is(dtype: str) -> None:
    raw = np.array([-9.0, -9.0001, -8.9999, -20.0, 0.0, -9.0], np.float32)
    mask = np.array([True, True, True, True, True, False])
    z = normalise(raw, mask, Statistics(-2, 2, 0, 1), dtype)
    assert ((z == BACKGROUND) == ~mask).all()
    assert float(z[3]) == -20
    assert np.abs(z[mask].astype(np.float64) - raw[mask]).max() < 0.01


def test_z_scores_beyond_float16_stay_finite() -> None:
    z = normalise(np.array([1e30, -1e30], np.float32), np.array([True, True]), Statistics(-2, 2, 0, 1), "float16")
    assert z.tolist() == [65504, -65504]


def test_a_brain_without_contrast_is_refused() -> None:
    brain, mask = np.full((4, 4, 4), 7, np.float32), np.ones((4, 4, 4), bool)
    with pytest.raises(ValueError, match="the same intensity, 7"):
        statistics(brain, mask, 1.0)


def test_the_clipped_share_is_given_by_label() -> None:
    values = np.array([0, 1, 5, 5, 5, 1], np.float32)
    share = clip_share(values, np.array([0, 1, 1, 2, 2, 2], np.uint8), Statistics(0, 4, 1, 1))
    assert share == {"1": 0.5, "2": pytest.approx(2 / 3)}

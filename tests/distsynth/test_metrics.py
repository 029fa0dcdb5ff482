"""PSNR, SSIM and NMAE by region, against torchmetrics and by hand."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from distsynth.evaluation.metrics import score, ssim_map, summarise
from distsynth.psnr import BEST


@pytest.fixture
def volume() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    brain = np.zeros((24, 28, 26), bool)
    brain[4:20, 4:24, 4:22] = True
    tumour = np.zeros_like(brain)
    tumour[8:12, 8:14, 8:13] = True
    from scipy.ndimage import gaussian_filter

    truth = np.where(brain, gaussian_filter(rng.normal(size=brain.shape), 1.5) * 5, -9).astype(np.float32)
    made = np.where(brain, truth + 0.2 * rng.normal(size=brain.shape), -9).astype(np.float32)
    return {"truth": truth, "made": made, "brain": brain, "tumour": tumour}


def scores_of(v: dict[str, np.ndarray], made: np.ndarray | None = None) -> dict[str, dict[str, float]]:
    return score(v["truth"], v["made"] if made is None else made, v["brain"], v["tumour"], v["truth"])


def test_psnr_and_nmae_in_a_region_by_hand(volume: dict[str, np.ndarray]) -> None:
    span = np.ptp(volume["truth"][volume["brain"]])
    scores = scores_of(volume)
    for region in ("brain", "tumour"):
        error = (volume["made"] - volume["truth"])[volume[region]]
        assert scores[region]["psnr"] == pytest.approx(10 * np.log10(span**2 / np.mean(error.astype(float) ** 2)), abs=1e-4)
        assert scores[region]["nmae"] == pytest.approx(np.abs(error).mean() / span, rel=1e-5)


def test_full_volume_psnr_equals_torchmetrics(volume: dict[str, np.ndarray]) -> None:
    """With the background at the truth's minimum, as the card says."""
    low = volume["truth"][volume["brain"]].min()
    truth, made = (torch.from_numpy(np.where(volume["brain"], volume[k], low)) for k in ("truth", "made"))
    span = float(np.ptp(volume["truth"][volume["brain"]]))
    assert scores_of(volume)["volume"]["psnr"] == pytest.approx(
        float(peak_signal_noise_ratio(made, truth, data_range=span)), abs=1e-3
    )


def test_ssim_equals_torchmetrics_where_no_border_is_near(volume: dict[str, np.ndarray]) -> None:
    low, span = volume["truth"][volume["brain"]].min(), float(np.ptp(volume["truth"][volume["brain"]]))
    truth, made = (np.where(volume["brain"], volume[k], low).astype(np.float32) for k in ("truth", "made"))
    ours = ssim_map(truth, made, volume["brain"], span)
    _, theirs = structural_similarity_index_measure(
        torch.from_numpy(made)[None, None], torch.from_numpy(truth)[None, None], data_range=span, sigma=1.5, kernel_size=11,
        return_full_image=True,
    )  # fmt: skip
    inner = (slice(8, 16), slice(8, 20), slice(8, 18))
    assert ours[inner] == pytest.approx(theirs[0, 0].numpy()[inner], abs=2e-3)


def test_the_range_is_the_truths_own(volume: dict[str, np.ndarray]) -> None:
    """Stretching the prediction must cost what it costs: no normalisation by its own extremes."""
    gained = np.where(volume["brain"], volume["truth"] * 0.8, -9).astype(np.float32)
    span = np.ptp(volume["truth"][volume["brain"]])
    error = (0.2 * volume["truth"][volume["brain"]]).astype(float)
    assert scores_of(volume, gained)["brain"]["psnr"] == pytest.approx(10 * np.log10(span**2 / np.mean(error**2)), abs=1e-3)


def test_what_is_predicted_outside_the_brain_is_of_no_account(volume: dict[str, np.ndarray]) -> None:
    noisy = volume["made"].copy()
    noisy[~volume["brain"]] = 77
    assert scores_of(volume, noisy) == scores_of(volume)


def test_a_perfect_prediction_and_a_missing_lesion(volume: dict[str, np.ndarray]) -> None:
    perfect = scores_of(volume, volume["truth"])
    assert perfect["brain"] == {"psnr": BEST, "nmae": 0.0, "ssim": pytest.approx(1.0)}
    erased = volume["truth"].copy()
    erased[volume["tumour"]] += 4
    scores = scores_of(volume, erased)
    assert scores["tumour"]["psnr"] < scores["brain"]["psnr"] < scores["volume"]["psnr"]


def test_a_patient_without_a_tumour_has_no_tumour_score(volume: dict[str, np.ndarray]) -> None:
    none = np.zeros_like(volume["tumour"])
    assert "tumour" not in score(volume["truth"], volume["made"], volume["brain"], none, volume["truth"])


def test_a_constant_truth_and_a_thin_volume_are_refused(volume: dict[str, np.ndarray]) -> None:
    flat = np.where(volume["brain"], 1, -9).astype(np.float32)
    with pytest.raises(ValueError, match="constant inside the brain"):
        score(flat, flat, volume["brain"], volume["tumour"], flat)
    broken = np.where(volume["brain"], np.nan, volume["made"])
    with pytest.raises(ValueError, match=f"the prediction holds {volume['brain'].sum()} values that are not finite"):
        score(volume["truth"], broken, volume["brain"], volume["tumour"], volume["truth"])
    thin = {k: v[:5] for k, v in volume.items()}
    with pytest.raises(ValueError, match="thinner than the SSIM's window"):
        ssim_map(thin["truth"], thin["made"], thin["brain"], 1.0)


def test_aggregation_is_per_patient() -> None:
    rows = [{"modality": "t2", "region": "brain", "model": "synthesised", "psnr": p, "nmae": 0.1} for p in (20.0, 30.0)]
    cell = summarise(rows)["t2"]["brain"]["synthesised"]  # type: ignore[arg-type]
    assert cell["psnr"] == {"mean": 25.0, "std": 5.0, "n": 2}
    assert "ssim" not in cell

"""PSNR, SSIM and NMAE of a whole volume, by region, with the card that states what each was computed on.

Full-volume figures hide a missing tumour (a prediction with its lesion erased can keep 29 dB), so the headline is inside the brain and
inside the tumour. The range is always the truth's, never the prediction's, so that an error of gain lowers the score.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from distsynth.metric_names import METRICS, REGIONS
from distsynth.psnr import psnr

Volume = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

SIGMA, WINDOW = 1.5, 11  # of the SSIM's Gaussian: Wang et al. 2004

CARD = {
    "psnr": "10 log10(range^2 / mean squared error) over the region's voxels, dB, at most 100",
    "ssim": f"scikit-image structural_similarity, 3-D Gaussian window of sigma {SIGMA} voxels ({WINDOW} wide), map averaged over the region",
    "nmae": "mean absolute error over the region's voxels / range",
    "dice": "of a segmentor's whole tumour (probability above 1/2) in one real modality, (2 both + 1) / (found + true + 1), over the volume",
    "judge_dice": "the same, of the frozen segmentor of evaluate.judge, in the synthesised and in the real image",
    "range": "max - min of the clipped truth inside the brain of that volume; never taken from the prediction",
    "normalisation": "z-scores inside the brain, clipped as data.clip says; outside the brain truth and prediction are the truth's minimum",
    "aggregation": "per patient, then mean and standard deviation over the patients",
    "brain": "voxels that are not background in the source files",
    "tumour": "voxels with any label; patients without one are left out",
    "tumour_raw": "the same voxels against the truth before the clip, which cuts into lesions",
    "volume": "every voxel of the stored crop, background included: for comparison with papers only",
}


def score(truth: Volume, prediction: Volume, brain: Mask, tumour: Mask, raw_truth: Volume) -> dict[str, dict[str, float]]:
    """Metrics by region of a (z, y, x) prediction in z-scores. `raw_truth` is the truth before the clip. Empty regions are left out.

    Raises ValueError if the truth is constant inside the brain, the prediction is not finite there, or the volume is thinner than the SSIM's window.
    """
    low, high = float(truth[brain].min()), float(truth[brain].max())
    if not high > low:
        raise ValueError("the truth is constant inside the brain, so its range is zero")
    if wrong := int((~np.isfinite(prediction[brain])).sum()):
        raise ValueError(f"the prediction holds {wrong} values that are not finite")
    wanted, made, raw = (np.where(brain, v, low).astype(np.float32) for v in (truth, prediction, raw_truth))
    similarity = ssim_map(wanted, made, brain, high - low)
    masks = {"brain": brain, "tumour": tumour & brain, "tumour_raw": tumour & brain, "volume": np.ones_like(brain)}
    scores = {}
    for region in REGIONS:
        where = masks[region]
        if where.any():
            against = raw if region == "tumour_raw" else wanted
            scores[region] = errors(against[where], made[where], high - low)
            if region != "tumour_raw":
                scores[region]["ssim"] = float(similarity[where].mean(dtype=np.float64))
    return scores


def errors(truth: Volume, prediction: Volume, span: float) -> dict[str, float]:
    """PSNR and NMAE of the voxels of a region at a data range of `span`."""
    error = prediction.astype(np.float64) - truth
    return {"psnr": psnr(span, float((error**2).mean())), "nmae": float(np.abs(error).mean() / span)}


def ssim_map(truth: Volume, prediction: Volume, brain: Mask, span: float) -> Volume:
    """(z, y, x) structural similarity. Computed in the brain's bounding box; where both are constant it is 1."""
    from skimage.metrics import structural_similarity

    if min(truth.shape) < WINDOW:
        raise ValueError(f"a volume of {truth.shape} voxels is thinner than the SSIM's window of {WINDOW}")
    similarity = np.ones(truth.shape, np.float32)
    box = []
    for axis, size in enumerate(truth.shape):
        inside = np.flatnonzero(brain.any(axis=tuple(a for a in range(3) if a != axis)))
        first, last = max(0, inside[0] - WINDOW), min(size, inside[-1] + 1 + WINDOW)
        box.append(slice(min(first, size - WINDOW), max(last, WINDOW)))
    part = tuple(box)
    _, similarity[part] = structural_similarity(
        truth[part], prediction[part], data_range=span, gaussian_weights=True, sigma=SIGMA, use_sample_covariance=False, full=True
    )
    return similarity


def summarise(rows: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows (subject, modality, model, region, and some of METRICS) as {modality: {region: {model: {metric: {mean, std, n}}}}}."""
    summary: dict[str, Any] = {}
    for row in rows:
        cell = summary.setdefault(row["modality"], {}).setdefault(row["region"], {}).setdefault(row["model"], {})
        for metric in METRICS:
            if metric in row:
                cell.setdefault(metric, []).append(row[metric])
    for regions in summary.values():
        for models in regions.values():
            for cell in models.values():
                for metric, values in cell.items():
                    cell[metric] = {"mean": float(np.mean(values)), "std": float(np.std(values)), "n": len(values)}
    return summary

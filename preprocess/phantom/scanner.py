"""Tissue to four contrasts as from a scanner: slice thickness, bias field, noise, gain, and whole numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from preprocess.phantom.fields import Grid, Volume, smooth_field
from preprocess.phantom.physics import SEQUENCES, TISSUES, signal, vary, vary_sequence

# Mean intensity of white matter in one real glioma case; other scanners have other gains.
WHITE = {"t1": 616.0, "t1ce": 556.0, "t2": 105.0, "flair": 183.0}


@dataclass(frozen=True)
class Scan:
    """One contrast on the scanner's grid, before rounding to whole numbers, and its bias field."""

    intensity: Volume
    log_bias: Volume
    thickness: float  # mm along z
    noise: float  # standard deviation as a share of white matter


def relaxed(rng: np.random.Generator) -> dict[str, dict[str, float]]:
    """Signal of each tissue in each contrast, relative to white matter, for one person on one scanner."""
    tissues = {
        name: vary(rng, tissue, 0.03 if name in ("white", "grey", "deep_grey", "csf") else 0.12)
        for name, tissue in TISSUES.items()
    }
    signals = {}
    for contrast, sequence in SEQUENCES.items():
        protocol = vary_sequence(rng, sequence)
        white = signal(tissues["white"], protocol)
        signals[contrast] = {name: signal(tissue, protocol) / white for name, tissue in tissues.items()}
    return signals


def image(fractions: dict[str, Volume], signals: dict[str, float], texture: Volume) -> Volume:
    """The contrast that the tissue fractions give, with texture in proportion to the signal."""
    total = np.zeros_like(next(iter(fractions.values())))
    for name, fraction in fractions.items():
        total += np.float32(signals[name]) * fraction
    return total * (1 + texture)


def textures(rng: np.random.Generator, grid: Grid) -> dict[str, Volume]:
    """Small variations within a tissue, correlated between contrasts: more water lowers T1 contrasts and raises T2 contrasts."""
    water = 0.020 * smooth_field(rng, 11, grid) + 0.014 * smooth_field(rng, 4.5, grid) + 0.016 * smooth_field(rng, 2.6, grid)
    weights = {"t1": -0.9, "t1ce": -0.8, "t2": 1.5, "flair": 1.3}
    return {contrast: weight * water + 0.012 * smooth_field(rng, 2.6, grid) for contrast, weight in weights.items()}


def scan(
    rng: np.random.Generator, contrast: str, ideal: Volume, brain: npt.NDArray[np.bool_], grid: Grid, spacing: float, factor: int
) -> Scan:
    """The scan of an ideal contrast on the fine grid, of which `factor` voxels along each axis make one voxel of `spacing` mm."""
    from scipy.ndimage import gaussian_filter, uniform_filter1d

    thickness = float(
        rng.choice([1.0, 1.5, 2.0, 3.0, 5.0], p=[0.35, 0.2, 0.2, 0.15, 0.1] if contrast != "t1" else [0.6, 0.2, 0.1, 0.1, 0.0])
    )
    fine = spacing / factor
    blurred = gaussian_filter(ideal, 0.45 / fine)  # point spread, and the interpolation of a registration
    if thickness > 1.5 * fine:
        blurred = uniform_filter1d(blurred, max(1, round(thickness / fine)), axis=2)
    log_bias = np.float32(rng.uniform(0.03, 0.09)) * smooth_field(rng, 85, grid)
    biased = block_mean(blurred, factor) * np.exp(log_bias)
    noise = float(rng.uniform(0.012, 0.035)) * min(1.0, 1.4 / spacing)
    real, imaginary = (smoothed_noise(rng, biased.shape, 0.5 / spacing) for _ in range(2))
    rician = np.sqrt((biased + noise * real) ** 2 + (noise * imaginary) ** 2)
    gain = WHITE[contrast] * np.exp(rng.normal(0, 0.2))
    return Scan(np.where(brain, gain * rician, 0).astype(np.float32), log_bias, thickness, noise)


def smoothed_noise(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> Volume:
    """White noise after interpolation, with standard deviation 1."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(rng.standard_normal(shape, dtype=np.float32), sigma)
    return np.asarray(noise / noise.std(), np.float32)


def block_mean(volume: npt.NDArray[np.float32], factor: int) -> Volume:
    """Means over cubes of `factor` voxels along an edge: partial volume."""
    if factor == 1:
        return volume
    x, y, z = (n // factor for n in volume.shape)
    return np.asarray(volume.reshape(x, factor, y, factor, z, factor).mean(axis=(1, 3, 5)), np.float32)


def whole_numbers(scan: Scan, brain: npt.NDArray[np.bool_]) -> npt.NDArray[np.int16]:
    """int16, 0 outside the brain and never inside it."""
    rounded = np.clip(np.round(scan.intensity), 1, 32767).astype(np.int16)
    return np.where(brain, rounded, np.int16(0))

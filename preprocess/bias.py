"""N4 bias field correction (Tustison et al. 2010): fitted on a coarse copy of the brain, its log field applied at full resolution.

ITK fits the field on the voxels that we choose. We evaluate its B-spline ourselves, one axis at a time; ITK does it voxel by voxel, at many
times the cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from preprocess.geometry import bounding_box
from preprocess.shared.errors import SettingError
from preprocess.shared.settings import setting
from preprocess.spline import Floats, spline_basis

Volume = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass
class N4Settings:
    """How the bias field is fitted. The defaults are fast and leave little of a field, even a strong one (`python -m preprocess.bench n4`)."""

    enabled: bool = setting(True, "correct the bias field")
    spacing: float = setting(8.0, "voxel size in mm of the copy that the field is fitted on")
    iterations: list[int] = setting([50], "most iterations at each level; each further level halves the spline's pieces")
    tolerance: float = setting(5e-4, "a level ends when the field changes by less than this")
    control_points: int = setting(5, "along each axis of the brain's box, at the first level: 3 more than spline pieces")

    def __post_init__(self) -> None:
        if self.spacing <= 0:
            raise SettingError(f"n4.spacing={self.spacing} must be above 0 mm")
        if not self.iterations or min(self.iterations) < 1:
            raise SettingError(f"n4.iterations={list(self.iterations)} must give at least one level of at least 1 iteration")
        if self.control_points < 4:
            raise SettingError(f"n4.control_points={self.control_points} must be at least 4, as a cubic spline needs")

    @property
    def spans(self) -> int:
        """Polynomial pieces along an axis at the last level."""
        return int((self.control_points - 3) * 2 ** (len(self.iterations) - 1))


def correct(volume: Volume, mask: Mask, spacing: Sequence[float], settings: N4Settings) -> Volume:
    """The (z, y, x) volume, with voxels of `spacing` (z, y, x) mm, divided by its bias field in the box around the mask."""
    if not settings.enabled:
        return volume
    box = bounding_box(mask)
    corrected = volume.copy()
    corrected[box] /= np.exp(log_bias_field(volume[box], mask[box], spacing, settings))
    return corrected


def log_bias_field(volume: Volume, mask: Mask, spacing: Sequence[float], settings: N4Settings) -> Volume:
    """The log of the bias field of a (z, y, x) volume; the volume is image x exp(field). Raises RuntimeError if ITK fails.

    ITK gets one thread: two change the field by 1.6e-3, and a store must be the same on every machine.
    """
    import SimpleITK as sitk

    # A thin grid keeps its slices: ITK cannot fit an axis of one voxel.
    steps = [max(1, min(round(settings.spacing / s), n // 2)) for s, n in zip(spacing, volume.shape, strict=True)]
    starts = [(n - 1) % step // 2 for n, step in zip(volume.shape, steps, strict=True)]
    coarse = tuple(slice(start, None, step) for start, step in zip(starts, steps, strict=True))
    floor = 1e-3 * float(np.median(volume[mask]))  # N4 takes logs, and real brains have a few negative intensities
    image, inside = np.maximum(volume[coarse], max(floor, 1e-6)), mask[coarse].astype(np.uint8)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations([int(n) for n in settings.iterations])
    n4.SetConvergenceThreshold(settings.tolerance)
    n4.SetNumberOfControlPoints([settings.control_points] * 3)
    n4.Execute(sitk.GetImageFromArray(image), sitk.GetImageFromArray(inside))
    ends = [start + (n - 1) * step for start, n, step in zip(starts, image.shape, steps, strict=True)]
    axes = [np.clip((np.arange(n) - a) / (b - a), 0, 1) for n, a, b in zip(volume.shape, starts, ends, strict=True)]
    return read_spline(n4, settings.spans, axes)


def read_spline(n4: Any, spans: int, axes: Sequence[Floats]) -> Volume:
    """The fitted log field at the positions `axes` (z, y, x), where 0 and 1 are the first and the last voxel of the fit.

    ITK does not give its control points, but stretches the spline over any grid: enough samples of it determine them.
    """
    import SimpleITK as sitk

    count = 2 * (spans + 3)  # twice as many samples as needed, for a well-conditioned inverse
    field = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(sitk.Image([count] * 3, sitk.sitkFloat32)))
    to_control_points = np.linalg.pinv(spline_basis(np.linspace(0, spans, count), spans + 4))
    for positions in axes:
        weights = spline_basis(positions * spans, spans + 4) @ to_control_points
        # Contracts the first axis and appends the evaluated one. Not with BLAS: on some processors its rounding depends on the thread count.
        field = np.einsum("k...,ok->...o", field, weights.astype(np.float32))
    return np.asarray(field, np.float32)

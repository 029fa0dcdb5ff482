"""N4 bias field correction (Tustison et al. 2010): fitted on a shrunken copy, its log field applied at full resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from preprocess.errors import SettingError
from preprocess.settings import setting

Volume = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass
class N4Settings:
    """How the bias field is fitted."""

    enabled: bool = setting(True, "correct the bias field")
    spacing: float = setting(8.0, "voxel size in mm of the copy that the field is fitted on")
    iterations: list[int] = setting([40, 30], "at most so many iterations at each level")
    tolerance: float = setting(1e-3, "stop a level when the field changes less")

    def __post_init__(self) -> None:
        if self.spacing <= 0:
            raise SettingError(f"n4.spacing={self.spacing} must be above 0 mm")
        if not self.iterations or min(self.iterations) < 1:
            raise SettingError(f"n4.iterations={list(self.iterations)} must name at least one level of at least 1 iteration")


def log_bias_field(volume: Volume, mask: Mask, spacing: Sequence[float], settings: N4Settings) -> Volume:
    """The log of the bias field of a (z, y, x) volume with voxels of `spacing` (z, y, x) mm; the volume is image x exp(field).

    One ITK thread: two change the field by 1.6e-3, and a store must come out the same everywhere.
    """
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    floor = 1e-3 * float(np.median(volume[mask]))  # N4 takes logs, and real brains hold a few negative intensities
    image = sitk.GetImageFromArray(np.maximum(volume, max(floor, 1e-6)))
    inside = sitk.GetImageFromArray(mask.astype(np.uint8))
    for part in (image, inside):
        part.SetSpacing([float(s) for s in reversed(spacing)])
    grid = reversed(volume.shape)  # a thin grid keeps its slices: ITK cannot shrink an axis to nothing
    shrink = [max(1, min(round(settings.spacing / s), n // 2)) for s, n in zip(reversed(spacing), grid, strict=True)]
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations([int(n) for n in settings.iterations])
    n4.SetConvergenceThreshold(settings.tolerance)
    n4.Execute(sitk.Shrink(image, shrink), sitk.Shrink(inside, shrink))
    field: Volume = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image)).astype(np.float32)
    return field


def correct(volume: Volume, mask: Mask, spacing: Sequence[float], settings: N4Settings) -> Volume:
    """The volume divided by its bias field."""
    if not settings.enabled:
        return volume
    return np.asarray(volume / np.exp(log_bias_field(volume, mask, spacing, settings)), np.float32)

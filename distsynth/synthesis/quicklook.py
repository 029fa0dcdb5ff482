"""A picture of a patient: the inputs and what was synthesised from them, in three planes."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from distsynth.evaluation.figures import PIXELS, on_black
from distsynth.modalities import Modality
from distsynth.synthesis.synthesiser import Made
from preprocess.geometry import bounding_box, spacing_of, to_canonical
from preprocess.shared.files import write_atomically
from preprocess.source.scans import Scans

Volume = npt.NDArray[np.float32]
MARK = "distsynth quick look"  # in the PNG's text


def draw(path: Path, title: str, scans: Scans, made: Mapping[str, Made]) -> None:
    """Write a PNG: a column per contrast, inputs first, and an acquired contrast beside its synthesised one; axial, coronal and sagittal slices
    through the middle of the brain. Raises OSError."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    inputs = [m for m in scans.modalities if any(m in each.inputs for each in made.values())]
    affine = np.array(scans.original["original_affine"])
    shown = {f"{Modality(m).title}, input": scans.volumes[scans.modalities.index(m)] for m in inputs}
    for m, each in made.items():
        if m in scans.modalities:
            shown[f"{Modality(m).title}, acquired"] = scans.volumes[scans.modalities.index(m)]
        shown[f"{Modality(m).title}, SYNTHETIC"] = to_canonical(each.volume, affine)[0]
    box, spacing = bounding_box(scans.mask), spacing_of(scans.affine)
    brain = scans.mask[box]
    middle = [int(np.average(np.arange(n), weights=brain.sum(axis=axes))) for n, axes in zip(brain.shape, AXES, strict=True)]
    heights = [plane(brain, spacing, middle, axis)[0].shape[0] * plane(brain, spacing, middle, axis)[1] for axis in range(3)]
    wide = max(plane(brain, spacing, middle, axis)[0].shape[1] for axis in range(3))
    size = (2.4 * len(shown), 2.4 * sum(heights) / wide + 0.5)
    figure, axes = plt.subplots(
        3, len(shown), figsize=size, squeeze=False, layout="constrained", height_ratios=heights, facecolor="white"
    )
    for column, (name, volume) in zip(axes.T, shown.items(), strict=True):
        low, high = np.percentile(volume[box][brain], [0.5, 99.5])
        for row, axis in enumerate(column):
            cut, aspect = plane(np.where(brain, volume[box], np.nan), spacing, middle, row)
            axis.imshow(cut, on_black("gray"), vmin=low - 0.08 * (high - low), vmax=high, aspect=aspect, **PIXELS)
            axis.set_axis_off()
        column[0].set_title(name, fontsize=9, color="#b00020" if name.endswith("SYNTHETIC") else "black")
    figure.suptitle(f"{title}: for research use only", fontsize=8, color="0.4", parse_math=False)
    picture = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that the font lacks
        figure.savefig(picture, dpi=100, format="png", metadata={"Software": MARK})
    plt.close(figure)
    write_atomically(path, picture.getvalue())


def is_picture(path: Path) -> bool:
    """Whether a file is a quick look that `draw` wrote."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return MARK.encode() in file.read(4096)


AXES = ((1, 2), (0, 2), (0, 1))


def plane(volume: npt.NDArray[Any], spacing: tuple[float, float, float], middle: list[int], axis: int) -> tuple[Any, float]:
    """The axial (0), coronal (1) or sagittal (2) slice through `middle`, and how much higher than wide its pixels are."""
    cut = volume[middle[0]] if axis == 0 else volume[:, middle[1]] if axis == 1 else volume[:, :, middle[2]]
    height, width = [size for number, size in enumerate(spacing) if number != axis]
    return cut, height / width

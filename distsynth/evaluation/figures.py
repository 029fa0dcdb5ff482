"""Pictures of a patient: inputs, truth, synthesised, difference, like the report's Figures 17 and 18."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from distsynth.evaluation.metrics import errors
from distsynth.modalities import Modality, Variant

Volume = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

PIXELS = {"origin": "lower", "interpolation": "nearest"}  # seen from above with the front up


@dataclass(frozen=True)
class Slice:
    """The part of a volume that is shown: an axial slice, cut to the brain in it."""

    z: int
    box: tuple[slice, slice]
    brain: Mask  # (y, x), of the box

    @classmethod
    def of(cls, brain: Mask, labels: npt.NDArray[np.uint8], margin: int = 2) -> Slice:
        """With most tumour, or most brain where there is none; (z, y, x)."""
        tumour = (labels > 0) & brain
        z = int((tumour if tumour.any() else brain).sum(axis=(1, 2)).argmax())
        ends = [np.flatnonzero(brain[z].any(axis=axis))[[0, -1]] for axis in (1, 0)]
        y, x = (slice(max(0, low - margin), high + margin + 1) for low, high in ends)
        return cls(z, (y, x), brain[z][y, x])

    def __call__(self, volume: npt.NDArray[Any]) -> Any:
        return volume[self.z][self.box]


def draw(path: Path, title: str, variant: Variant, sources: Volume, truth: Volume, made: Volume,
         brain: Mask, labels: npt.NDArray[np.uint8]) -> None:  # fmt: skip
    """The inputs on the left, and one row per output modality.

    sources, truth, made: (modality, z, y, x) z-scores; brain, labels: (z, y, x). Truth and synthesised share one grey window; the
    difference is synthesised - truth in z-scores. The tumour's outline is drawn on the truth.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    cut, rows = Slice.of(brain, labels), len(variant.outputs)
    columns = -(-len(variant.inputs) // rows) + 3  # inputs stand below each other where there are rows for them
    height = 2.3 * cut.brain.shape[0] / cut.brain.shape[1] + 0.3
    size = (2.3 * columns + 0.6, height * rows + 0.35)
    plt.rcParams["text.parse_math"] = False  # a patient's name may hold dollars, which begin no formula
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, facecolor="white", layout="constrained")
    for axis in axes.flat:
        axis.set_axis_off()
    for index, (name, source) in enumerate(zip(variant.inputs, sources, strict=True)):
        axis = axes[index % rows, index // rows]
        grey(axis, cut, source, *np.percentile(source[brain], [0.5, 99.5]))
        axis.set_title(f"{Modality(name).title}, input", fontsize=10)
    for row, output, wanted, got in zip(axes[:, -3:], variant.outputs, truth, made, strict=True):
        compare(row, cut, Modality(output).title, wanted, got, brain, labels)
    figure.suptitle(title, fontsize=9, color="0.4")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def compare(axes: Any, cut: Slice, name: str, wanted: Volume, got: Volume, brain: Mask, labels: npt.NDArray[np.uint8]) -> None:
    """An output's row: truth, synthesised, difference."""
    real, fake, difference = axes
    low, high = np.percentile(wanted[brain], [0.5, 99.5])
    grey(real, cut, wanted, low, high)
    if cut(labels).any():
        real.contour(cut(labels) > 0, [0.5], colors="#ffb000", linewidths=0.7)
    grey(fake, cut, got, low, high)
    limit = 0.5 * (high - low)
    shown = difference.imshow(
        np.where(cut.brain, cut(got - wanted), np.nan), on_black("RdBu_r"), vmin=-limit, vmax=limit, **PIXELS
    )
    difference.figure.colorbar(shown, ax=difference, shrink=0.85, pad=0.03).ax.tick_params(labelsize=7)
    psnr = errors(wanted[brain], got[brain], float(wanted[brain].max() - wanted[brain].min()))["psnr"]
    real.set_title(f"{name}, truth", fontsize=10)
    fake.set_title(f"{name}, synthesised ({psnr:.1f} dB)", fontsize=10)
    difference.set_title("synthesised - truth (z)", fontsize=10)


def grey(axis: Any, cut: Slice, volume: Volume, low: float, high: float) -> None:
    """The slice in a window; the background is black, and the window's lower end nearly so."""
    shown = np.where(cut.brain, cut(volume), np.nan)
    axis.imshow(shown, on_black("gray"), vmin=low - 0.08 * (high - low), vmax=high, **PIXELS)


def on_black(name: str) -> Any:
    """A colour map in which what is not a number is black."""
    from matplotlib import colormaps

    return colormaps[name].with_extremes(bad="black")

"""Pictures of a patient: inputs, truth, synthesised, difference, like the report's Figures 17 and 18."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from distsynth.evaluation.metrics import errors
from distsynth.modalities import Modality, Variant

Volume = npt.NDArray[np.float32]


def draw(path: Path, title: str, variant: Variant, sources: Volume, truth: Volume, made: Volume,
         brain: npt.NDArray[np.bool_], labels: npt.NDArray[np.uint8]) -> None:  # fmt: skip
    """One row per output modality, in the axial slice with the largest area of tumour (of brain, where there is no tumour).

    sources, truth, made: (modality, z, y, x) z-scores; brain, labels: (z, y, x). Truth and synthesised share one grey window; the
    difference is synthesised - truth in z-scores. The tumour's outline is drawn on the truth.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    z = int(((labels > 0) if (labels > 0).any() else brain).sum(axis=(1, 2)).argmax())
    rows, columns = len(variant.outputs), len(variant.inputs) + 3
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.15 * columns, 2.35 * rows + 0.35), squeeze=False, facecolor="white", layout="constrained"
    )
    for row, (output, wanted, got) in enumerate(zip(variant.outputs, truth, made, strict=True)):
        low, high = np.percentile(wanted[brain], [0.5, 99.5])
        for axis, name, source in zip(axes[row], variant.inputs, sources, strict=False):
            grey(axis, np.where(brain, source, -np.inf)[z], *np.percentile(source[brain], [0.5, 99.5]))
            axis.set_title(Modality(name).title if row == 0 else "", fontsize=9)
        real, fake, difference = axes[row, -3:]
        grey(real, np.where(brain, wanted, -np.inf)[z], low, high)
        if (labels[z] > 0).any():
            real.contour(labels[z] > 0, [0.5], colors="#ffb000", linewidths=0.7)
        grey(fake, np.where(brain, got, -np.inf)[z], low, high)
        limit = 0.5 * (high - low)
        shown = difference.imshow(np.where(brain, got - wanted, 0)[z], cmap="RdBu_r", vmin=-limit, vmax=limit, origin="lower")
        figure.colorbar(shown, ax=difference, shrink=0.8, pad=0.02).ax.tick_params(labelsize=6)
        psnr = errors(wanted[brain], got[brain], float(wanted[brain].max() - wanted[brain].min()))["psnr"]
        real.set_title(f"{Modality(output).title}, truth", fontsize=9)
        fake.set_title(f"{Modality(output).title}, synthesised ({psnr:.1f} dB)", fontsize=9)
        difference.set_title("difference (z)", fontsize=9)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_frame_on(False)
    figure.suptitle(title, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def grey(axis: object, image: Volume, low: float, high: float) -> None:
    """A slice seen from above with the front up; the window's lower end, and the background, are black."""
    axis.imshow(image, cmap="gray", vmin=low - 0.08 * (high - low), vmax=high, origin="lower", interpolation="nearest")  # type: ignore[attr-defined]

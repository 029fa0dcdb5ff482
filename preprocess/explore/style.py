"""The look of figures: one palette that colour-blind readers can distinguish, images on black, charts without frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

INK, FAINT, GRID = "#1f2933", "#6b7785", "#e3e7eb"
DARK, PALE = "#000000", "#d5dbe1"  # behind images, and text on it
TITLES = {"t1": "T1", "t1c": "T1c", "t2": "T2", "flair": "FLAIR"}
CONTRASTS = {"t1": "#0072b2", "t1c": "#d55e00", "t2": "#009e73", "flair": "#b45f9b"}  # Okabe and Ito's, the last a little darker
GRADES = {"HGG": "#b2453c", "LGG": "#3f7cac", "unknown": "#98a2ad"}
# BRATS's red, green and yellow (Baid et al. 2021), which also differ in lightness.
LABELS = {"1": "#e8483b", "2": "#3fc98f", "3": "#ffd84d", "4": "#ffd84d"}
BOX = "#4cc3ff"  # mask and crop box over a grey image
SPLIT_TITLES = {"segmentor": "segmentor", "gan": "GAN", "val": "val", "test": "test", "none": "in no split"}

RC = {
    "font.family": "DejaVu Sans", "font.size": 8.5, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": FAINT,
    "axes.titlesize": 9.5, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.spines.top": False,
    "axes.spines.right": False, "axes.linewidth": 0.7, "axes.grid": True, "axes.axisbelow": True, "grid.color": GRID,
    "grid.linewidth": 0.7, "xtick.color": FAINT, "ytick.color": FAINT, "xtick.major.width": 0.7, "ytick.major.width": 0.7,
    "legend.frameon": False, "figure.constrained_layout.use": True, "savefig.dpi": 160,
    "text.parse_math": False,  # names hold dollars that begin no formula
}  # fmt: skip


def panels(rows: int, columns: int, size: tuple[float, float], dark: bool = False, **options: Any) -> tuple[Any, Any]:
    """A figure of `size` inches and its (rows, columns) axes; a `dark` one is for images and has neither ticks nor grid."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update(RC)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, facecolor=DARK if dark else "white", **options)
    for axis in axes.flat if dark else ():
        axis.set(xticks=[], yticks=[], facecolor=DARK)
        axis.grid(False)
        axis.set_frame_on(False)
        axis.set_anchor("N")  # otherwise images of different shapes have titles at different heights
    return figure, axes


def save(figure: Any, path: Path) -> Path:
    """Write the figure as PNG and close it. Returns the path."""
    from matplotlib import pyplot as plt

    figure.savefig(path, facecolor=figure.get_facecolor())
    plt.close(figure)
    return path


def caption(axis: Any, text: str) -> None:
    """The title of a dark panel."""
    axis.set_title(text, color=PALE, fontsize=8.5, fontweight="normal", loc="center", pad=4)


def row_name(axis: Any, text: str) -> None:
    """The text to the left of a dark row, written upwards."""
    axis.set_ylabel(text, color=PALE, fontsize=8.5, labelpad=6)


def grey(axis: Any, image: npt.NDArray[Any], window: tuple[float, float], aspect: float = 1.0) -> None:
    """A slice (y, x) seen from above, the front up and the patient's left on the left; the window's lower end is almost black."""
    low, high = window
    axis.imshow(
        image, cmap="gray", vmin=low - 0.05 * (high - low), vmax=high, origin="lower", aspect=aspect, interpolation="nearest"
    )


def contours(axis: Any, labels: npt.NDArray[np.uint8], width: float = 0.9) -> None:
    """The outline of each label of a slice (y, x)."""
    for label in np.unique(labels[labels > 0]):
        axis.contour(labels == label, [0.5], colors=LABELS.get(str(label), "#ffffff"), linewidths=width)


def short(name: str, longest: int = 26) -> str:
    """A name short enough for a figure, shortened in the middle."""
    return name if len(name) <= longest else f"{name[: longest // 2]}…{name[-(longest // 2) :]}"


def boxes(axis: Any, groups: Sequence[Sequence[float]], colours: Sequence[str]) -> None:
    """One box and all points for each group, at 0, 1, 2, …; no box is drawn for fewer than five points."""
    spread = np.random.default_rng(0)  # sideways, so that points do not hide each other
    for place, (values, colour) in enumerate(zip(groups, colours, strict=True)):
        if len(values) >= 5:
            line = {"color": colour, "linewidth": 1.1}
            axis.boxplot([values], positions=[place], widths=0.5, showfliers=False, boxprops=line, whiskerprops=line, capprops=line,
                         medianprops={"color": INK, "linewidth": 1.6}, manage_ticks=False)  # fmt: skip
        aside = place + spread.uniform(-0.16, 0.16, len(values))
        axis.scatter(aside, values, s=17, color=colour, alpha=0.65, linewidths=0, zorder=3)
    axis.set_xlim(-0.6, len(groups) - 0.4)
    axis.grid(False, axis="x")

"""Draws images: contrasts with the segmentation, the stages of the recipe, the augmentations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from preprocess.cohort import BACKGROUND, Cohort, Record
from preprocess.explore.stages import Stages
from preprocess.explore.style import (
    BOX,
    CONTRASTS,
    FAINT,
    LABELS,
    PALE,
    TITLES,
    caption,
    contours,
    grey,
    panels,
    row_name,
    save,
    short,
)
from preprocess.source.labels import label_name

Slice = npt.NDArray[Any]
TURNS = ("as stored", "rotated by 90°", "rotated by 180°")


def draw_contrasts(path: Path, cohort: Cohort, subjects: Sequence[str]) -> Path:
    """A row for each subject: its contrasts in the slice with most tumour, and the last one again with the labels' outlines."""
    shown = [m for m in cohort.modalities if any(m in cohort.record(s).modalities for s in subjects)]
    labelled = any(cohort.record(subject).label_voxels for subject in subjects)
    titles = [*(TITLES[m] for m in shown), *(["segmentation"] if labelled else [])]
    figure, axes = panels(len(subjects), len(titles), (1.75 * len(titles) + 0.4, 1.85 * len(subjects) + 0.5), dark=True)
    seen: set[str] = set()
    for row, subject in zip(axes, subjects, strict=True):
        record, image, labels = cohort.record(subject), cohort.image(subject), cohort.labels(subject)
        z = fullest_slice(labels, image[0] != BACKGROUND)
        row_name(row[0], f"{short(subject, 24)}\n{record.grade}")
        for axis, modality in zip(row, shown, strict=False):
            if modality in record.modalities:
                show(axis, record, image, modality, z)
            else:
                axis.text(0.5, 0.5, f"no {TITLES[modality]}", color=FAINT, ha="center", va="center", transform=axis.transAxes)
        if labelled:
            show(row[-1], record, image, record.modalities[-1], z)
            contours(row[-1], labels[z])
        seen |= {str(label) for label in np.unique(labels[z]) if label}
    for axis, title in zip(axes[0], titles, strict=True):
        caption(axis, title)
    for side, place in (("L", 0.03), ("R", 0.97)):
        axes[0][0].text(place, 0.5, side, color=PALE, fontsize=7, ha="center", va="center", transform=axes[0][0].transAxes)
    legend(figure, sorted(seen, key=int))
    return save(figure, path)


def show(axis: Any, record: Record, image: Slice, modality: str, z: int) -> None:
    """An axial slice between the clip bounds."""
    grey(axis, image[record.modalities.index(modality), z], clip_bounds(record, modality), aspect(record.spacing))


def clip_bounds(record: Record, modality: str) -> tuple[float, float]:
    """In z-scores."""
    return record.intensity[modality]["clip_low"], record.intensity[modality]["clip_high"]


def legend(figure: Any, labels: Sequence[str]) -> None:
    """The legend of the labels, below the panels; each name once."""
    from matplotlib.lines import Line2D

    names = {label_name(label): LABELS.get(label, "#ffffff") for label in labels}
    handles = [Line2D([], [], color=colour, linewidth=2, label=name) for name, colour in names.items()]
    if handles:
        figure.legend(
            handles=handles, loc="outside lower center", ncols=len(handles), labelcolor=PALE, fontsize=8.5, frameon=False
        )


def aspect(spacing: Sequence[float]) -> float:
    """Height of an axial slice's pixel over its width."""
    return float(spacing[1] / spacing[2])


def fullest_slice(labels: npt.NDArray[np.uint8], brain: npt.NDArray[np.bool_]) -> int:
    """The axial slice with most tumour inside the brain; without a tumour, the one with most brain."""
    tumour = (labels > 0) & brain
    return int((tumour if tumour.any() else brain).sum(axis=(1, 2)).argmax())


def draw_stages(path: Path, stages: Stages, z: int) -> Path:
    """A row for each contrast: scanned, brain mask, bias field, corrected, clip bounds, z-score with the crop's box, stored.

    `z` is a slice of the canonical grid. Without the source files there are no first three columns.
    """
    titles = ["bias-corrected", "clip bounds", "z-score, crop box", "stored"]
    bias = stages.bias
    if bias is not None:
        off = " off" * bool((bias == 1).all())
        titles = ["as scanned", "brain mask", f"bias field (N4{off})", *titles]
    rows = len(stages.modalities)
    figure, axes = panels(rows, len(titles), (1.72 * len(titles) + 0.3, 1.8 * rows + 0.35), dark=True)
    for channel, row in enumerate(axes):
        row_name(row[0], TITLES[stages.modalities[channel]])
        if bias is not None and stages.scanned is not None:
            draw_source(
                row[:3], stages.scanned[channel, z], bias[channel, z], stages.mask[z], field_limit(stages.mask, bias), stages
            )
        draw_result(row[-4:], stages, channel, z)
    for axis, title in zip(axes[0], titles, strict=True):
        caption(axis, title)
    if bias is not None:
        scale(axes[-1][2])
    return save(figure, path)


def field_limit(mask: npt.NDArray[np.bool_], bias: npt.NDArray[Any]) -> float:
    """The largest distance of the fields from 1, for one colour scale."""
    return max(float(np.abs(np.percentile(bias[:, mask], [0.5, 99.5]) - 1).max()), 0.02)


def draw_source(axes: Sequence[Any], scan: Slice, bias: Slice, brain: Slice, far: float, stages: Stages) -> None:
    """The stages of a contrast that need the source files: the scan, the mask on it, the bias field."""
    shape = aspect(stages.spacing)
    for axis in axes[:2]:
        grey(axis, np.where(scan == 0, -np.inf, scan), window(scan[brain]), shape)
    axes[1].contour(brain, [0.5], colors=BOX, linewidths=0.8)
    field = np.ma.masked_where(~brain, bias)
    axes[2].imshow(field, cmap="RdBu_r", vmin=1 - far, vmax=1 + far, origin="lower", aspect=shape, interpolation="nearest")


def scale(axis: Any) -> None:
    """A colour bar inside a panel, on the scan's dark border."""
    inside = axis.inset_axes([0.14, 0.08, 0.72, 0.025])
    bar = axis.figure.colorbar(axis.images[0], cax=inside, orientation="horizontal")
    bar.ax.tick_params(labelsize=6.5, colors=PALE, length=2)
    bar.outline.set_visible(False)


def window(values: npt.NDArray[Any]) -> tuple[float, float]:
    """The range of the values without the darkest and the brightest."""
    low, high = np.percentile(values, [1, 99.5])
    return float(low), float(high)


def draw_result(axes: Sequence[Any], stages: Stages, channel: int, z: int) -> None:
    """The stages of a contrast that the store can show."""
    corrected, scores = stages.corrected[channel], stages.z[channel].astype(np.float32)
    shape, brain = aspect(stages.spacing), stages.mask[z]
    grey(axes[0], np.where(brain, corrected[z], -np.inf), window(corrected[z][brain]), shape)
    draw_bounds(axes[1], corrected[stages.mask], stages.bounds[channel], CONTRASTS[stages.modalities[channel]])
    for axis, image in ((axes[2], scores[z]), (axes[3], stages.result[channel, z - stages.offset[0]].astype(np.float32))):
        grey(axis, image, window(scores[z][brain]), shape)
    draw_box(axes[2], scores[z].shape, stages.offset[1:], stages.result.shape[-2:])


def draw_box(axis: Any, grid: Sequence[int], offset: Sequence[int], size: Sequence[int]) -> None:
    """Draw the crop on a slice, all of it even where it reaches beyond the grid. All as (y, x)."""
    from matplotlib.patches import Rectangle

    (y, x), (height, width), (rows, columns) = offset, size, grid
    axis.add_patch(Rectangle((x - 0.5, y - 0.5), width, height, fill=False, edgecolor=BOX, linewidth=1.1))
    axis.set_xlim(min(0, x - 1) - 0.5, max(columns, x + width + 1) - 0.5)
    axis.set_ylim(min(0, y - 1) - 0.5, max(rows, y + height + 1) - 0.5)


def draw_bounds(axis: Any, values: Slice, bounds: tuple[float, float], colour: str) -> None:
    """The histogram of the brain's intensities, white beyond the clip bounds."""
    low, high = bounds
    step = (high - low) / 48  # both bounds are then edges of bars
    counts, edges = np.histogram(values, low + step * np.arange(-14, 69))
    centres = (edges[:-1] + edges[1:]) / 2
    axis.bar(centres, counts, step, color=[colour if low < centre < high else PALE for centre in centres])
    for bound in bounds:
        axis.axvline(bound, ymax=0.72, color=PALE, linewidth=0.8, linestyle=(0, (4, 2)))
        axis.text(bound, 1.17 * counts.max(), f"{bound:.4g}", color=PALE, fontsize=6.5, ha="center")
    axis.set(ylim=(0, 1.55 * counts.max()), xlim=(edges[0], edges[-1]), box_aspect=1)


def augmentations(image: Slice) -> dict[str, Slice]:
    """All augmentations of a slice (y, x) in training: flipped left-right or not, rotated by 0, 90 or 180 degrees."""
    flips = (("", image), (", flipped", image[..., ::-1]))
    return {f"{name}{suffix}": np.rot90(each, turn, axes=(-2, -1)) for suffix, each in flips for turn, name in enumerate(TURNS)}


def draw_augmentations(path: Path, cohort: Cohort, subject: str) -> Path:
    """Draw one slice with each augmentation of training."""
    record, image, labels = cohort.record(subject), cohort.image(subject), cohort.labels(subject)
    z = fullest_slice(labels, image[0] != BACKGROUND)
    ways = augmentations(image[-1, z])
    outlines = augmentations(labels[z])
    figure, axes = panels(1, len(ways), (1.75 * len(ways), 2.15), dark=True)
    for axis, (name, turned) in zip(axes[0], ways.items(), strict=True):
        grey(axis, turned, clip_bounds(record, record.modalities[-1]))
        contours(axis, outlines[name])
        caption(axis, name)
    return save(figure, path)

"""Draws numbers: the split, intensities before and after, tumour volumes, brain outside the crop, lesions beyond the clip."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from preprocess.cohort import Cohort
from preprocess.cohort.oddities import LOST
from preprocess.cohort.summary import by_split, clip_shares
from preprocess.explore.sample import Histograms, label_ml
from preprocess.explore.style import (
    CONTRASTS,
    FAINT,
    GRADES,
    INK,
    LABELS,
    SPLIT_TITLES,
    TITLES,
    boxes,
    panels,
    save,
    short,
)
from preprocess.source.labels import NAMES, label_name

Row = tuple[int, str, Counter[str]]  # fold, split, subjects by grade


def split_rows(cohort: Cohort) -> list[Row]:
    """Every split of every fold, and `none` for subjects in no split."""
    rows = []
    for number, fold in enumerate(cohort.manifest["folds"]):
        for name, members in by_split(cohort, fold).items():
            rows.append((number, name, Counter(cohort.record(subject).grade for subject in members)))
    return rows


def draw_split(path: Path, rows: Sequence[Row]) -> Path:
    """Stacked bars: subjects by split and grade, a panel for each fold."""
    folds = sorted({fold for fold, _, _ in rows})
    names = list(dict.fromkeys(name for _, name, _ in rows))
    across = min(len(folds), 5)
    down = -(-len(folds) // across)
    size = (max(6.6, 2.3 * across), down * (0.38 * len(names) + 0.9) + 0.4)
    figure, axes = panels(down, across, size, sharex=True, sharey=True)
    for axis, fold in zip(axes.flat, folds, strict=False):
        left = np.zeros(len(names))
        for grade, colour in GRADES.items():
            counts = np.array([next((c[grade] for f, n, c in rows if (f, n) == (fold, name)), 0) for name in names])
            if any(c[grade] for _, _, c in rows):
                axis.barh(range(len(names)), counts, left=left, color=colour, height=0.62, label=grade)
            left += counts
        for place, total in enumerate(left):
            axis.text(total, place, f" {total:.0f}", va="center", color=INK)
        axis.set(
            yticks=range(len(names)), yticklabels=[SPLIT_TITLES[name] for name in names], title=f"fold {fold}" * (len(folds) > 1)
        )
        axis.tick_params(axis="y", length=0, labelcolor=INK)
        axis.grid(False, axis="y")
        axis.margins(x=0.14)
        whole_numbers(axis.xaxis)
    axes[0, 0].invert_yaxis()
    for axis in axes.flat[len(folds) :]:
        axis.set_visible(False)
    figure.supxlabel("subjects", fontsize=8.5)
    legend(figure, axes[0, 0])
    return save(figure, path)


def legend(figure: Any, axis: Any) -> None:
    handles, names = axis.get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside upper left", ncols=max(1, len(names)), handlelength=1, handleheight=1, frameon=False
    )


def whole_numbers(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True, nbins=5))


def draw_histograms(path: Path, curves: Mapping[str, Histograms], before: str) -> Path:
    """A column for each contrast: thin lines for subjects, a bold line for their mean; source units above, z-scores below."""
    figure, axes = panels(2, len(curves), (2.75 * len(curves) + 0.3, 4.6))
    for (modality, densities), (above, below) in zip(curves.items(), axes.T, strict=True):
        draw_densities(above, densities.before_edges, densities.before, densities.raw_bounds, CONTRASTS[modality])
        draw_densities(below, densities.after_edges, densities.after, densities.z_bounds, CONTRASTS[modality])
        above.set(title=TITLES[modality], xlabel=before)
        below.set(xlabel="z-score")
    return save(figure, path)


def draw_densities(axis: Any, edges: Any, densities: Sequence[Any], bounds: Sequence[tuple[float, float]], colour: str) -> None:
    """Curves of densities, with each subject's clip bounds as ticks below and the bounds' medians as dashed lines."""
    centres = (edges[:-1] + edges[1:]) / 2
    for density in densities:
        axis.plot(centres, density, color=colour, linewidth=0.6, alpha=max(0.18, min(0.6, 6 / len(densities))))
    if len(densities) > 1:
        axis.plot(centres, np.mean(densities, axis=0), color=INK, linewidth=1.6)
    top = 1.08 * min(float(np.max(densities)), 2.5 * float(np.mean(densities, axis=0).max()))
    axis.set(xlim=(edges[0], edges[-1]), ylim=(-0.06 * top, top))
    for side in zip(*bounds, strict=True):
        below = {"transform": axis.get_xaxis_transform(), "clip_on": True}
        axis.plot(side, [0.025] * len(side), "|", color=colour, markersize=5, alpha=0.7, markeredgewidth=0.8, **below)
        axis.axvline(float(np.median(side)), color=FAINT, linewidth=0.9, linestyle=(0, (4, 2)))
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    axis.grid(False)


def draw_volumes(path: Path, cohort: Cohort) -> Path:
    """A panel for each label and one for the whole tumour: volume in ml by grade, a point per subject."""
    volumes = [(record.grade, label_ml(record)) for record in cohort.records.values()]
    present = {name for _, ml in volumes for name in ml}
    known = [name for name in dict.fromkeys(NAMES.values()) if name in present]
    names = [*known, *sorted(present - set(known))]
    names = [*names, *(["whole tumour"] if len(names) > 1 else [])]
    grades = [grade for grade in GRADES if any(each == grade and ml for each, ml in volumes)]
    figure, axes = panels(1, len(names), (max(5.0, 2.2 * len(names)), 3.1), sharey=True)
    for axis, name in zip(axes[0], names, strict=True):
        value = {
            g: [ml.get(name, sum(ml.values()) if name == "whole tumour" else 0) for f, ml in volumes if f == g] for g in grades
        }
        boxes(axis, [[v for v in value[grade] if v] for grade in grades], [GRADES[grade] for grade in grades])
        counts = [sum(bool(v) for v in value[grade]) for grade in grades]
        axis.set(
            xticks=range(len(grades)), xticklabels=[f"{g}\nn = {n}" for g, n in zip(grades, counts, strict=True)], title=name
        )
        axis.tick_params(axis="x", length=0, labelcolor=INK)
    axes[0, 0].set(ylabel="ml", ylim=(0, None))
    return save(figure, path)


def draw_losses(path: Path, cohort: Cohort, worst: Sequence[tuple[str, float]]) -> Path:
    """The share of the brain outside the crop: a histogram of all subjects, and the largest shares by name."""
    lost = 100 * np.array([record.brain_share_lost for record in cohort.records.values()])
    figure, axes = panels(1, 2 if worst else 1, (8.2 if worst else 5.0, 2.9))
    top = max(1.5 * 100 * LOST, float(lost.max()) * 1.05)
    axes[0, 0].hist(lost, np.linspace(0, top, 31), color=CONTRASTS["t1"])
    axes[0, 0].axvline(100 * LOST, color=CONTRASTS["t1c"], linewidth=1, linestyle=(0, (4, 2)))
    axes[0, 0].set(xlabel="% of the brain outside the crop", ylabel="subjects", title="all subjects")
    axes[0, 0].grid(False, axis="x")
    whole_numbers(axes[0, 0].yaxis)
    if worst:
        axis = axes[0, 1]
        shares = [100 * share for _, share in worst]
        axis.barh(
            range(len(worst)),
            shares,
            height=0.62,
            color=[CONTRASTS["t1c"] if s > 100 * LOST else CONTRASTS["t1"] for s in shares],
        )
        for place, share in enumerate(shares):
            axis.text(share, place, f" {share:.2g} %", va="center", color=INK)
        axis.set(
            yticks=range(len(worst)), yticklabels=[short(subject) for subject, _ in worst], title="largest shares", xlabel="%"
        )
        axis.tick_params(axis="y", length=0, labelcolor=INK)
        axis.grid(False, axis="y")
        axis.margins(x=0.18)
        axis.invert_yaxis()
    return save(figure, path)


def draw_clip_shares(path: Path, cohort: Cohort) -> Path:
    """A panel for each contrast: the share of each label's voxels beyond the clip bounds, a point per subject."""
    shares = clip_shares(cohort)
    labels = list(shares)
    modalities = [m for m in cohort.modalities if any(m in record.clip_share for record in cohort.records.values())]
    figure, axes = panels(1, len(modalities), (max(5.0, 2.2 * len(modalities)), 3.1), sharey=True)
    darker = {"2": "#2a9d6f", "3": "#c99700", "4": "#c99700"}  # than those on black
    colours = {label_name(label): colour for label, colour in {**LABELS, **darker}.items()}
    for axis, modality in zip(axes[0], modalities, strict=True):
        percent = [[100 * share for share in shares[label][modality]] for label in labels]
        boxes(axis, percent, [colours.get(label, FAINT) for label in labels])
        names = [label.replace(" ", "\n") for label in labels]
        axis.set(xticks=range(len(labels)), xticklabels=names, title=TITLES[modality], ylim=(-2, 102))
        axis.tick_params(axis="x", length=0, labelcolor=INK)
    axes[0, 0].set_ylabel("% of the label's voxels clipped")
    return save(figure, path)

"""One made-up patient: the same (seed, number) gives the same patient, on any grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from preprocess.phantom import scanner, tumour
from preprocess.phantom.anatomy import anatomy
from preprocess.phantom.fields import Grid
from preprocess.phantom.physics import SEQUENCES

FIELD_OF_VIEW = (240, 240, 155)  # mm, x, y, z
BOX = (172, 208, 155)  # mm around the brain, where everything is computed


@dataclass
class Phantom:
    """A subject's arrays (x, y, z) in RAS order, and its ground truth."""

    scans: dict[str, npt.NDArray[np.int16]]
    labels: npt.NDArray[np.uint8]
    log_bias: dict[str, npt.NDArray[np.float32]]
    white: npt.NDArray[np.bool_]  # nearly pure, healthy white matter
    truth: dict[str, Any]


def grade_of(seed: int, number: int) -> str:
    """Three in four are high grade, as in BRATS."""
    return "LGG" if (number + seed) % 4 == 3 else "HGG"


def make(seed: int, number: int, spacing: float) -> Phantom:
    """The phantom `number` of a seed on a grid of `spacing` mm."""
    rng = np.random.default_rng([seed, number])
    # One random stream per part: a part that draws more numbers does not change the others.
    plan_rng, body, growth, relaxation, texture, *machines = rng.spawn(5 + len(SEQUENCES))
    shape, (fine, coarse), factor, corner = grids(spacing)
    plan = tumour.plan(plan_rng, grade_of(seed, number))
    push = tumour.mass_effect(plan, fine, float(plan_rng.uniform(0.1, 0.5)))
    brain = anatomy(body, fine, push)
    grown = tumour.grow(growth, plan, fine, brain.tissue, brain.brain)
    fractions = {**brain.tissue, "necrosis": grown.necrosis, "rim": grown.rim, "solid": grown.solid, "oedema": grown.oedema}
    healthy = 1 - grown.necrosis - grown.rim - grown.solid - grown.oedema
    for name in brain.tissue:
        fractions[name] = brain.tissue[name] * healthy
    signals, related = scanner.relaxed(relaxation), scanner.textures(texture, fine)
    mask = scanner.block_mean(brain.brain.astype(np.float32), factor) >= 0.5
    scans = {
        kind: scanner.scan(machine, kind, scanner.image(fractions, signals[kind], related[kind]), mask, coarse, spacing, factor)
        for kind, machine in zip(SEQUENCES, machines, strict=True)
    }
    labels = np.where(
        mask,
        grown.labels[factor // 2 :: factor, factor // 2 :: factor, factor // 2 :: factor][tuple(slice(n) for n in mask.shape)],
        0,
    )
    truth = {"grade": plan.grade, "centre_mm": plan.centre, "radius_mm": plan.radius, "signals": signals,
             "thickness_mm": {k: s.thickness for k, s in scans.items()}, "noise": {k: s.noise for k, s in scans.items()}}  # fmt: skip
    white = mask & (scanner.block_mean(fractions["white"], factor) > 0.95)
    whole = {kind: place(scanner.whole_numbers(s, mask), shape, corner) for kind, s in scans.items()}
    return Phantom(
        whole,
        place(labels.astype(np.uint8), shape, corner),
        {k: place(s.log_bias, shape, corner) for k, s in scans.items()},
        place(white, shape, corner),
        truth,
    )


def grids(spacing: float) -> tuple[tuple[int, ...], tuple[Grid, Grid], int, tuple[int, ...]]:
    """The shape of the whole scan; the box around the brain as a fine grid (voxels of at most 1.5 mm) and on the scan's grid; fine voxels
    per scan voxel along an axis; and the box's corner in the scan."""
    factor = max(1, round(spacing / 1.5))
    shape = tuple(int(np.ceil(mm / spacing - 0.01)) for mm in FIELD_OF_VIEW)
    box = tuple(min(n, int(np.ceil(mm / spacing))) for n, mm in zip(shape, BOX, strict=True))
    corner = tuple((n - b) // 2 for n, b in zip(shape, box, strict=True))
    fine_axes: list[Any] = []
    coarse_axes: list[Any] = []
    for n, b, c in zip(shape, box, corner, strict=True):
        start = (c - n / 2) * spacing  # mm of the box's edge from the scan's centre
        coarse_axes.append(start + (np.arange(b) + 0.5) * spacing)
        fine_axes.append(start + (np.arange(b * factor) + 0.5) * spacing / factor)
    return shape, (Grid(*fine_axes), Grid(*coarse_axes)), factor, corner


def place(box: npt.NDArray[Any], shape: tuple[int, ...], corner: tuple[int, ...]) -> npt.NDArray[Any]:
    """The box in the whole scan, 0 around it."""
    out = np.zeros(shape, box.dtype)
    out[tuple(slice(c, c + n) for c, n in zip(corner, box.shape, strict=True))] = box
    return out

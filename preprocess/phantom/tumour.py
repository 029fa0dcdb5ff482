"""A procedural glioma: necrotic core, enhancing rim, oedema along the white matter; low grades have no rim."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from preprocess.phantom.fields import Grid, Volume, smooth_field, step

NECROTIC, OEDEMA, ENHANCING = 1, 2, 4  # BRATS's labels


@dataclass(frozen=True)
class Plan:
    """Place and size of the tumour, independent of the brain around it."""

    grade: str
    centre: tuple[float, float, float]  # mm from the head's centre
    radius: float  # mm of the core


@dataclass
class Tumour:
    """Fractions (x, y, z) of the four parts."""

    necrosis: Volume
    rim: Volume
    solid: Volume  # tumour that does not enhance
    oedema: Volume
    labels: npt.NDArray[np.uint8]


def plan(rng: np.random.Generator, grade: str) -> Plan:
    """A place in the white matter of one hemisphere and a size; radii follow the distribution of volumes in BRATS."""
    side = rng.choice([-1, 1])
    centre = (float(side * rng.uniform(20, 40)), float(rng.uniform(-45, 42)), float(rng.uniform(-10, 32)))
    return Plan(grade, centre, float(rng.uniform(9, 22) if grade == "HGG" else rng.uniform(11, 25)))


def mass_effect(plan: Plan, grid: Grid, strength: float) -> Volume:
    """(3, x, y, z) mm by which the brain is pushed away from the tumour."""
    x, y, z = (axis - c for axis, c in zip(grid.mesh(), plan.centre, strict=True))
    squared = x**2 + y**2 + z**2
    push = strength * plan.radius * np.exp(-squared / (2 * (1.7 * plan.radius) ** 2)) / np.sqrt(squared + 4)
    return np.stack(np.broadcast_arrays(x * push, y * push, z * push)).astype(np.float32)


def grow(rng: np.random.Generator, plan: Plan, grid: Grid, tissue: dict[str, Volume], brain: npt.NDArray[np.bool_]) -> Tumour:
    """The tumour's parts in a brain, and their labels."""
    x, y, z = (axis - c for axis, c in zip(grid.mesh(), plan.centre, strict=True))
    stretch = rng.uniform(0.75, 1.3, 3)
    distance = np.sqrt((x / stretch[0]) ** 2 + (y / stretch[1]) ** 2 + (z / stretch[2]) ** 2) / plan.radius
    rough = distance * np.exp(0.22 * smooth_field(rng, 0.9 * plan.radius, grid) + 0.10 * smooth_field(rng, 5, grid))
    rough = np.maximum(rough, 0.75 * distance)  # no islands far from the tumour
    parenchyma = np.clip(1 - 0.8 * tissue["csf"], 0, 1)
    edge = 10.0 / np.sqrt(plan.radius)
    core = step((1 - rough) * edge) * parenchyma * brain
    softness = smooth_field(rng, 0.6 * plan.radius, grid)
    hollow = step((rng.uniform(0.45, 0.78) + 0.16 * softness - rough) * 9)
    enhancing = step((0.9 + 1.1 * smooth_field(rng, 0.8 * plan.radius, grid)) * 3) if plan.grade == "HGG" else np.zeros_like(core)
    necrosis = core * hollow * (1.0 if plan.grade == "HGG" else 0.25)
    rim = (core - necrosis) * enhancing
    reach = rng.uniform(1.5, 2.3) if plan.grade == "HGG" else rng.uniform(1.1, 1.5)
    along = np.minimum(0.55 * (tissue["white"] - 0.5) + 0.28 * smooth_field(rng, 14, grid), 0.4)
    oedema = (
        step((reach + along - rough) * 7) * (tissue["white"] + 0.35 * (tissue["grey"] + tissue["deep_grey"])) * brain * (1 - core)
    )
    return Tumour(necrosis, rim, core - necrosis - rim, oedema, label(core, rim, oedema))


def label(core: Volume, rim: Volume, oedema: Volume) -> npt.NDArray[np.uint8]:
    """BRATS's labels: 4 where most of the core enhances, 1 for the rest of the core, 2 for oedema."""
    labels = np.where(oedema > 0.4, np.uint8(OEDEMA), np.uint8(0))
    labels[core > 0.5] = NECROTIC
    labels[(core > 0.5) & (rim > 0.5 * core)] = ENHANCING
    return labels

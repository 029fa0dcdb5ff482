"""Smooth random fields in millimetres: the same generator gives the same field on any grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from preprocess.spline import spline_basis

Volume = npt.NDArray[np.float32]
EXTENT = (244.0, 244.0, 164.0)  # mm that fields cover along x, y, z, centred on the head


@dataclass(frozen=True)
class Grid:
    """Voxel centres in mm from the head's centre, one array per axis (x, y, z)."""

    x: npt.NDArray[np.float64]
    y: npt.NDArray[np.float64]
    z: npt.NDArray[np.float64]

    @property
    def axes(self) -> tuple[npt.NDArray[np.float64], ...]:
        return self.x, self.y, self.z

    def mesh(self) -> tuple[Volume, Volume, Volume]:
        """The coordinates as three arrays that broadcast to (x, y, z)."""
        x, y, z = (axis.astype(np.float32) for axis in self.axes)
        return x[:, None, None], y[None, :, None], z[None, None, :]


def smooth_field(rng: np.random.Generator, scale: float, grid: Grid) -> Volume:
    """A random field (x, y, z) of mean 0 and variance 1 that varies over about `scale` mm.

    A cubic B-spline with random coefficients and knots `scale` mm apart, evaluated one axis at a time by small matrix products.
    """
    bases = [
        spline_basis((axis + extent / 2) / scale, int(np.ceil(extent / scale)) + 4).astype(np.float32)
        for axis, extent in zip(grid.axes, EXTENT, strict=True)
    ]
    field = rng.standard_normal([basis.shape[1] for basis in bases]).astype(np.float32)
    for basis in bases:
        field = np.tensordot(field, basis, axes=(0, 1))  # contracts the first axis, appends the evaluated one
    return np.asarray(field / 0.479**1.5, np.float32)  # a cubic B-spline's weights have a mean square of .479 per axis


def step(value: npt.NDArray[Any]) -> Volume:
    """A soft step from 0 to 1."""
    return np.asarray(1 / (1 + np.exp(-np.clip(value, -30, 30))), np.float32)

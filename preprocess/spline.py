"""Uniform cubic B-splines: a field on a grid takes a few small matrix products, one axis at a time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def spline_basis(position: Floats, coefficients: int) -> Floats:
    """(positions, coefficients) weights at positions in units of knots; n knot intervals need n + 3 coefficients, n + 4 to include their end."""
    first = np.floor(position).astype(int)
    t = position - first
    weights = [(1 - t) ** 3 / 6, (3 * t**3 - 6 * t**2 + 4) / 6, (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6, t**3 / 6]
    basis = np.zeros((len(position), coefficients))
    for shift, weight in enumerate(weights):
        basis[np.arange(len(position)), first + shift] = weight
    return basis

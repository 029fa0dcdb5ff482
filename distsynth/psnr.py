"""The peak signal-to-noise ratio, as validation during training and the evaluation both compute it."""

from __future__ import annotations

import numpy as np

BEST = 100.0  # dB, of equal images, since JSON has no infinity


def psnr(span: float, squared_error: float) -> float:
    """10 log10(span^2 / mean squared error) in dB, at most 100; `span` is the data range."""
    return BEST if squared_error == 0 else float(min(BEST, 10 * np.log10(span**2 / squared_error)))

"""The MRI signal of each tissue: relaxation times from the literature, and the signal equation of each contrast.

Relaxation times at 1.5 to 3 T: white and grey matter and CSF from Wansapura et al. 1999 (JMRI 9:531) and Stanisz et al. 2005 (MRM 54:507),
deep grey matter from Gelman et al. 1999 (Radiology 210:759), oedema and tumour within the ranges of Bottomley et al. 1987 (Med Phys 14:1) and
Blystad et al. 2017 (PLoS ONE 12:e0177135), proton densities from Tofts 2003 (Quantitative MRI of the Brain). Gadolinium shortens T1 by its
relaxivity, 4.5 per mmol/l and second at 37 degrees (Rohrer et al. 2005, Invest Radiol 40:715).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RELAXIVITY = 4.5e-3  # per mmol/l and ms


@dataclass(frozen=True)
class Tissue:
    """Longitudinal and transverse relaxation (ms), proton density (share of water), gadolinium uptake (mmol/l)."""

    t1: float
    t2: float
    density: float
    uptake: float = 0.0


TISSUES = {
    "white": Tissue(830, 78, 0.70, 0.004),
    "grey": Tissue(1331, 98, 0.80, 0.012),
    "deep_grey": Tissue(1150, 84, 0.77, 0.012),
    "csf": Tissue(3900, 620, 1.00, 0.0),
    "vessel": Tissue(1600, 60, 0.85, 0.9),
    "choroid": Tissue(1700, 170, 0.90, 0.5),
    "oedema": Tissue(1400, 132, 0.84, 0.010),
    "solid": Tissue(1500, 142, 0.86, 0.02),
    "rim": Tissue(1400, 128, 0.84, 0.50),
    "necrosis": Tissue(2000, 210, 0.92, 0.02),
}


@dataclass(frozen=True)
class Sequence:
    """Repetition, echo and inversion time in ms; an inversion time of 0 means no inversion."""

    repetition: float
    echo: float
    inversion: float = 0.0
    gadolinium: bool = False


SEQUENCES = {
    "t1": Sequence(500, 12),
    "t1ce": Sequence(500, 12, gadolinium=True),
    "t2": Sequence(4000, 95),
    "flair": Sequence(9000, 105, 2120),
}


def signal(tissue: Tissue, sequence: Sequence) -> float:
    """The spin echo's density (1 - exp(-TR/T1)) exp(-TE/T2); with an inversion, the magnitude of
    density (1 - 2 exp(-TI/T1) + exp(-TR/T1)) exp(-TE/T2) (Bernstein et al. 2004, Handbook of MRI Pulse Sequences, 14.1 and 6.2)."""
    rate = 1 / tissue.t1 + (RELAXIVITY * tissue.uptake if sequence.gadolinium else 0.0)
    recovered = 1 - np.exp(-sequence.repetition * rate)
    if sequence.inversion:
        recovered = abs(1 - 2 * np.exp(-sequence.inversion * rate) + np.exp(-sequence.repetition * rate))
    return float(tissue.density * recovered * np.exp(-sequence.echo / tissue.t2))


def vary(rng: np.random.Generator, tissue: Tissue, spread: float) -> Tissue:
    """The tissue of one person: times, density and uptake drawn around their means."""
    t1, t2, uptake = np.exp(rng.normal(0, spread, 3))
    density = np.exp(rng.normal(0, spread / 4))
    return Tissue(tissue.t1 * t1, tissue.t2 * t2, tissue.density * density, tissue.uptake * uptake**4)


def vary_sequence(rng: np.random.Generator, sequence: Sequence) -> Sequence:
    """The protocol of one scanner."""
    tr, te, ti = np.exp(rng.normal(0, 0.06, 3))
    return Sequence(sequence.repetition * tr, sequence.echo * te, sequence.inversion * ti, sequence.gadolinium)

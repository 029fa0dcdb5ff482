"""What a difference between two models over the same patients is worth: an interval, a test, an effect size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
Place = tuple[str, str]  # output, region

DRAWS = 10_000
LEVEL = 0.95
FEWEST = 5  # patients for an interval: fewer have too few different draws
ROUGH = 50  # patients below which intervals and tests are rough


@dataclass(frozen=True)
class Paired:
    """Differences a - b over the patients."""

    patients: int
    difference: float  # of the means
    low: float  # of its interval; NaN for fewer than FEWEST patients
    high: float
    p: float  # Wilcoxon's signed-rank test, two-sided; NaN for one patient
    effect: float  # matched-pairs rank-biserial correlation: 1 if a is higher in all, -1 if b is


def by_patient(scores: Iterable[Mapping[str, Any]], cohort: str, model: str, metric: str) -> dict[Place, dict[str, float]]:
    """A model's values by output and region, and by patient: of the scores of several runs, as scores.json holds them, each patient's mean."""
    collected: dict[Place, dict[str, list[float]]] = {}
    for row in (row for each in scores for row in each.get("rows", [])):
        if row["cohort"] == cohort and row["model"] == model and metric in row:
            collected.setdefault((row["modality"], row["region"]), {}).setdefault(row["subject"], []).append(row[metric])
    return {place: {subject: float(np.mean(each)) for subject, each in values.items()} for place, values in collected.items()}


def paired(a: Values, b: Values, seed: int = 0) -> Paired:
    """Compare two models' values, (patients,) in the same order. Raises ValueError for values that are not finite, or none."""
    differences = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    if not len(differences) or not np.isfinite(differences).all():
        raise ValueError("differences must be finite, and at least one")
    low, high = interval(differences, seed)
    return Paired(len(differences), float(differences.mean()), low, high, wilcoxon(differences), rank_biserial(differences))


def interval(values: Values, seed: int = 0) -> tuple[float, float]:
    """A 95 % interval of the mean by the studentised bootstrap over patients (Efron and Tibshirani 1993, chapter 12.5); NaN for fewer than five.

    In simulations it covers the mean in 92 to 96 % of cohorts of 5, 20 and 60 patients, be they normal, skewed or heavy-tailed; the percentile
    bootstrap covers it in 79 to 85 % of those of 5 (`python -m distsynth.bench intervals`).
    """
    count = len(values)
    if count < FEWEST:
        return float("nan"), float("nan")
    mean, error = values.mean(), values.std(ddof=1) / np.sqrt(count)
    if not error > 0:
        return float(mean), float(mean)
    drawn = values[np.random.default_rng(seed).integers(0, count, (DRAWS, count))]
    errors = drawn.std(axis=1, ddof=1) / np.sqrt(count)
    usable = errors > 1e-9 * error  # draws of one patient only have no standard error
    t = (drawn.mean(axis=1)[usable] - mean) / errors[usable]
    below, above = np.quantile(t, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(mean - above * error), float(mean - below * error)


def wilcoxon(differences: Values) -> float:
    """The two-sided p of Wilcoxon's signed-rank test: exact where there are no ties and at most 50 patients; 1 if all are 0, NaN for one."""
    from scipy import stats

    if len(differences) < 2:
        return float("nan")
    if not differences.any():
        return 1.0
    return float(stats.wilcoxon(differences).pvalue)


def rank_biserial(differences: Values) -> float:
    """The share of the ranks that favours a less the share that favours b (Kerby 2014); 0 if all differences are 0."""
    from scipy.stats import rankdata

    kept = differences[differences != 0]
    ranks = rankdata(np.abs(kept))
    return float((ranks * np.sign(kept)).sum() / ranks.sum()) if len(kept) else 0.0


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of several tests' p (Holm 1979); NaN stays, and does not count as a test."""
    values = np.asarray(p, np.float64)
    order = [int(place) for place in np.argsort(values) if np.isfinite(values[place])]
    adjusted, largest = values.copy(), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * values[place]))
        adjusted[place] = largest
    return [float(value) for value in adjusted]

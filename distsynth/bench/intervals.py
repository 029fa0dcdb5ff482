"""In what share of simulated cohorts the interval of `distsynth.compare` holds the true mean, beside Student's t and the percentile bootstrap."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from distsynth.evaluation.statistics import DRAWS, LEVEL, Values, interval
from preprocess.shared.settings import parse, setting

Draw = Callable[[np.random.Generator, int], Values]
DIFFERENCES: Mapping[str, Draw] = {
    "normal": lambda rng, count: rng.normal(size=count),
    "skewed (exponential)": lambda rng, count: rng.exponential(size=count) - 1,
    "heavy tails (t, 3 degrees)": lambda rng, count: rng.standard_t(3, count),
}


@dataclass
class Settings:
    cohorts: int = setting(1000, "simulated cohorts of each kind and size", least=1)
    patients: list[int] = setting(lambda: [5, 20, 60], "sizes of the cohorts")
    seed: int = setting(0, "random seed")


def main(words: Sequence[str]) -> int:
    settings = parse(Settings, words)
    methods = {"studentised bootstrap": interval, "Student's t": students, "percentile bootstrap": percentile}
    print(
        f"share of {settings.cohorts} cohorts whose {LEVEL:.0%} interval holds the true mean difference; in brackets its median width in sd"
    )
    for name, draw in DIFFERENCES.items():
        for count in settings.patients:
            rng = np.random.default_rng(settings.seed)
            cohorts = [draw(rng, count) for _ in range(settings.cohorts)]
            shares = []
            for method, of in methods.items():
                ends = np.array([of(values, number) for number, values in enumerate(cohorts)])
                covered = float(((ends[:, 0] <= 0) & (ends[:, 1] >= 0)).mean())
                shares.append(f"{method} {covered:.1%} ({np.median(ends[:, 1] - ends[:, 0]):.2f})")
            print(f"{name}, {count} patients: {', '.join(shares)}", flush=True)
    return 0


def students(values: Values, seed: int = 0) -> tuple[float, float]:
    from scipy.stats import t

    half = t.ppf((1 + LEVEL) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def percentile(values: Values, seed: int = 0) -> tuple[float, float]:
    drawn = values[np.random.default_rng(seed).integers(0, len(values), (DRAWS, len(values)))].mean(axis=1)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)

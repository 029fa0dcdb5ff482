"""The memory that each method takes on a rank, and the most slices that fit on GPUs of several sizes, by `distsynth.training.memory`.

Counted on this machine with the data types of the given precision; fp16 takes as much as bf16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from distsynth.bench.synthetic import method_of, noise, shipped
from distsynth.bench.words import split_words
from distsynth.ranks.world import world
from distsynth.run_directory import CONFIGS
from distsynth.settings import LimitSettings
from distsynth.training.engine import Engine
from distsynth.training.memory import OVERHEAD, USABLE, MemoryPlan, plan
from preprocess.shared.settings import setting


@dataclass
class MemorySettings:
    cards: list[int] = setting([6, 8, 16, 24, 80], "GB of the GPUs")
    pixels: int = setting(160, "height and width of the slices")
    precision: Literal["fp32", "bf16"] = setting("bf16", "bf16 (also for fp16) or fp32")


def main(words: Sequence[str]) -> int:
    settings, given = split_words(MemorySettings, words)
    named = [word.partition("=")[2] for word in given if word.startswith("method=")]
    rest = [word for word in given if not word.startswith("method=")]
    print(f"most slices at once on a GPU, {settings.precision}, slices of {settings.pixels}x{settings.pixels}; "
          f"assumed: {OVERHEAD / 1e9:.1f} GB of overhead, {USABLE:.0%} of the rest usable")  # fmt: skip
    print(f"{'method':16}{'stage':12}{'static, GB':>11}{'a slice, MB':>13}" + "".join(f"{card:>7} GB" for card in settings.cards))
    for preset in named or sorted(path.stem for path in (CONFIGS / "method").glob("*.yaml")):
        for stage in plans(preset, rest, settings):
            fitting = "".join(f"{stage.fits(card * 1e9):10,}" for card in settings.cards)
            print(f"{preset:16}{stage.stage:12}{stage.static / 1e9:11.2f}{stage.per_slice / 1e6:13.1f}{fitting}")
    return 0


def plans(preset: str, words: Sequence[str], settings: MemorySettings) -> list[MemoryPlan]:
    """The memory of each stage of a method, counted on the CPU."""
    config = shipped(preset, *words, f"train.precision={settings.precision}")
    method, size = method_of(config, settings.pixels)
    batch = noise(config.variant, 1, size, kind=method)
    with world("cpu", LimitSettings(start=3600)) as ranks:
        return [plan(Engine(method, stage, config.train, ranks), batch) for stage in method.stages(config.train)]

"""One patient's synthesis here and by MONAI's sliding-window inferer, with the same network: seconds and memory.

Each turn is a process of its own, so that its peak of memory is its own; the two alternate. A brain of 137 x 170 x 140 mm lies in a volume of
240 x 240 x 155 voxels of 1 mm. Ours gets its crop of 160 x 160 x 155 voxels, as the recipe has it; MONAI's SliceInferer goes over the volume's axial
slices in windows of 160 x 160, with its default overlap and blending. MONAI is not a dependency: pip install monai.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from distsynth.bench.synthetic import method_of
from distsynth.bench.words import split_words
from distsynth.config import Config, compose
from distsynth.data.intensity_map import IntensityMap
from distsynth.synthesis.tiles import blended
from distsynth.training.model import Model
from preprocess.geometry import crop, crop_offset
from preprocess.shared.errors import UserError
from preprocess.shared.settings import setting

SCAN, CROP, BRAIN = (155, 240, 240), (155, 160, 160), (140, 170, 137)  # (z, y, x) voxels of 1 mm; the brain's axes
OVERLAP = 0.25  # MONAI's default
Volume = npt.NDArray[np.float32]
Turn = dict[str, float]


@dataclass
class InferenceSettings:
    rounds: int = setting(3, "turns of each side", least=1)
    windows: list[int] = setting([1, 4], "MONAI: windows at once (sw_batch_size); 1 is its default")
    threads: int = setting(2, "threads of the network", least=1)
    side: str = setting("", "what one process does: ours, or MONAI's number of windows (empty: all, in turn)")


def main(words: Sequence[str]) -> int:
    """Print seconds and peak memory of each side, and the medians of the ratios to ours."""
    settings, given = split_words(InferenceSettings, words)
    config = compose([*given, "data.rotate=false"])
    if settings.side:
        print(json.dumps(turn(settings, config)))
        return 0
    sides = ["ours", *map(str, settings.windows)]
    turns: dict[str, list[Turn]] = {side: [] for side in sides}
    for _ in range(settings.rounds):
        for side in sides:
            turns[side].append(in_own_process([*words, f"side={side}"]))
    scan_size = " x ".join(map(str, SCAN[::-1]))
    print(
        f"{config.method.name}: {config.variant.title}, {scan_size} voxels, {settings.threads} threads, medians of {settings.rounds}"
    )
    for side in sides:
        name = "ours" if side == "ours" else f"MONAI, {side} at once"
        seconds, peak, rise = (statistics.median(each[key] for each in turns[side]) for key in ("seconds", "peak", "rise"))
        ratios = [
            statistics.median(a[key] / b[key] for a, b in zip(turns[side], turns["ours"], strict=True))
            for key in ("seconds", "peak", "rise")
        ]
        against = "" if side == "ours" else "; {:.2f} x, {:.2f} x, {:.2f} x ours".format(*ratios)
        print(f"{name}: {seconds:.1f} s, peak {peak / 1e6:.0f} MB, of which {rise / 1e6:.0f} MB for the synthesis{against}")
    return 0


def in_own_process(words: Sequence[str]) -> Turn:
    """Raises UserError if the turn fails."""
    done = subprocess.run([sys.executable, "-m", "distsynth.bench", "inference", *words], capture_output=True, text=True)
    if done.returncode:
        raise UserError(done.stderr.strip().splitlines()[-1].removeprefix("error: "))
    turn: Turn = json.loads(done.stdout.splitlines()[-1])
    return turn


def turn(settings: InferenceSettings, config: Config) -> Turn:
    """Synthesise once. `peak`: the process's most memory; `rise`: how much of it came after networks and scans were there; in bytes."""
    torch.set_num_threads(settings.threads)
    method, size = method_of(config, CROP[1])
    mapping = IntensityMap(dict.fromkeys(config.variant.modalities, -3.0), dict.fromkeys(config.variant.modalities, 3.0))
    model = Model(method, config.variant, mapping, size)
    scans, brain = scan(len(config.variant.inputs))
    work = ours if settings.side == "ours" else monai(int(settings.side))
    before, began = most_memory(), time.perf_counter()
    made = work(model, scans, brain)
    seconds = time.perf_counter() - began
    assert made.shape == (len(config.variant.outputs), *SCAN)
    return {"seconds": seconds, "peak": most_memory(), "rise": most_memory() - before}


def most_memory() -> float:
    """Of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def scan(inputs: int) -> tuple[Volume, npt.NDArray[np.bool_]]:
    """(inputs, z, y, x) noise as z-scores in a brain (z, y, x) in the middle."""
    z, y, x = ((np.arange(n, dtype=np.float32) - (n - 1) / 2) / (b / 2) for n, b in zip(SCAN, BRAIN, strict=True))
    within = y[:, None] ** 2 + x**2
    brain = np.stack([within < 1 - height**2 for height in z])
    noise = np.random.default_rng(0).standard_normal((inputs, *SCAN), np.float32)
    for one in noise:
        one[~brain] = -9
    return noise, brain


def ours(model: Model, scans: Volume, brain: npt.NDArray[np.bool_]) -> Volume:
    """As `synthesise` does it, to the scan's whole grid."""

    def make(corner: tuple[int, ...], shape: tuple[int, ...]) -> Volume:
        given = crop(scans, corner, shape, -9)
        return model.synthesise(given, given[0] != -9)

    corner, made = blended(brain, crop_offset(brain, CROP), CROP, make)
    whole = np.zeros((len(made), *brain.shape), np.float32)
    z, y, x = (slice(c, c + n) for c, n in zip(corner, made.shape[1:], strict=True))
    whole[:, z, y, x] = made
    whole *= brain
    return whole


def monai(windows: int) -> Any:
    """Its inferer as our `ours`. Raises UserError if MONAI is not installed."""
    try:
        from monai.inferers import SliceInferer
    except ImportError as error:
        raise UserError(f"bench inference compares with MONAI, which cannot be imported ({error}): pip install monai") from error

    def work(model: Model, scans: Volume, brain: npt.NDArray[np.bool_]) -> Volume:
        inputs = len(model.variant.inputs)
        inferer = SliceInferer(
            roi_size=model.size, spatial_dim=0, sw_batch_size=windows, overlap=OVERLAP, mode="gaussian", progress=False
        )
        values = model.mapping.to_network(scans, model.variant.inputs)
        given = torch.from_numpy(np.concatenate([values, brain[None].astype(np.float32)]))[None]
        model.method.eval()

        def network(window: torch.Tensor) -> torch.Tensor:
            return model.method.synthesise(window[:, :inputs], window[:, inputs:])

        with torch.no_grad():
            made = inferer(given, network)
        return model.mapping.to_z(made[0].numpy(), model.variant.outputs) * brain

    return work

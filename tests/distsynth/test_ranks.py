"""Training gives the same weights on 1, 2 and 4 ranks, for every preset in configs/method/, unchanged except for widths and batch sizes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from distsynth.config import compose
from distsynth.run_directory import CONFIGS

SCRIPT = Path(__file__).parent / "ranks_agree.py"
MAY_DIFFER = {"width", "batch", "micro_batch", "patch", "core"}  # the last part of a setting's name
PRESETS = sorted(path.stem for path in (CONFIGS / "method").glob("*.yaml"))
# In float32, rounding may flip the sign of an L1 difference, or of a gradient that is nearly zero and that Adam divides by its own size: such a
# weight then differs by about the learning rate per update. At the published rates no weight differs by 2e-3; small presets, whose rates are
# ten times as high, differ by up to 2.4e-2, a different preset on each cohort and processor. float64 shows that it is only rounding.
TOLERANCE = {"double": 1e-9, "in parts": 1e-9, "single": 2e-3}
STEPS = 20  # of ranks_agree.py
VISIBLE = 1e-3  # batch norm changes the weights by at least this

Results = dict[int, dict[tuple[str, str], dict[str, Any]]]


def trained(store: Path, folder: Path, *precisions: str) -> Results:
    """By number of ranks: the result of 20 updates of each stage, for every preset and precision."""
    command = [sys.executable, str(SCRIPT), str(store), str(folder), *precisions]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=900)
    assert done.returncode == 0, done.stderr
    return {ranks: torch.load(folder / f"{ranks}.pt", weights_only=True) for ranks in (1, 2, 4)}


@pytest.fixture(scope="module")
def double(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    return trained(store, tmp_path_factory.mktemp("double"), "double")


@pytest.fixture(scope="module")
def others(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    return trained(store, tmp_path_factory.mktemp("others"), "double", "in parts", "single")


def furthest(a: dict[str, Any], b: dict[str, Any], pools: bool = True) -> tuple[float, str]:
    """The largest difference of two sets of weights, and the name of that weight; optionally with the images in pools, which have another unit."""
    names = [name for name in a["weights"] if pools or not name.endswith("_extra_state")]
    return max((float((a["weights"][name] - b["weights"][name]).abs().max()), name) for name in names)


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("preset", PRESETS)
def test_many_ranks_equal_one(double: Results, preset: str, ranks: int) -> None:
    """Except with batch norm, whose statistics are each rank's own: there the difference must be visible, or the warning would be wrong."""
    agree(double, preset, "double", ranks)


@pytest.mark.full
@pytest.mark.parametrize(("precision", "ranks"), [("in parts", 2), ("single", 2), ("single", 4)])
@pytest.mark.parametrize("preset", PRESETS)
def test_many_ranks_equal_one_in_parts_and_in_float32(others: Results, preset: str, precision: str, ranks: int) -> None:
    agree(others, preset, precision, ranks)


def agree(results: Results, preset: str, precision: str, ranks: int) -> None:
    one, many = results[1][preset, precision], results[ranks][preset, precision]
    difference, name = furthest(one, many, pools=precision != "single")
    print(f"{preset} {precision}: {ranks} ranks differ from one by {difference:.1e} in {name}")
    high_rate = precision == "single" and preset.endswith("_small")
    bound = STEPS * highest_rate(one["used"]) if high_rate else TOLERANCE[precision]
    assert difference > VISIBLE if one["batch_norm"] else difference < bound


def highest_rate(used: dict[str, Any]) -> float:
    """The highest learning rate of a preset's stages."""
    return float(max(used["train"]["lr"], used["method"].get("segmentor", {}).get("lr", 0)))


@pytest.mark.full
@pytest.mark.parametrize("preset", PRESETS)
def test_a_batch_in_parts_equals_it_whole(others: Results, preset: str) -> None:
    whole, parts = others[1][preset, "double"], others[1][preset, "in parts"]
    assert (furthest(whole, parts)[0] < 1e-9) != whole["batch_norm"]


@pytest.mark.parametrize("preset", PRESETS)
def test_only_sizes_differ_from_the_shipped_preset(double: Results, preset: str) -> None:
    """So that the equality is not that of a stripped configuration."""
    used = double[1][preset, "double"]["used"]
    shipped = OmegaConf.to_container(OmegaConf.structured(compose([f"method={preset}", f"variant={used['variant']['name']}"])))
    differing = [words for part in shipped for words in changed(shipped[part], used[part], f".{part}") if part != "data"]
    print(f"{preset}: {', '.join(differing)}")
    assert {words.partition(":")[0].rsplit(".", 1)[-1] for words in differing} <= MAY_DIFFER


def changed(shipped: Any, used: Any, key: str = "") -> list[str]:
    if isinstance(shipped, dict):
        return [words for name in shipped for words in changed(shipped[name], used[name], f"{key}.{name}")]
    return [] if shipped == used else [f"{key[1:]}: {shipped} -> {used}"]

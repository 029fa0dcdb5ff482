"""The same maths on 1, 2 and 4 ranks, for every preset in configs/method/, as it is shipped but for widths and sizes of batches."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from distsynth.config import CONFIGS, compose
from distsynth.methods.registry import METHODS

SCRIPT = Path(__file__).parent / "ranks_agree.py"
MAY_DIFFER = {"width", "batch", "micro_batch", "patch", "core"}  # the last part of a setting's name
PRESETS = sorted(path.stem for path in (CONFIGS / "method").glob("*.yaml"))
PLAIN = sorted(METHODS)  # the presets that bear their method's name are also trained in micro-batches and in float32
# Twenty updates of Adam amplify rounding by 1e4 to 1e5. In float32 the small presets of TC-MGAN and the unified GAN come 1e-2 and 2.5e-2 apart, for
# Adam divides a gradient by its own size: where the true one is near 0, as with few channels on few pixels, its rounding decides.
TOLERANCE = {"double": 1e-9, "in parts": 1e-9, "single": 2e-3}
SEEN = 1e-3  # what batch norm at least changes

Results = dict[int, dict[tuple[str, str], dict[str, Any]]]


@pytest.fixture(scope="module")
def results(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """By number of ranks: what 20 updates of each stage make, for every preset and precision. Each world is started once."""
    folder, found = tmp_path_factory.mktemp("ranks"), {}
    for ranks in (1, 2, 4):
        out = folder / f"{ranks}.pt"
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        command = [sys.executable, *torchrun, str(SCRIPT), str(store), str(out)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=400)
        assert done.returncode == 0, done.stderr
        found[ranks] = torch.load(out, weights_only=True)
    return found


def furthest(a: dict[str, Any], b: dict[str, Any], pools: bool = True) -> tuple[float, str]:
    """The largest difference of two sets of weights, and whose it is; with the images that pools hold, whose unit is another."""
    names = [name for name in a["weights"] if pools or not name.endswith("_extra_state")]
    return max((float((a["weights"][name] - b["weights"][name]).abs().max()), name) for name in names)


@pytest.mark.parametrize(
    ("preset", "precision", "ranks"),
    [(preset, "double", ranks) for preset in PRESETS for ranks in (2, 4)]
    + [(preset, *run) for preset in PLAIN for run in (("in parts", 2), ("single", 2), ("single", 4))],
)
def test_many_ranks_equal_one(results: Results, preset: str, precision: str, ranks: int) -> None:
    """But for batch norm, whose statistics are each rank's own: there the difference must be seen, or it would not have to be said."""
    one, many = results[1][preset, precision], results[ranks][preset, precision]
    difference, name = furthest(one, many, pools=precision != "single")
    print(f"{preset} {precision}: {ranks} ranks differ from one by {difference:.1e} in {name}")
    assert difference > SEEN if one["batch_norm"] else difference < TOLERANCE[precision]


@pytest.mark.parametrize("preset", PLAIN)
def test_a_batch_in_parts_equals_it_whole(results: Results, preset: str) -> None:
    whole, parts = results[1][preset, "double"], results[1][preset, "in parts"]
    assert (furthest(whole, parts)[0] < 1e-9) != whole["batch_norm"]


@pytest.mark.parametrize("preset", PRESETS)
def test_nothing_but_sizes_differs_from_what_is_shipped(results: Results, preset: str) -> None:
    """So that no equality is won on an emptied configuration."""
    used = results[1][preset, "double"]["used"]
    shipped = OmegaConf.to_container(OmegaConf.structured(compose([f"method={preset}", f"variant={used['variant']['name']}"])))
    differing = [words for part in shipped for words in changed(shipped[part], used[part], f".{part}") if part != "data"]
    print(f"{preset}: {', '.join(differing)}")
    assert {words.partition(":")[0].rsplit(".", 1)[-1] for words in differing} <= MAY_DIFFER


def changed(shipped: Any, used: Any, key: str = "") -> list[str]:
    if isinstance(shipped, dict):
        return [found for name in shipped for found in changed(shipped[name], used[name], f"{key}.{name}")]
    return [] if shipped == used else [f"{key[1:]}: {shipped} -> {used}"]

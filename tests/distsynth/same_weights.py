"""Whether two versions of the code train the same weights, bit for bit, write the same journal and find the same scores.

    cd OLD_CHECKOUT && python tests/distsynth/same_weights.py old.json --store cohort.zarr
    cd NEW_CHECKOUT && python tests/distsynth/same_weights.py new.json --store cohort.zarr --against old.json

Trains every `configs/method/*_small.yaml` of the current directory's checkout for 20 updates on one rank, a few of them on two ranks as well, and
writes {"PRESET" or "PRESET, 2 ranks": {"weights": sha256, "metrics": …, "scores": …}}. With `--against` it exits with 1 where
anything differs and says what. About 2 minutes of one core; only on one machine and one torch are the same bits to be expected.

It knows nothing of the code but its command lines and what a run's folder holds, so that it serves a version whose modules have other names. The
cohort is made by the checkout too, and its bytes are compared, unless `--store` names one that is there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

Digests = dict[str, dict[str, str]]

PHANTOMS = ("subjects=10", "spacing=6", "seed=59", "workers=1")
COHORT = ("recipe.n4.iterations=[5]", "workers=1")
# Four epochs of five updates: schedules, curricula and validations are between them. A segmentor that is trained before has its own epochs.
UPDATES = ("train.epochs=4", "train.steps_per_epoch=5", "train.log_every=1", "train.device=cpu", "evaluate.figures=1")
UNPAIRED = ("cyclegan_small", "discogan_small", "unit_small")  # one contrast to one
ON_TWO_RANKS = ("unet_small", "tcmgan_small", "discogan_small")
OWN = {"discogan_small": ("method.weights.switch=10",)}  # else the switch would come after the last update


def main() -> int:
    words = arguments()
    checkout = Path.cwd()
    presets = sorted(path.stem for path in (checkout / "configs" / "method").glob("*_small.yaml"))
    if not presets:
        sys.exit(f"{checkout} has no configs/method/*_small.yaml: go to the checkout that is to be tried")
    with tempfile.TemporaryDirectory() as folder:
        store = words.store or Path(folder) / "cohort.zarr"
        if not store.exists():
            make_cohort(Path(folder) / "phantom", store)
        found: Digests = {"cohort": {"bytes": of_files(store.rglob("*"), store)}}
        for preset, ranks in [*((name, 1) for name in presets), *((name, 2) for name in ON_TWO_RANKS)]:
            name = preset if ranks == 1 else f"{preset}, {ranks} ranks"
            found[name] = trained(preset, ranks, store, Path(folder) / name.replace(", ", "_").replace(" ", "_"))
    words.out.write_text(json.dumps(found, indent=1) + "\n")
    return compare(found, json.loads(words.against.read_text())) if words.against else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT.json", help="what to write")
    parser.add_argument("--store", type=lambda word: Path(word).absolute(), help="the cohort; made there if it is not")
    parser.add_argument("--against", type=Path, metavar="OTHER.json", help="what another version has written")
    return parser.parse_args()


def make_cohort(source: Path, store: Path) -> None:
    run("preprocess.phantom", f"out={source}", *PHANTOMS)
    run("preprocess.to_zarr", f"source={source}", f"store={store}", *COHORT)


def run(*words: str) -> None:
    """`python -m WORDS` in the current directory, whose modules come before installed ones. Exits with what it said if it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")


def trained(preset: str, ranks: int, store: Path, folder: Path) -> dict[str, str]:
    """Train a preset in `folder` and take the digests of what it left there."""
    began = time.monotonic()
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"] if ranks > 1 else []
    variant = "siso" if preset in UNPAIRED else "simo"
    task = [f"method={preset}", f"variant={variant}", f"data.store={store}", f"run={folder}"]
    run(*torchrun, "distsynth.train", *task, *UPDATES, *OWN.get(preset, ()))
    newest = sorted((folder / "checkpoints").glob("step-*.pt"))[-1]
    found = {
        "weights": of_tensors(newest, folder / "checkpoints" / "best.pt"),
        "metrics": of_text(json.dumps(metrics(folder / "journal.jsonl"))),
        "scores": of_files([folder / "evaluation" / "scores.json"], folder),
    }
    step = int(newest.stem.removeprefix("step-"))
    print(f"{folder.name:<24} {found['weights'][:12]} after {step} updates, {time.monotonic() - began:.0f} s", flush=True)
    return found


def of_tensors(*checkpoints: Path) -> str:
    """Of the weights and their average: name, type, shape and bytes of each, in the order of their names."""
    digest = hashlib.sha256()
    for path in checkpoints:
        state = torch.load(path, map_location="cpu", weights_only=True)
        for part in ("method", "average"):
            for name, value in sorted(state.get(part, {}).items()):
                digest.update(f"{path.stem} {part} {name} {value.dtype} {tuple(value.shape)}\0".encode())
                digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def metrics(journal: Path) -> list[tuple[int, dict[str, float]]]:
    """Every value of the journal but what the machine did, in the journal's order."""
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    points = [(line["step"], of_training(line["values"])) for line in lines if line["kind"] == "metrics"]
    return [point for point in points if point[1]]


def of_training(values: dict[str, float]) -> dict[str, float]:
    kept = {name: value for name, value in values.items() if not name.startswith(("time/", "system/"))}
    return {
        name.replace("best_floor", "best_baseline"): value for name, value in kept.items()
    }  # baselines were called floors once


def of_files(paths: Iterable[Path], base: Path) -> str:
    """Of the files' names below `base` and their bytes; not of locks."""
    digest = hashlib.sha256()
    for path in sorted(path for path in paths if path.is_file() and not path.name.endswith("lock")):
        digest.update(f"{path.relative_to(base)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def of_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def compare(found: dict[str, Any], other: dict[str, Any]) -> int:
    """Say what differs; the exit status."""
    differing = 0
    for name in sorted({*found, *other}):
        here, there = found.get(name, {}), other.get(name, {})
        if parts := sorted(part for part in {*here, *there} if here.get(part) != there.get(part)):
            differing += 1
            print(f"DIFFERS: {name}: {', '.join(parts)}")
    print(f"{differing} of {len(found)} differ" if differing else f"all {len(found)} are the same, bit for bit")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())

"""Makes a cohort of made-up patients in BRATS 2018's layout, because BRATS itself may not be redistributed.

    python -m preprocess.phantom out=data/phantom subjects=24 spacing=3

Each subject depends only on (seed, number): MNI152 anatomy, deformed and with its own folds, a glioma, four contrasts computed from
relaxation times by the signal equations, a bias field (stored in OUT/truth), Rician noise and a scanner gain. spacing=1 gives 240x240x155.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from preprocess.phantom.anatomy import templates
from preprocess.phantom.write import claim, write_subject
from preprocess.shared.errors import UserError
from preprocess.shared.settings import command, parse, setting


@dataclass
class Settings:
    out: str = setting("data/phantom", "the folder to write to")
    subjects: int = setting(24, "number of patients", least=1)
    spacing: float = setting(1.0, "voxel size in mm; demos and tests use a coarse grid, such as 3", least=0.5, most=8)
    seed: int = setting(0, "each seed gives other patients")
    workers: int = setting(0, "processes (0: one per core)")


def main(words: Sequence[str]) -> int:
    from rich.progress import track

    settings = parse(Settings, words)
    out = Path(settings.out)
    identity = {"seed": settings.seed, "spacing": settings.spacing}
    templates()  # fails at once if nilearn is missing
    workers = max(1, min(settings.workers or len(os.sched_getaffinity(0)), settings.subjects))
    try:
        claim(out, identity)
        with ProcessPoolExecutor(workers, mp_context=get_context("forkserver")) as pool:
            made = pool.map(partial(write_subject, out, settings.seed, settings.spacing), range(settings.subjects))
            new = sum(track(made, "phantoms", total=settings.subjects))
    except OSError as error:
        raise UserError(f"cannot write to out={out}: {error.strerror}") from error
    words = [] if out == Path("data/phantom") else [f"source={out}", f"store={out}.zarr"]
    command_after = shlex.join(["python", "-m", "preprocess.to_zarr", *words])
    print(f"{out} holds {settings.subjects} phantoms ({new} made now); next: {command_after}")
    return 0


if __name__ == "__main__":
    command(main, __doc__, Settings)

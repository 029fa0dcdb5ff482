"""A cohort of made-up patients in BRATS 2018's layout, since nobody may ship BRATS itself.

    python -m preprocess.phantom out=data/phantom subjects=24 spacing=3

Each subject is a pure function of (seed, number): MNI152 anatomy bent and folded anew, a glioma grown in it, four contrasts from relaxation
times by their signal equations, a bias field (kept in OUT/truth), Rician noise and a scanner's gain. spacing=1 gives 240x240x155 voxels.
"""

from __future__ import annotations

import os
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
    out: str = setting("data/phantom", "the folder to write")
    subjects: int = setting(24, "how many", least=1)
    spacing: float = setting(1.0, "voxel size in mm; 3 is the small grid of demos and tests", least=0.5, most=8)
    seed: int = setting(0, "another seed, other patients")
    workers: int = setting(0, "processes (0: one per core)")


def main(words: Sequence[str]) -> int:
    from rich.progress import track

    settings = parse(Settings, words)
    out = Path(settings.out)
    identity = {"seed": settings.seed, "spacing": settings.spacing}
    templates()  # says at once if nilearn is missing
    workers = max(1, min(settings.workers or len(os.sched_getaffinity(0)), settings.subjects))
    try:
        claim(out, identity)
        with ProcessPoolExecutor(workers, mp_context=get_context("forkserver")) as pool:
            made = pool.map(partial(write_subject, out, settings.seed, settings.spacing), range(settings.subjects))
            new = sum(track(made, "phantoms", total=settings.subjects))
    except OSError as error:
        raise UserError(f"cannot write to out={out}: {error.strerror}") from error
    print(f"{out} holds {settings.subjects} phantoms ({new} made now); next: python -m preprocess.to_zarr source={out}")
    return 0


if __name__ == "__main__":
    command(main, __doc__, Settings)

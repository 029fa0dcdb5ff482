"""The cases for benchmarks: the user's own, or phantoms of BRATS's size."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from preprocess.phantom.write import claim, write_subject
from preprocess.shared.settings import setting
from preprocess.source.brats import Case, discover


@dataclass
class CasesSettings:
    """The source of the cases."""

    source: str = setting("", "a folder of cases (empty: phantoms)")
    phantoms: str = setting("data/phantom_1mm", "the folder of phantoms; missing ones are made")
    voxel: float = setting(1.0, "their voxel size in mm; 1 is BRATS's 240x240x155")
    subjects: int = setting(6, "number of cases", least=1)


def phantoms(out: Path, voxel: float, count: int, seed: int = 0) -> list[Case]:
    """The first phantoms of a folder; missing ones are made. Raises UserError if it holds other phantoms."""
    from rich.progress import track

    claim(out, {"seed": seed, "spacing": voxel})
    for number in track(range(count), "phantoms"):
        write_subject(out, seed, voxel, number)
    return discover(out).cases[:count]


@contextmanager
def folder_of_cases(settings: CasesSettings) -> Iterator[Path]:
    """A folder of links to the cases."""
    source = Path(settings.source or settings.phantoms)
    own = discover(source).cases[: settings.subjects] if settings.source else None
    cases = own or phantoms(source, settings.voxel, settings.subjects)
    with tempfile.TemporaryDirectory() as folder:
        for path in {path for case in cases for path in case.files.values()}:
            link = Path(folder) / source.resolve().name / path.relative_to(source)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
        yield Path(folder)

"""The cases that benches run on: the user's own, or phantoms of BRATS's size made for the occasion."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from preprocess.errors import SettingError
from preprocess.settings import setting


@dataclass
class CasesSettings:
    """Where the cases come from."""

    source: str = setting("", "a folder of cases (empty: phantoms are made)")
    subjects: int = setting(6, "how many phantoms are made")
    spacing: float = setting(1.0, "their voxel size in mm; 1 is BRATS's 240x240x155")

    def __post_init__(self) -> None:
        if self.subjects < 1:
            raise SettingError(f"subjects={self.subjects} must be at least 1")


@contextmanager
def cases_folder(settings: CasesSettings) -> Iterator[Path]:
    """The folder of the cases; phantoms are removed at the end."""
    from preprocess.phantom.__main__ import main as make_phantoms

    if settings.source:
        yield Path(settings.source)
        return
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "phantom"
        make_phantoms([f"out={made}", f"subjects={settings.subjects}", f"spacing={settings.spacing}"])
        yield made

"""One patient's named files as a case."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from preprocess.shared.errors import SettingError
from preprocess.source.brats import Case, is_safe
from preprocess.source.images import is_synthetic
from preprocess.source.layouts import LAYOUTS


def named(files: Mapping[str, Path], name: str = "") -> Case:
    """The patient with these files by kind; the name is that of the first file if none is given. Raises SettingError."""
    for kind, path in files.items():
        if not path.is_file():
            raise SettingError(f"{kind}={path} {'is a folder' if path.is_dir() else 'does not exist'}: give a file")
        if is_synthetic(path):
            raise SettingError(f"{kind}={path} is a synthesised image, as its header says: give an acquired scan")
    called = name or name_of(next(iter(files.values())))
    if Path(called).name != called or not is_safe(called):
        raise SettingError(f"name={called} cannot name files: give a plain name")
    return Case(called, called, "unknown", dict(files))


def scans_of(files: Mapping[str, Path]) -> dict[str, Path]:
    """A case's acquired contrasts and its brain mask."""
    return {kind: path for kind, path in files.items() if kind != "seg" and not is_synthetic(path)}


def name_of(path: Path) -> str:
    """The case's name by one of the layouts, else the file's."""
    matches = (layout.match(f"/{path.absolute().parent.name}/{path.name}") for layout in LAYOUTS)
    stem = path.name.split(".")[0] or "patient"
    return next((match.case for match in matches if match), stem)

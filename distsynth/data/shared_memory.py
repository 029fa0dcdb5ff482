"""Arrays that all ranks of a node share: files in shared memory that each rank maps."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from preprocess.shared.errors import SettingError

Share = Callable[[Callable[[], str], Callable[[str], npt.NDArray[Any]]], npt.NDArray[Any]]


def write_shared(slices: npt.NDArray[Any]) -> str:
    """Write the slices to a .npy file that the node's ranks map: in shared memory if it fits there, else in the temporary folder.

    Returns its path. Raises SettingError if it fits in neither."""
    for folder in ("/dev/shm", tempfile.gettempdir()):
        if Path(folder).is_dir() and free_bytes(folder) > slices.nbytes * 1.1:
            with tempfile.NamedTemporaryFile(dir=folder, prefix="distsynth-", suffix=".npy", delete=False) as file:
                np.save(file, slices)
            return file.name
    raise SettingError(
        f"neither /dev/shm nor {tempfile.gettempdir()} has {slices.nbytes / 1e9:.1f} GB for the slices: set TMPDIR to a folder on a larger disk"
    )


def free_bytes(folder: str) -> int:
    return shutil.disk_usage(folder).free


def open_shared(path: str) -> npt.NDArray[Any]:
    """Map the slices of `write_shared`."""
    mapped: npt.NDArray[Any] = np.load(path, mmap_mode="r")
    return mapped

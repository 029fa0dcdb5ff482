"""What needs a real Slurm is collected only where it is asked for by name (make test-slurm). A trained run, and patients for it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from workbench import untrained_run


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    asked = any("slurm/cluster" in str(word) for word in config.args)
    return True if collection_path.name == "cluster" and not asked else None


@pytest.fixture(scope="session")
def trained(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that makes FLAIR from T1 and T2, badly."""
    words = (f"data.store={store}", "variant=miso_flair", "method=unet_small")
    return untrained_run(tmp_path_factory.mktemp("runs") / "trained", *words).path


@pytest.fixture(scope="session")
def without_flair(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Makes a folder of some of the ten phantoms, without FLAIR, and the T1 of the fourth cut off."""

    def some(number: int) -> Path:
        folder = tmp_path_factory.mktemp("source") / "clinic"
        for subject in sorted(phantoms.glob("*/*/"), key=lambda path: path.name)[:number]:
            shutil.copytree(subject, folder / subject.name, ignore=shutil.ignore_patterns("*_flair.nii.gz"))
        bad = sorted(folder.rglob("*_t1.nii.gz"))[3]
        bad.write_bytes(bad.read_bytes()[:300])
        return folder

    return some

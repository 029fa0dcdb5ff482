"""What needs a real Slurm is collected only where it is asked for by name (make test-slurm)."""

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    asked = any("slurm/cluster" in str(word) for word in config.args)
    return True if collection_path.name == "cluster" and not asked else None

"""The lowest storey needs no other storey and starts fast."""

import ast
import subprocess
import sys
import time
from pathlib import Path

FORBIDDEN = ("torch", "mlflow", "distsynth", "slurm", "submitit")
IMPORT_ALL = """
import importlib, pkgutil, sys, preprocess
for module in pkgutil.walk_packages(preprocess.__path__, "preprocess."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
assert "preprocess.to_zarr" in sys.modules
print(*sorted(sys.modules))
"""

ROOT = Path(__file__).parents[2]
FLOORS = (  # from top to bottom, as in preprocess/__init__.py
    {"bench"},
    {"explore", "phantom"},
    {"to_zarr", "restore"},
    {"recipe"},
    {"cohort"},
    {"source"},
    {"splits", "bias", "intensity"},
    {"geometry", "spline"},
    {"shared"},
)


def imported_by(file: Path) -> set[str]:
    """The files and folders directly below preprocess/ that a file imports."""
    nodes = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)]
    modules = [f"{node.module}.{alias.name}".split(".") for node in nodes for alias in node.names]
    return {module[1] for module in modules if module[0] == "preprocess"}


def test_every_import_runs_down() -> None:
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    files = [path.relative_to(ROOT / "preprocess") for path in (ROOT / "preprocess").rglob("*.py")]
    rooms = {path: path.parts[0].removesuffix(".py") for path in files if path.parts != ("__init__.py",)}
    assert set(rooms.values()) == set(floor)
    up = [
        (str(path), name)
        for path, room in rooms.items()
        for name in imported_by(ROOT / "preprocess" / path)
        if name != room and floor[name] <= floor[room]
    ]
    assert up == []


def loaded_by(code: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.split()}


def test_no_module_reaches_up_or_for_torch() -> None:
    assert not loaded_by(IMPORT_ALL) & set(FORBIDDEN)


def test_opening_a_cohort_needs_neither_itk_nor_nibabel() -> None:
    assert not loaded_by("import sys, preprocess.cohort; print(*sys.modules)") & {"SimpleITK", "nibabel", "zarr", "scipy"}


def test_the_store_module_imports_in_well_under_two_seconds() -> None:
    def seconds() -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import preprocess.cohort"], check=True)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(3)) < 1.5

"""The lowest storey needs no other storey and starts fast."""

import subprocess
import sys
import time

FORBIDDEN = ("torch", "mlflow", "distsynth", "slurm", "submitit")
IMPORT_ALL = """
import importlib, pkgutil, sys, preprocess
for module in pkgutil.walk_packages(preprocess.__path__, "preprocess."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
assert "preprocess.to_zarr" in sys.modules
print(*sorted(sys.modules))
"""


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

"""What each storey may load."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def imported(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return found | {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}


def test_imports_point_down_only() -> None:
    for path in (ROOT / "distsynth").rglob("*.py"):
        assert not {n for n in imported(path) if n.split(".")[0] in ("slurm", "submitit")}, path


def test_mlflow_is_imported_by_the_sync_and_by_what_exports_to_it() -> None:
    users = {
        p.name
        for top in ("distsynth", "slurm")
        for p in (ROOT / top).rglob("*.py")
        if any(n.split(".")[0] == "mlflow" for n in imported(p))
    }
    assert users == {"sync.py", "store.py", "entities.py", "mlflow_model.py", "pyfunc.py"}


def test_a_compute_rank_never_loads_mlflow(store: Path, tiny: tuple[str, ...], tmp_path: Path) -> None:
    """A whole run, evaluation and figures included, then a look at what the process has loaded."""
    words = [f"run={tmp_path / 'run'}", f"data.store={store}", "variant=siso", *tiny]
    code = f"""
import sys
from distsynth.train import main
assert main({words!r}) == 0
heavy = sorted({{m.split(".")[0] for m in sys.modules}} & {{"mlflow", "submitit", "SimpleITK", "nibabel", "nilearn", "monai"}})
print("loaded:", heavy)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded: []"

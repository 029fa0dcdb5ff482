"""What a wheel holds, and that it works in an empty environment without the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distsynth import export, run_directory, synthesise

PROJECT = Path(__file__).parent.parent
STOREYS = ("distsynth", "preprocess", "slurm")
PYPROJECT: dict[str, Any] = tomllib.loads((PROJECT / "pyproject.toml").read_text())
SCRIPTS: dict[str, str] = PYPROJECT["project"]["scripts"]
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]
CONFIGS = {path.relative_to(PROJECT).as_posix() for path in (PROJECT / "configs").rglob("*") if path.is_file()}
MODULES = {path.relative_to(PROJECT).as_posix() for storey in STOREYS for path in (PROJECT / storey).rglob("*.py")}


def test_pyproject_lists_every_package_config_and_command() -> None:
    packages = {Path(module).parent.as_posix().replace("/", ".") for module in MODULES}
    assert set(SETUPTOOLS["packages"]) == packages
    shipped = [path for glob in SETUPTOOLS["package-data"]["distsynth"] for path in (PROJECT / "distsynth").glob(glob)]
    assert {path.relative_to(PROJECT / "distsynth").as_posix() for path in shipped} - {"py.typed"} == CONFIGS
    assert {target.partition(":")[0].replace(".", "/") + ".py" for target in SCRIPTS.values()} <= MODULES


def test_the_code_digest_of_a_wheel_is_that_of_its_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for storey in STOREYS:
        shutil.copytree(PROJECT / storey, tmp_path / storey, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "another_package.py").write_text("")
    digest = run_directory.code_digest.__wrapped__
    of_the_checkout = digest()
    monkeypatch.setattr(run_directory, "PROJECT", tmp_path)
    monkeypatch.setattr(run_directory, "CONFIGS", tmp_path / "distsynth" / "configs")
    assert digest() == of_the_checkout
    (tmp_path / "distsynth" / "configs" / "train.yaml").write_text("")
    assert digest() != of_the_checkout


def test_the_commit_is_the_checkouts_and_not_that_of_a_repository_around_the_packages(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def commit_of(project: Path) -> str:
        monkeypatch.setattr(run_directory, "PROJECT", project)
        return run_directory.git_commit.__wrapped__()

    assert commit_of(repository) == git(repository, "rev-parse", "HEAD")
    git(repository, "worktree", "add", "-q", "../worktree")
    assert commit_of(repository.parent / "worktree") == git(repository, "rev-parse", "HEAD")
    packages = repository / ".venv" / "lib" / "site-packages"
    packages.mkdir(parents=True)
    assert commit_of(packages) == ""


@pytest.mark.full
def test_the_wheel_and_the_source_archive_hold_all_modules_and_configs(built: Path) -> None:
    names = zipfile.ZipFile(wheel_in(built)).namelist()
    assert {name for name in names if name.endswith((".py", ".yaml"))} == MODULES | {f"distsynth/{name}" for name in CONFIGS}
    assert {"distsynth/py.typed", "preprocess/explore/page.html"} <= set(names)
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        assert {name.partition("/")[2] for name in archive.getnames()} >= MODULES | {f"distsynth/{name}" for name in CONFIGS}


@pytest.mark.full
def test_an_editable_install_works_beside_its_checkout(built: Path, tmp_path: Path) -> None:
    """A folder named distsynth in the working directory, such as the clone, must not hide the package."""
    clone = tmp_path / "distsynth"
    shutil.copytree(built / "checkout", clone, symlinks=True)
    call(tmp_path, sys.executable, "-m", "venv", "--system-site-packages", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    call(tmp_path, python, "-m", "pip", "install", "--quiet", "--no-deps", "-e", clone)
    code = "import distsynth, distsynth.run_directory as r; print(distsynth.__file__, (r.CONFIGS / 'train.yaml').is_file())"
    assert call(tmp_path, python, "-c", code).split() == [str(clone / "distsynth" / "__init__.py"), "True"]


@pytest.mark.full
def test_everything_is_imported_from_the_wheel(installed: Path, folder: Path) -> None:
    code = "import distsynth.run_directory as r, preprocess, slurm; print(r.__file__, r.CONFIGS, preprocess.__file__, slurm.__file__)"
    for path in call(folder, installed, "-c", code).split():
        assert Path(path).is_relative_to(installed.parents[1] / "lib"), path


@pytest.mark.full
@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_the_help_of_every_command(installed: Path, folder: Path, script: str) -> None:
    text = call(folder, installed.with_name(script), "--help")
    assert text
    assert call(folder, installed, "-m", SCRIPTS[script].partition(":")[0], "--help") == text


@pytest.mark.full
def test_a_training(trained: Path) -> None:
    identity = json.loads((trained / "run.json").read_text())
    assert identity["code"] == run_directory.code_digest()
    assert identity["commit"] == ""  # although the environment lies inside a repository
    assert (trained / "evaluation" / "scores.json").is_file()


@pytest.mark.full
def test_the_launcher(installed: Path, folder: Path, store: Path) -> None:
    plan = call(
        folder,
        installed,
        "-m",
        "slurm.launch",
        "sweep=lr",
        "dry_run=true",
        f"data.store={store}",
        "cluster=local",
        "cluster.ranks=1",
    )
    assert plan.startswith("sweep lr: 12 runs")


@pytest.mark.full
def test_an_exported_model_makes_the_same_image_where_there_is_no_run(
    installed: Path, trained: Path, folder: Path, phantoms: Path, tmp_path: Path
) -> None:
    """Exported here, copied into an empty folder, used by the wheel: the image that this checkout makes from the run."""
    assert export.main([f"run={trained}", f"out={tmp_path / 'model.zip'}"]) == 0
    shutil.copy(tmp_path / "model.zip", folder)
    trained.rename(trained.with_name("hidden"))
    case = sorted(phantoms.rglob("*_t1.nii.gz"))[0].parent
    call(folder, installed.with_name("distsynth-synthesise"), "-i", case, "-o", "made", "run=model.zip", "outputs=all")
    trained.with_name("hidden").rename(trained)
    assert synthesise.main([f"source={case}", f"out={tmp_path / 'here'}", f"run={trained}", "outputs=all"]) == 0
    made, here = (sorted(place.glob("*.nii.gz")) for place in (folder / "made", tmp_path / "here"))
    assert [path.name for path in made] == [path.name for path in here] != []
    assert [path.read_bytes() for path in made] == [path.read_bytes() for path in here]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source archive of this checkout, and the wheel built from that archive."""
    folder = tmp_path_factory.mktemp("built")
    for name in (*STOREYS, "configs"):  # a copy, since a build writes into the checkout
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PROJECT / name, folder / "checkout" / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, folder / "checkout")
    call(folder, sys.executable, "-m", "build", "--outdir", folder, folder / "checkout")
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The Python of an environment that holds the wheel and its dependencies; the environment lies inside somebody's git repository."""
    paper = a_repository(tmp_path_factory.mktemp("paper"))
    call(paper, sys.executable, "-m", "venv", paper / ".venv")
    python = paper / ".venv" / "bin" / "python"
    call(paper, python, "-m", "pip", "install", "--quiet", "--no-compile", "-c", PROJECT / "constraints.txt", wheel_in(built))
    yield python
    shutil.rmtree(paper / ".venv")  # 2 GB, which pytest would keep


@pytest.fixture(scope="module")
def trained(installed: Path, store: Path, tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that the wheel has trained."""
    folder = tmp_path_factory.mktemp("elsewhere")
    call(folder, installed.with_name("distsynth-train"), "run=mine", f"data.store={store}", "variant=siso", *tiny)
    return folder / "mine"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty working directory."""
    place = tmp_path / "empty"
    place.mkdir()
    return place


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return a_repository(tmp_path / "repository")


def a_repository(folder: Path) -> Path:
    """A git repository with one commit."""
    folder.mkdir(exist_ok=True)
    git(folder, "init", "-q")
    git(folder, "-c", "user.name=nobody", "-c", "user.email=nobody@example.com", "commit", "-q", "--allow-empty", "-m", "A paper")
    return folder


def git(folder: Path, *words: str) -> str:
    return call(folder, "git", *words).strip()


def wheel_in(built: Path) -> Path:
    return next(built.glob("*.whl"))


def call(folder: Path, *command: str | Path) -> str:
    """What a command prints, called in a folder and without a path to the checkout."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*map(str, command)], cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

"""The pages: the README is short, links and paths are right, and every command is run, here or by a test that a note names, or a note says why not.

Commands without a note (see documents.py) are run in the order of their page, in a folder of their own with a cohort of ten phantoms on a 5 mm grid.
Three things differ from the page: SMALLER settings are appended, a small preset replaces the published size, and the launcher only plans its runs
(`dry_run=true`; tests/slurm/test_launch.py trains sweeps).
"""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from documents import PROGRAMS, ROOT, Page, defined, named_tests, pages
from omegaconf import OmegaConf

from preprocess import to_zarr
from preprocess.cohort import Cohort

Runner = Callable[..., subprocess.CompletedProcess[str]]
PAGES = pages()
README = Page(ROOT / "README.md")
FEW = ["train.epochs=1", "train.steps_per_epoch=1", "evaluate.baselines=false", "evaluate.figures=0"]
BENCH = ["voxel=5", "subjects=1"]
SMALLER = {
    "preprocess.phantom": ["spacing=5", "subjects=1", "workers=1"],
    "preprocess.to_zarr": ["recipe.n4.iterations=[5]", "workers=1"],
    "preprocess.explore": ["subjects=2"],
    "preprocess.bench subjects": BENCH,
    "preprocess.bench chunks": [*BENCH, "repeats=1"],
    "preprocess.bench n4": [
        *BENCH,
        "full_resolution=false",
        "spacings=[8]",
        "levels=[1]",
        "tolerances=[1e-3]",
        "control_points=[4]",
    ],
    "distsynth.evaluate": ["evaluate.baselines=false", "evaluate.figures=0"],
    "distsynth.synthesise": ["outputs=all"],
    "slurm.launch": ["dry_run=true"],
}
for_each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def test_the_readme_fits_into_ten_kilobytes() -> None:
    assert len(README.path.read_bytes()) <= 10_240


@for_each_page
def test_links_and_paths_are_right(page: Page) -> None:
    for link in page.links:
        path, _, anchor = link.partition("#")
        target = page.path.parent / path if path else page.path
        assert target.exists(), link
        assert not anchor or anchor in Page(target).anchors, link
    for path in page.paths:
        assert (ROOT / path).exists(), path


@for_each_page
def test_every_command_can_be_checked(page: Page) -> None:
    """Each is in a block of commands, and a note above that gives a reason or names tests that exist."""
    for block in page.blocks:
        if block.language != "sh":
            assert not block.note
            assert not PROGRAMS.search(block.body), "mark blocks of commands with ```sh"
        elif block.note.startswith("run by "):
            assert named_tests(block.note)
            for file, test in named_tests(block.note):
                assert defined(file, test), f"there is no {file}::{test}"
        elif block.note:
            assert re.match(r"not run: \w", block.note), block.note


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_modules_and_targets_that_are_named_exist(page: Page) -> None:
    """Those of the commands that are not run here too, and in running text; the changelog names what is gone."""
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    for module in re.findall(r"python3? -m ([\w.]+\w)", page.text):
        assert module == "venv" or find_spec(module), module
    for target in re.findall(r"(?:^|`)make ([\w-]+)", page.text, re.M):
        assert target in targets, f"make {target}"


UNQUOTED = re.compile(r"""(?<![\w.'"\[])[a-z_][\w.]*=[\[{][\w.]""")  # zsh takes the bracket for a pattern of file names


def advised(path: Path) -> list[str]:
    """The texts of a file that a reader may copy a setting from: of a module its strings, docstrings included."""
    text = path.read_text()
    if path.suffix != ".py":
        return [text]
    return [node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def test_brackets_are_quoted_wherever_a_setting_is_advised() -> None:
    files = [page.path for page in PAGES if page.name != "CHANGELOG.md"]
    files += [path for top in ("configs", "preprocess", "distsynth", "slurm") for path in (ROOT / top).rglob("*.py")]
    files += (ROOT / "configs").rglob("*.yaml")
    assert [(path.name, found[0]) for path in files for text in advised(path) for found in UNQUOTED.finditer(text)] == []


# -- the commands ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    """A module of ours and its words."""

    module: str
    words: list[str]
    torchrun: bool = False

    @classmethod
    def of(cls, words: list[str]) -> "Command":
        if words[0] == "torchrun":
            at = words.index("-m")
            return cls(words[at + 1], words[at + 2 :], torchrun=True)
        if words[:2] == ["python", "slurm/launch.py"]:
            return cls("slurm.launch", words[2:])
        assert words[:2] == ["python", "-m"], f"no test knows how to run {words[0]}: explain in a note above its block"
        return cls(words[2], words[3:])

    def smaller(self, phantoms: Path, subject: str) -> "Command":
        """With our cases for the reader's folder, our subject for NAME, small presets, and what SMALLER has for the module."""
        words = [small(re.sub(r"=/data/.*", f"={phantoms}", word).replace("=NAME", f"={subject}")) for word in self.words]
        if self.module == "distsynth.train" and len(words) > 1:  # a run that is resumed has its settings
            words = ["method=tcmgan_small", *words, *FEW]
        return replace(self, words=[*words, *SMALLER.get(self.module, SMALLER.get(f"{self.module} {words[0]}", []))])

    def carry_out(self, run: Runner) -> None:
        """Through the command's `main` in this process, which spares the imports; torchrun in processes of its own, with two ranks."""
        if self.torchrun:
            done = run("torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", self.module, *self.words)
            assert done.returncode == 0, done.stderr
            return
        spec = find_spec(self.module)
        assert spec is not None, self.module
        main = import_module(f"{self.module}.__main__" if spec.submodule_search_locations else self.module).main
        assert main(self.words) == 0


def small(word: str) -> str:
    """`method=NAME` as `method=NAME_small`."""
    is_published = (ROOT / "configs" / f"{word.replace('=', '/')}_small.yaml").is_file()
    return f"{word}_small" if is_published else word


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=[] if p.name == "README.md" else [pytest.mark.full], id=p.name) for p in PAGES if p.commands],
)
def test_the_commands_of_a_page_run(
    page: Page, phantoms: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Runner
) -> None:
    monkeypatch.chdir(tmp_path)
    subject = next(iter(Cohort.open(store).records))
    np.save("made.npy", np.zeros(Cohort.open(store).image(subject).shape[1:], np.float32))
    for name in ("brats", "phantom", "clinic", "real"):
        if not any(f"store=data/{name}.zarr" in words for words in page.commands):  # else the page makes it
            shutil.copytree(store, tmp_path / "data" / f"{name}.zarr")
    if any("data.store=data/folds.zarr" in words for words in page.commands):
        shutil.copytree(store, tmp_path / "data" / "folds.zarr")
        again = [f"source={phantoms}", "store=data/folds.zarr", "recipe.n4.iterations=[5]", "split.folds=5"]
        assert to_zarr.main(again) == 0
    for words in page.commands:
        print("$", *words)  # where one fails, pytest shows which
        Command.of(words).smaller(phantoms, subject).carry_out(run)


def test_the_readmes_method_runs_as_printed(store: Path, tmp_path: Path) -> None:
    """In a copy of the packages, where its two files are all that is added."""
    for top in ("configs", "distsynth", "preprocess"):
        shutil.copytree(ROOT / top, tmp_path / top, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    assert [Path(name).parent.as_posix() for name in README.files] == ["distsynth/methods", "configs/method"]
    for name, content in README.files.items():
        (tmp_path / name).write_text(content)
    words = ["method=tiny", "variant=mimo", f"data.store={store}", "run=run", "train.steps_per_epoch=2", "evaluate.figures=0"]
    done = subprocess.run(
        [sys.executable, "-m", "distsynth.train", *words],
        cwd=tmp_path,
        env={"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "regression epoch 4/4: l1" in done.stdout + done.stderr
    assert (tmp_path / "run" / "evaluation" / "scores.json").is_file()


def test_the_citation_is_of_this_version() -> None:
    cited = OmegaConf.to_container(OmegaConf.load(ROOT / "CITATION.cff"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert isinstance(cited, dict)
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()
    assert (cited["version"], cited["license"]) == (project["version"], project["license"])

"""The pages: the README is short, links and paths lead somewhere, and every command runs, here or in a test that is named, or says why not.

Commands without a note (see documents.py) are run in the order of their page, in a folder of its own with a cohort of ten phantoms on a 5 mm grid.
They are those of the page but for these: SMALLER settings are appended, a method's small preset is taken in place of the published size, and the
launcher plans its runs without training them (`dry_run=true`; tests/slurm/test_launch.py trains sweeps).
"""

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from documents import PROGRAMS, ROOT, Page, defined, named_tests, pages
from omegaconf import OmegaConf

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
    "distsynth.train": FEW,
    "distsynth.evaluate": ["evaluate.baselines=false", "evaluate.figures=0"],
    "slurm.launch": ["dry_run=true"],
}
for_each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def test_the_readme_fits_into_ten_kilobytes() -> None:
    assert len(README.path.read_bytes()) <= 10_240


@for_each_page
def test_links_and_paths_lead_somewhere(page: Page) -> None:
    for link in page.links:
        path, _, anchor = link.partition("#")
        target = page.path.parent / path if path else page.path
        assert target.exists(), link
        assert not anchor or anchor in Page(target).anchors, link
    for path in page.paths:
        assert (ROOT / path).exists(), path


@for_each_page
def test_every_command_can_be_checked(page: Page) -> None:
    """It stands in a block of commands; a note on it gives a reason, or names tests that there are."""
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


# -- the commands ----------------------------------------------------------------------------------------------------------


def smaller(words: list[str], phantoms: Path, subject: str) -> list[str]:
    """The command as it is run here: our folder of cases for the reader's, our subject, small presets, and what SMALLER appends."""
    words = [re.sub(r"=/data/.*", f"={phantoms}", word).replace("=NAME", f"={subject}") for word in words]
    words = [f"{word}_small" if (ROOT / "configs" / f"{word.replace('=', '/')}_small.yaml").is_file() else word for word in words]
    module = "slurm.launch" if words[1] == "slurm/launch.py" else words[words.index("-m") + 1]
    resumed = module == "distsynth.train" and words[-1].startswith("run=") and words[-2] == module
    named = " ".join([module, *words[words.index("-m") + 2 : words.index("-m") + 3]]) if "-m" in words else module
    given = SMALLER.get(module, SMALLER.get(named, []))
    if module == "distsynth.train" and not any(word.startswith("method=") for word in words):
        given = ["method=tcmgan_small", *given]
    return words if resumed else [*words, *given]


def carry_out(words: list[str], run: Runner) -> None:
    """Through the command's `main` in this process, which spares the imports; torchrun as it is, with two ranks."""
    if words[0] == "torchrun":
        done = run("torch.distributed.run", "--standalone", "--nproc-per-node=2", *words[2:])
        assert done.returncode == 0, done.stderr
        return
    assert words[0] == "python", f"no test knows how to run {words[0]}: say so in a note"
    module, rest = ("slurm.launch", words[2:]) if words[1] == "slurm/launch.py" else (words[2], words[3:])
    spec = find_spec(module)
    assert spec is not None, module
    main = import_module(f"{module}.__main__" if spec.submodule_search_locations else module).main
    assert main(rest) == 0


@pytest.mark.parametrize(
    "page", [p for p in PAGES if any(b.language == "sh" and not b.note for b in p.blocks)], ids=lambda p: p.name
)
def test_the_commands_of_a_page_run(
    page: Page, phantoms: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Runner
) -> None:
    monkeypatch.chdir(tmp_path)
    subject = next(iter(Cohort.open(store).records))
    np.save("made.npy", np.zeros(Cohort.open(store).image(subject).shape[1:], np.float32))
    commands = [words for block in page.blocks if block.language == "sh" and not block.note for words in block.commands]
    for name in ("brats", "phantom", "clinic"):
        if not any(f"store=data/{name}.zarr" in words for words in commands):  # else the page makes it
            shutil.copytree(store, tmp_path / "data" / f"{name}.zarr")
    for words in commands:
        print("$", *words)  # pytest shows the last of these where one fails
        carry_out(smaller(words, phantoms, subject), run)


def test_the_readmes_method_runs_as_printed(store: Path, tmp_path: Path) -> None:
    """In a copy of the packages, where its two files are all that is added."""
    for top in ("configs", "distsynth", "preprocess"):
        shutil.copytree(ROOT / top, tmp_path / top, ignore=shutil.ignore_patterns("__pycache__"))
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

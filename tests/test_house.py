"""The house is as the README's map draws it: imports run down its floors, from storey to storey and inside each, and no files import in a circle."""

from __future__ import annotations

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
STOREYS = ("slurm", "distsynth", "preprocess")  # top first


def drawn_map() -> dict[str, list[list[str]]]:
    """Each storey's floors, top first, as the README draws them: a floor is a line of names, indented, two spaces before what it says of them."""
    text = (PROJECT / "README.md").read_text()
    block = next(block for block in re.findall(r"^```\w*\n(.*?)^```", text, re.S | re.M) if block.startswith("slurm/"))
    floors: dict[str, list[list[str]]] = {}
    storey = ""
    for line in block.splitlines():
        if line.startswith("  "):
            names = re.split(r"\s{2,}", line.strip())[0].split()
            floors[storey].append(names)
        else:
            storey = line.split("/")[0]
            floors[storey] = []
    return floors


def modules() -> dict[str, Path]:
    """Every module of the project by its dotted name."""
    found = {}
    for storey in STOREYS:
        for path in sorted((PROJECT / storey).rglob("*.py")):
            name = ".".join(path.relative_to(PROJECT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imported(name: str) -> Iterator[str]:
    """The project's modules that a module imports anywhere in its file, for types too."""
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        match node:
            case ast.Import(names):
                wanted = [alias.name for alias in names]
            case ast.ImportFrom(str(module), names, 0):
                wanted = [f"{module}.{a.name}" if f"{module}.{a.name}" in MODULES else module for a in names]
            case _:
                continue
        yield from (other for other in wanted if other in MODULES and other != name)


def room(name: str) -> tuple[str, str]:
    """Storey and room of a module: a folder, or a file at the storey's top."""
    storey, _, rest = name.partition(".")
    return storey, rest.split(".")[0]


def test_every_room_is_on_the_map_and_the_map_shows_no_other() -> None:
    drawn = {(storey, name) for storey, floors in drawn_map().items() for floor in floors for name in floor}
    assert drawn == {room(name) for name in MODULES if room(name)[1]}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_run_down(name: str) -> None:
    floors = drawn_map()
    height = {(s, n): (STOREYS.index(s), level) for s in floors for level, floor in enumerate(floors[s]) for n in floor}
    height |= {(s, ""): (STOREYS.index(s), 99) for s in STOREYS}  # a storey's own __init__
    for other in imported(name):
        assert room(other) == room(name) or height[room(other)] > height[room(name)], (
            f"{name} imports {other}, which is not below it"
        )


def test_no_files_import_in_a_circle() -> None:
    graphlib.TopologicalSorter({name: set(imported(name)) for name in MODULES}).prepare()  # raises CycleError naming them

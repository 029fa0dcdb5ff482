"""The project's pages taken apart: their fenced blocks, the commands in these, and the links and paths in the text.

Commands stand in blocks marked ```sh. The line before such a block may be a note that a reader of the page does not see:

    <!-- not run: REASON -->
    <!-- run by test_x.py::test_name, test_y.py::test_other -->     another test does what the commands do

Blocks without a note are run by test_documents.py.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
TOPS = ("configs", "distsynth", "preprocess", "slurm", "tests")
BLOCK = re.compile(r"(?:^<!-- (?P<note>[^\n]+) -->\n)?^```(?P<language>\w*)\n(?P<body>.*?)^```$", re.M | re.S)
PROGRAMS = re.compile(r"^(python3?|torchrun|make|pip|mlflow|git|sbatch|source|\.) ", re.M)


@dataclass(frozen=True)
class Block:
    """A fenced block; `note` is the comment on the line before it."""

    note: str
    language: str
    body: str

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command, without comments; lines that end in a backslash are joined."""
        lines = self.body.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


@dataclass(frozen=True)
class Page:
    path: Path

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @property
    def blocks(self) -> list[Block]:
        return [Block(found["note"] or "", found["language"], found["body"]) for found in BLOCK.finditer(self.text)]

    @property
    def commands(self) -> list[list[str]]:
        """Those of all blocks of commands without a note."""
        return [words for block in self.blocks if block.language == "sh" and not block.note for words in block.commands]

    @property
    def prose(self) -> str:
        """The text without its blocks."""
        return BLOCK.sub("", self.text)

    @property
    def files(self) -> dict[str, str]:
        """Files that the page prints whole: a path in backquotes and a colon, and then the block with the content."""
        return {found[1]: found[2] for found in re.finditer(r"^`([\w./]+)`:\n\n```\w+\n(.*?)^```$", self.text, re.M | re.S)}

    @property
    def links(self) -> list[str]:
        """Where the links and pictures lead, web addresses left out."""
        return [target for target in re.findall(r"\]\(([^)\s]+)\)", self.prose) if not re.match(r"\w+:", target)]

    @property
    def paths(self) -> Iterator[str]:
        """Paths of the checkout in backquotes; NAME stands for any."""
        for quoted in re.findall(r"`([^`\s]+)`", self.prose):
            if quoted.split("/")[0] in TOPS and "/" in quoted and "NAME" not in quoted and quoted not in self.files:
                yield quoted.partition("::")[0]

    @property
    def anchors(self) -> set[str]:
        """What a link to a heading may name, as GitHub makes it from the heading."""
        headings = re.findall(r"^#+ (.+)$", self.prose, re.M)
        return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def pages() -> list[Page]:
    """Every page of the checkout."""
    inner = (path for top in TOPS for path in (ROOT / top).rglob("*.md"))
    return [Page(path) for path in sorted([*ROOT.glob("*.md"), *inner])]


def named_tests(note: str) -> list[tuple[str, str]]:
    """The (file, test) pairs of a note `run by FILE::TEST, …`."""
    return re.findall(r"([\w/]+\.py)::(\w+)", note)


def defined(file: str, test: str) -> bool:
    """Whether a test file of that name, in whatever folder, has the test."""
    found = [path for path in (ROOT / "tests").rglob(Path(file).name) if path.as_posix().endswith(file)]
    return any(re.search(rf"^def {test}\(", path.read_text(), re.M) for path in found)

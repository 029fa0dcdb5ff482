"""A run's directory: everything about one training, self-contained; it can be moved.

run.json        uid, name, sweep, code digest, git commit
config.yaml     the resolved configuration
journal.jsonl   what happened (see distsynth.tracking.journal)
checkpoints/    see distsynth.training.checkpoint
evaluation/     scores.json and whose they are, made_of.json; VARIANT/ with both for other variants; until scores.json is written also
                finished-RANK.jsonl, the patients already scored (see distsynth.evaluation.finished)
figures/        a PNG per held-out patient, and VARIANT/ for other variants
profile/        the trace written with train.profile
job.json        the job that the launcher last submitted for the run; its output is in the sweep's folder logs/
"""

from __future__ import annotations

import difflib
import hashlib
import json
import subprocess
import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any

from preprocess.shared.errors import SettingError, UserError
from preprocess.shared.files import write_json
from preprocess.shared.locks import only_one

PROJECT = Path(__file__).parent.parent  # a checkout, or the site-packages that a wheel was installed into
CONFIGS = Path(__file__).parent / "configs"  # in a checkout a link to the folder at its top


class RunDirectory:
    """The paths of one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self.config = self.path / "config.yaml"
        self.identity = self.path / "run.json"
        self.journal = self.path / "journal.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.evaluation = self.path / "evaluation"
        self.scores = self.evaluation / "scores.json"
        self.figures = self.path / "figures"
        self.profile = self.path / "profile"
        self.job = self.path / "job.json"

    def beside(self, variant: str) -> RunDirectory:
        """The same run, with separate folders for the scores and figures of another variant."""
        other = RunDirectory(self.path)
        other.evaluation, other.figures = self.evaluation / variant, self.figures / variant
        other.scores = other.evaluation / "scores.json"
        return other

    def create(self, name: str, sweep: str) -> None:
        """Create the directory and run.json; an existing run.json is kept."""
        if self.identity.is_file():
            return
        write_json(
            self.identity, {"uid": uuid.uuid4().hex, "name": name, "sweep": sweep, "code": code_digest(), "commit": git_commit()}
        )

    def lock(self) -> AbstractContextManager[None]:
        """Hold the run's lock while training it. Raises StoreError if another process holds it."""
        return only_one(
            self.path / ".lock", f"run={self.path} is being trained by another process: wait for it, or set another run="
        )

    def read_identity(self) -> dict[str, Any]:
        """The content of run.json. Raises UserError if this is not a run directory, naming a similar one."""
        if not self.identity.is_file():
            what = "is not a run directory, it has no run.json" if self.path.exists() else "does not exist"
            raise UserError(f"run={shown(self.path)} {what}: {similar(self.path) or 'give the folder of a run'}")
        try:
            identity: dict[str, Any] = json.loads(self.identity.read_text())
            return {**identity, "uid": identity["uid"]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.identity} is damaged: restore it, or use another run") from error


def run_of(words: Sequence[str]) -> tuple[str, list[str]]:
    """The value of `run=`, or a bare path, empty if it is not among the words; and the other words. Raises SettingError if it is empty or given
    twice."""
    from preprocess.shared.words import positional, refuse_misspelt  # which loads omegaconf: the wheel is built without it

    refuse_misspelt(words)
    words = positional(words, "run")
    given = [word.partition("=")[2] for word in words if word.startswith("run=")]
    if len(given) > 1:
        raise SettingError(f"run={given[0]} and run={given[1]} are both given: give the run directory once")
    if given == [""]:
        raise SettingError("run= is empty: give the run's folder, for example run=runs/first")
    return "".join(given), [word for word in words if not word.startswith("run=")]


def is_sweep(path: Path) -> bool:
    """Whether a folder holds a sweep's runs."""
    return path.is_dir() and not (path / "run.json").is_file() and any(path.glob("*/run.json"))


def similar(path: Path, key: str = "run=") -> str:
    """`did you mean run=…?` for a path that is no run: one of the runs in it, or near it the one with the most similar name; or nothing."""
    if is_sweep(path):
        return f"give one of its runs, for example {key}{shown(min(path.glob('*/run.json')).parent)}"
    folder = path.parent if path.parent.is_dir() else path.parent.parent
    runs = {
        str(each.parent.relative_to(folder))
        for pattern in ("*/run.json", "*/*/run.json", "*/*/*/run.json")
        for each in folder.glob(pattern)
    }
    runs |= {name.rpartition("/")[0] for name in runs} - {""}  # the sweeps
    near = [name for name in sorted(runs) if Path(name).name == path.name]
    near = near or difflib.get_close_matches(str(path.relative_to(folder)), sorted(runs), n=1)
    return f"did you mean {key}{shown(folder / near[0])}?" if near else ""


def shown(path: Path) -> str:
    """The path as one would type it: relative where it is below the current folder."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


@cache
def code_digest() -> str:
    """sha256 over the project's Python files and configs: identifies the code that a run was started with.

    A wheel has the digest of the checkout that it was built from.
    """
    digest = hashlib.sha256()
    code = [path for storey in ("distsynth", "preprocess", "slurm") for path in (PROJECT / storey).rglob("*.py")]
    files = {path.relative_to(PROJECT): path for path in code}
    files |= {"configs" / path.relative_to(CONFIGS): path for path in CONFIGS.rglob("*.yaml")}
    for name in sorted(files):
        digest.update(str(name).encode() + b"\0" + files[name].read_bytes() + b"\0")
    return digest.hexdigest()


@cache
def git_commit() -> str:
    """The checkout's commit, followed by `+` if files differ from it; empty where the project is not a checkout."""
    if not (PROJECT / ".git").exists():  # a wheel's site-packages may be inside a repository of the user's
        return ""
    command = ["git", "-C", str(PROJECT), "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""

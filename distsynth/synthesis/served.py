"""Answers requests of a server: each names a patient's files, and gets the paths of the images that were written.

Only files below one folder are read and written: that in which the server was started, or DISTSYNTH_SERVE_ROOT.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distsynth.synthesis.cases import named
from distsynth.synthesis.models import Models
from distsynth.synthesis.naming import Naming
from distsynth.synthesis.outcome import Options, Outcome
from distsynth.synthesis.session import Session
from preprocess.shared.errors import SettingError, UserError
from preprocess.source.layouts import MODALITIES

ROOT = "DISTSYNTH_SERVE_ROOT"
KINDS = (*MODALITIES, "mask")
REQUEST = (*KINDS, "out", "outputs", "name")  # what a request may name; all are text, only out must be there


class Server:
    """A model that answers requests."""

    def __init__(self, model: str, device: str = "auto", root: Path | None = None) -> None:
        """`model` is an exported model. Raises SettingError or StoreError if it cannot be used."""
        self.root = (root or Path(os.environ.get(ROOT) or Path.cwd())).resolve()
        self.models = Models.open(model, device)

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """What became of the request's patient, as report.json has it: patient, status, outputs (contrast: path), why, notes."""
        given = {key: value for key in REQUEST if isinstance(value := request.get(key), str) and value}
        try:
            return asdict(self.made(given))
        except UserError as error:
            why = str(error)
        except UnicodeError:
            why = "the request holds a path that is no text: give another one"
        except OSError as error:
            why = f"cannot write to out={given.get('out')}: {error.strerror}"
        return asdict(Outcome(given.get("name", ""), "set aside", why=why))

    def made(self, given: Mapping[str, str]) -> Outcome:
        """Raises UserError if the request cannot be understood or names a file elsewhere, OSError if the images cannot be written."""
        files = {kind: self.inside(kind, given[kind]) for kind in KINDS if kind in given}
        if not files or "out" not in given:
            raise SettingError(f"a request names a patient's files ({', '.join(KINDS)}) and out, the folder to write to")
        naming = Naming(self.inside("out", given["out"]), "brats2018", "synth")
        wanted = given.get("outputs", "missing")
        outputs = wanted if wanted in ("missing", "all") else wanted.split(",")
        if unknown := [output for output in outputs if output not in self.models.outputs] if isinstance(outputs, list) else []:
            raise SettingError(f"outputs={unknown[0]}: the model makes {', '.join(self.models.outputs)}")
        case = named(files, given.get("name", ""))
        return Session(self.models, naming, next(iter(files.values())).parent, Options(outputs, continued=True)).one(case)

    def inside(self, key: str, given: str) -> Path:
        """A path below the server's folder. Raises SettingError for any other."""
        path = Path(os.path.realpath(self.root / given)) if "\0" not in given else Path("/")
        if not path.is_relative_to(self.root):
            raise SettingError(f"{key}={given!r} is not below the folder that this server may use: give a path in it")
        return path

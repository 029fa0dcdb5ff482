"""The JSON beside each synthesised image: what it is, what made it, of what, and how far it can be trusted."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from distsynth.synthesis.synthesiser import Made, Synthesiser
from preprocess.cohort.files import file_digest, json_digest
from preprocess.shared.files import read_bytes

NOTICE = "Synthesised by a neural network. For research use only. It can miss or invent lesions: do not use it for diagnosis."
LIBRARIES = ("distsynth", "torch", "numpy", "scipy", "SimpleITK", "nibabel")


def request(synthesiser: Synthesiser, files: Mapping[str, str], options: Mapping[str, Any]) -> str:
    """Identifies what an output is made of: the model, the scans' sha256 by kind, and the options of the call that change it."""
    return json_digest([synthesiser.digest, dict(files), dict(options)])


def sidecar(synthesiser: Synthesiser, output: str, made: Made, details: Mapping[str, Any]) -> dict[str, Any]:
    """The content of an output's JSON; `details` are the call's."""
    config = synthesiser.config
    model = {
        "Run": synthesiser.name,
        "Digest": synthesiser.digest,
        "Method": config.method.name,
        "Trained": config.variant.title,
        "TrainingVoxel": {"mm": synthesiser.trained_on.spacing[::-1], "axes": "x, y, z"},
        "Recipe": synthesiser.recipe.stored(),
        "Clip": config.data.clip,
    }
    evaluated = output in synthesiser.card and made.inputs == config.variant.inputs
    card = {"computed": synthesiser.card["computed"], **synthesiser.card[output]} if evaluated else None
    return {
        "Synthetic": True,
        "Notice": NOTICE,
        "Contrast": output,
        "SynthesisedFrom": made.inputs,
        **details,
        "Units": {**made.units, "Unit": "arbitrary"},
        "Model": model,
        "MetricCard": card or f"the model was not evaluated on {output} from {' and '.join(made.inputs)}",
        "GeneratedBy": [{"Name": "distsynth", "Version": version("distsynth")}],
        "Versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
    }


def is_done(image: Path, sidecar_path: Path, wanted: str) -> bool:
    """Whether an image is complete and was made by this very request."""
    try:
        written = json.loads(read_bytes(sidecar_path))
        return bool(written["Request"] == wanted and written["Image"] == {"sha256": file_digest(image)})
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def read_sidecar(path: Path) -> dict[str, Any] | None:
    """What is written there: nothing if there is no file, None if it is not one of these sidecars."""
    try:
        written = json.loads(read_bytes(path))
        return written if isinstance(written, dict) and written.get("Synthetic") is True else None
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError):
        return None

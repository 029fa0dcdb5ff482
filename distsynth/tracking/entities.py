"""What a journal's lines and a run's settings are in MLflow."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from distsynth.run_directory import RunDirectory
from distsynth.tracking.journal import Line
from preprocess.shared.errors import UserError
from preprocess.shared.settings import flatten


def metrics(lines: Sequence[Line]) -> Iterator[Any]:
    """MLflow metrics, with the journal's times."""
    from mlflow.entities import Metric

    for line in lines:
        if line["kind"] == "metrics":
            yield from (Metric(allowed(name), value, line["time"], line["step"]) for name, value in line["values"].items())


def parameters(run: RunDirectory) -> list[Any]:
    """The run's resolved configuration as MLflow parameters with dotted keys. Raises UserError if it cannot be read."""
    from mlflow.entities import Param
    from omegaconf import OmegaConf

    try:
        tree: Any = OmegaConf.to_container(OmegaConf.load(run.config))
        flat = dict(flatten(tree))
    except Exception as error:
        raise UserError(f"{run.config} does not hold settings: restore it") from error
    texts = {allowed(key): ",".join(map(str, value)) if isinstance(value, list) else str(value) for key, value in flat.items()}
    return [Param(key, value) for key, value in sorted(texts.items())]


def allowed(name: str) -> str:
    """A name as MLflow takes it: an external cohort may be called what it refuses."""
    return re.sub(r"[^/\w.\- :]", "_", name)[:250]


def in_batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]

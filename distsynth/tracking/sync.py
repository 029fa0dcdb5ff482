"""Replay journals into MLflow; nothing else connects to it.

    python -m distsynth.tracking.sync runs/lr [tracking_uri=…]       a sweep
    python -m distsynth.tracking.sync runs/first                     a run that distsynth.train has made

A sweep is a parent run and each of its runs is a child; a run outside any sweep has no parent. They are identified by a uid tag, so a replay may
be killed, repeated, or sent to an empty database. Only lines that a checkpoint or an end follows are sent, and of each curve only the steps after
its last one in MLflow: a run that resumes from a checkpoint writes some steps a second time, with other times, and MLflow would keep both as
separate points.
The store is MLFLOW_TRACKING_URI, or else SQLite in mlflow.db beside the sweeps and lone runs.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from distsynth.run_directory import RunDirectory, shown, similar
from distsynth.tracking.journal import Line, covered, read
from preprocess.shared.errors import SettingError, UserError
from preprocess.shared.settings import command, flatten, parse, setting

EXPERIMENT = "distsynth"
UID = "distsynth.uid"
STATUS = {"finished": "FINISHED", "failed": "FAILED"}


@dataclass
class Settings:
    POSITIONAL: ClassVar = ("run",)
    run: str = setting("", "a run's folder, e.g. runs/first, or a sweep's; its path alone is enough")
    sweep: str = setting("", "the sweep's folder, e.g. runs/lr")
    tracking_uri: str = setting("", "MLflow's store (empty: MLFLOW_TRACKING_URI, or else mlflow.db beside the sweep or run)")

    def __post_init__(self) -> None:
        if bool(self.run) == bool(self.sweep):
            raise SettingError("give the folder of a run or of a sweep, for example run=runs/first or sweep=runs/lr")


def main(words: Sequence[str]) -> int:
    settings = parse(Settings, words)
    sync = Sync(place_of(settings), settings.tracking_uri)
    sync.finish()
    print("\n".join(ui_lines(sync)))
    return 0


def place_of(settings: Settings) -> Path:
    """The sweep's or the run's folder. Raises UserError if it is neither, naming a similar one."""
    place = Path(settings.run or settings.sweep).absolute()
    if not place.is_dir():
        key = "run=" if settings.run else "sweep="
        raise UserError(f"{key}{shown(place)} does not exist: {similar(place, key) or 'give the folder of a run or of a sweep'}")
    if settings.run and not (place / "sweep.json").is_file():
        RunDirectory(place).read_identity()
    return place


class Sync:
    """Sends one sweep, or one run outside any, to MLflow. Remembers how much of each curve is sent, so that replaying again sends only new points."""

    def __init__(self, folder: Path, tracking_uri: str = "") -> None:
        """Of a sweep's folder; of a run's, with all its sweep if it is in one. Raises UserError if it is neither or the store cannot be opened."""
        self.sweep = folder.parent if (folder / "run.json").is_file() else folder
        in_sweep = (self.sweep / "sweep.json").is_file()
        if not in_sweep and self.sweep == folder:
            raise UserError(f"sweep={folder} is not a sweep, it has no sweep.json: give the folder of one, for example runs/lr")
        self.lone = None if in_sweep else RunDirectory(folder)
        self.top = self.sweep.parent if in_sweep or self.sweep.name == "alone" else self.sweep
        self.uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.top / 'mlflow.db'}"
        self.client = connect(self.uri)
        self.experiment = self.open_experiment()
        self.parent = self.open_parent() if in_sweep else ""
        self.runs: dict[Path, str] = {}
        self.replayed: dict[Path, Line] = {}  # the last line that was replayed
        self.sent: dict[tuple[str, str], tuple[int, float]] = {}  # MLflow run and curve: step and value of its last point

    def replay(self) -> None:
        """Send what is new in the journals. Raises UserError if MLflow fails; the next call sends the rest."""
        with mlflow_errors(self.uri):
            for run in (
                [self.lone] if self.lone else [RunDirectory(path.parent) for path in sorted(self.sweep.glob("*/run.json"))]
            ):
                self.replay_run(run)

    def finish(self) -> None:
        """Send everything, including artifacts, the parent's table and its final status. Raises UserError if MLflow fails."""
        self.replay()
        if not self.parent:
            return
        with mlflow_errors(self.uri):
            self.finish_parent()

    def finish_parent(self) -> None:
        """The parent ends once all its runs have ended, including those that have not started and so have no child in MLflow yet."""
        for name in ("table.md", "table.csv"):
            if (self.sweep / name).is_file():
                self.client.log_artifact(self.parent, str(self.sweep / name))
        if (table := self.sweep / "table.md").is_file():
            self.client.set_tag(self.parent, "mlflow.note.content", table.read_text()[:5000])  # the run's description in the UI
        states = [self.client.get_run(run).info.status for run in self.runs.values()]
        planned = len(list(self.sweep.glob("*/run.json")))
        if planned == sum(state in ("FINISHED", "FAILED") for state in states):
            self.client.set_terminated(self.parent, "FAILED" if "FAILED" in states else "FINISHED")
        else:
            self.client.update_run(self.parent, status="RUNNING")

    def replay_run(self, run: RunDirectory) -> None:
        journal, _ = read(run.journal)
        if not journal:  # the run has not started, and the start time of an MLflow run cannot be changed later
            return
        lines = covered(journal)
        if run.path not in self.runs:
            self.runs[run.path] = self.open_run(run, journal[0]["time"])
        if not lines or lines[-1] == self.replayed.get(run.path):
            return
        mlflow_run = self.runs[run.path]
        self.send(mlflow_run, lines)
        if start := next((line for line in reversed(lines) if line["kind"] == "start"), None):
            for name in ("host", "device", "world_size"):
                self.client.set_tag(mlflow_run, f"distsynth.{name}", str(start[name]))
        self.set_status(mlflow_run, run, lines[-1])
        self.replayed[run.path] = lines[-1]

    def send(self, mlflow_run: str, lines: Sequence[Line]) -> None:
        """Send the points that MLflow does not have; a last point whose value has changed is sent again."""
        points = [p for p in metrics(lines) if self.lacks(mlflow_run, p)]
        for batch in in_batches(points, 1000):
            self.client.log_batch(mlflow_run, metrics=batch)
            self.sent |= {(mlflow_run, p.key): (p.step, p.value) for p in batch}

    def lacks(self, mlflow_run: str, point: Any) -> bool:
        step, value = self.sent.get((mlflow_run, point.key), (-1, None))
        return bool(point.step > step or (point.step == step and point.value != value))

    def set_status(self, mlflow_run: str, run: RunDirectory, last: Line) -> None:
        if last["kind"] == "end" and last["status"] in STATUS:
            for folder in (run.evaluation, run.figures):
                if folder.is_dir():
                    self.client.log_artifacts(mlflow_run, str(folder), folder.name)
            self.client.set_tag(mlflow_run, "distsynth.reason", last["reason"])
            self.client.set_terminated(mlflow_run, STATUS[last["status"]], last["time"])
        elif self.client.get_run(mlflow_run).info.status != "RUNNING":
            self.client.update_run(mlflow_run, status="RUNNING")  # a failed run that was resumed

    def open_run(self, run: RunDirectory, start: int) -> str:
        """The run's id in MLflow; a new run is created with its parameters, tags and start (milliseconds since 1970)."""
        identity = run.read_identity()
        tags = {
            **({"mlflow.parentRunId": self.parent} if self.parent else {"mlflow.source.name": "distsynth.train"}),
            "distsynth.path": str(run.path),
            "distsynth.code": identity["code"],
            "distsynth.commit": identity["commit"],
        }
        mlflow_run = self.find_or_create(identity["uid"], identity["name"], tags, start)
        from mlflow.entities import Param

        parameters = [Param(key, value) for key, value in sorted(parameters_of(run).items())]
        for batch in in_batches(parameters, 100):
            self.client.log_batch(mlflow_run, params=batch)
        self.client.log_artifact(mlflow_run, str(run.config))
        for key in self.client.get_run(mlflow_run).data.metrics:
            last = max(self.client.get_metric_history(mlflow_run, key), key=lambda p: (p.step, p.timestamp))
            self.sent[mlflow_run, key] = (last.step, last.value)
        return mlflow_run

    def open_parent(self) -> str:
        """The sweep's id in MLflow."""
        identity = json.loads((self.sweep / "sweep.json").read_text())
        return self.find_or_create(identity["uid"], f"sweep {self.sweep.name}", {"distsynth.axes": ", ".join(identity["axes"])})

    def find_or_create(self, uid: str, name: str, tags: Mapping[str, str], start: int | None = None) -> str:
        runs = self.client.search_runs([self.experiment], f"tags.`{UID}` = '{uid}'", max_results=1)
        if runs:
            return str(runs[0].info.run_id)
        run = self.client.create_run(
            self.experiment, start, {UID: uid, "mlflow.runName": name, "mlflow.source.name": "slurm/launch.py", **tags}, name
        )
        return str(run.info.run_id)

    def open_experiment(self) -> str:
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        if experiment is not None:
            return str(experiment.experiment_id)
        # With SQLite, MLflow's default is an absolute path under the current directory; a server has its own location for artifacts.
        local = (self.top / "artifacts").as_uri() if self.uri.startswith("sqlite:") else None
        return str(self.client.create_experiment(EXPERIMENT, local))


def connect(uri: str) -> Any:
    """An MLflow client without log messages and telemetry. Raises UserError if the store cannot be opened."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # a server that is down must not delay the launcher
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with mlflow_errors(uri):
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
        return client


@contextmanager
def mlflow_errors(uri: str) -> Iterator[None]:
    """Errors of MLflow, a full disk and a server that is down, as one sentence. Raises UserError."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        text = str(error).strip().splitlines()[0]
        raise UserError(
            f"the MLflow store {uri} failed ({text}); the journals keep everything: python -m distsynth.tracking.sync sends it later"
        ) from error


def metrics(lines: Sequence[Line]) -> Iterator[Any]:
    """MLflow metrics, with the journal's times."""
    from mlflow.entities import Metric

    for line in lines:
        if line["kind"] == "metrics":
            yield from (Metric(name, value, line["time"], line["step"]) for name, value in line["values"].items())


def parameters_of(run: RunDirectory) -> dict[str, str]:
    """The run's resolved configuration as dotted keys."""
    from omegaconf import OmegaConf

    tree: Any = OmegaConf.to_container(OmegaConf.load(run.config))
    return {key: ",".join(map(str, value)) if isinstance(value, list) else str(value) for key, value in flatten(tree)}


def in_batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def ui_lines(sync: Sync) -> list[str]:
    """The command that opens the UI, and the address of the table of runs: by default MLflow 3 opens an experiment in its GenAI view."""
    page = f"#/experiments/{sync.experiment}?workflowType=machine_learning"
    if sync.uri.startswith("http"):
        return [f"runs in MLflow: {sync.uri.rstrip('/')}/{page}"]
    return [
        "compare the runs in the MLflow UI:",
        f"  {mlflow_command()} ui --backend-store-uri {sync.uri}",
        f"  then open http://127.0.0.1:5000/{page}",
    ]


def mlflow_command() -> str:
    """`mlflow`, with its folder if the shell would not find it or would find another one."""
    own = Path(sys.executable).with_name("mlflow")  # of this Python environment
    return "mlflow" if not own.is_file() or shutil.which("mlflow") == str(own) else str(own)


if __name__ == "__main__":
    command(main, __doc__, Settings)

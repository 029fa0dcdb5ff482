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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from distsynth.run_directory import RunDirectory, read_identity, shown, similar
from distsynth.tracking.entities import in_batches, metrics, parameters
from distsynth.tracking.journal import Line, covered, read
from distsynth.tracking.store import Store, StoreFailure, Warnings, cause_of, unanswered
from distsynth.tracking.ui import ui_lines
from preprocess.shared.errors import SettingError, UserError
from preprocess.shared.settings import command, parse, setting

UID = "distsynth.uid"
TRIES = 3  # files of a run that a store may refuse before the others are left
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

    def __init__(self, folder: Path, tracking_uri: str = "", warn: Warnings | None = None) -> None:
        """Of a sweep's folder; of a run's, with all its sweep if it is in one. Raises UserError if it is neither or the store cannot be opened."""
        self.sweep = folder.parent if (folder / "run.json").is_file() else folder
        self.in_sweep = (self.sweep / "sweep.json").is_file()
        if not self.in_sweep and self.sweep == folder:
            raise UserError(f"sweep={folder} is not a sweep, it has no sweep.json: give the folder of one, for example runs/lr")
        self.lone = None if self.in_sweep else RunDirectory(folder)
        top = self.sweep.parent if self.in_sweep or self.sweep.name == "alone" else self.sweep
        self.store = Store(tracking_uri, top, folder)
        self.warn = warn or Warnings()
        self.uri = self.store.uri
        self.runs: dict[Path, str] = {}
        self.replayed: dict[Path, Line] = {}  # the last line that was replayed
        self.sent: dict[tuple[str, str], tuple[int, float]] = {}  # MLflow run and curve: step and value of its last point
        self.open()

    def open(self) -> None:
        """Open the store and its experiment, and find the parent; what was deleted in MLflow is restored. Raises UserError."""
        self.client, self.experiment = self.store.open()
        self.runs.clear()
        self.replayed.clear()
        with self.store.failures():
            self.parent = self.open_parent() if self.in_sweep else ""

    def replay(self) -> None:
        """Send what is new in the journals, each run by itself. Raises UserError if MLflow fails; the next call sends the rest."""
        failure = None
        for run in [self.lone] if self.lone else [RunDirectory(path.parent) for path in sorted(self.sweep.glob("*/run.json"))]:
            try:
                self.again_if_deleted(partial(self.replay_run, run))
            except StoreFailure as error:
                failure = failure or error
                if error.unanswered:
                    break
            except UserError as error:  # of this run's own files
                self.warn(f"{error}; the other runs are sent to MLflow")
        if failure:
            raise failure

    def again_if_deleted(self, send: Callable[[], None]) -> None:
        """Send something; if MLflow refuses it, once more after opening everything again: a run, its parent or the experiment may have been
        deleted. Raises UserError."""
        try:
            with self.store.failures():
                send()
        except StoreFailure as error:
            if error.unanswered:
                raise
            self.open()
            with self.store.failures():
                send()

    def finish(self) -> None:
        """Send everything, including artifacts, the parent's table and its final status. Raises UserError if MLflow fails."""
        self.again_if_deleted(self.finish_parent) if self.parent else self.replay()

    def finish_parent(self) -> None:
        """The parent ends once all its runs have ended, including those that have not started and so have no child in MLflow yet."""
        self.replay()
        if (table := self.sweep / "table.md").is_file():
            self.client.set_tag(self.parent, "mlflow.note.content", table.read_text()[:5000])  # the run's description in the UI
        states = [self.client.get_run(run).info.status for run in self.runs.values()]
        planned = len(list(self.sweep.glob("*/run.json")))
        if planned == sum(state in ("FINISHED", "FAILED") for state in states):
            self.client.set_terminated(self.parent, "FAILED" if "FAILED" in states else "FINISHED")
        else:
            self.client.update_run(self.parent, status="RUNNING")
        self.send_files(self.parent, self.sweep, ("table.md", "table.csv"))

    def replay_run(self, run: RunDirectory) -> None:
        """Parameters, curves and the run's state come before its files, which a store may have no place for."""
        journal, _ = read(run.journal)
        if not journal:  # the run has not started, and the start time of an MLflow run cannot be changed later
            return
        lines = covered(journal)
        if run.path not in self.runs:
            self.runs[run.path] = self.open_run(run, journal[0]["time"])
        if not lines or lines[-1] == self.replayed.get(run.path):
            return
        mlflow_run, last = self.runs[run.path], lines[-1]
        self.send(mlflow_run, lines)
        if start := next((line for line in reversed(lines) if line["kind"] == "start"), None):
            for name in ("host", "device", "world_size"):
                self.client.set_tag(mlflow_run, f"distsynth.{name}", str(start.get(name)))
        ended = self.set_status(mlflow_run, last)
        if self.send_files(mlflow_run, run.path, ("config.yaml", *(("evaluation/**/*", "figures/**/*") if ended else ()))):
            self.replayed[run.path] = last

    def send(self, mlflow_run: str, lines: Sequence[Line]) -> None:
        """Send the points that MLflow does not have; a last point whose value has changed is sent again."""
        points = [p for p in metrics(lines) if self.lacks(mlflow_run, p)]
        for batch in in_batches(points, 1000):
            self.client.log_batch(mlflow_run, metrics=batch)
            self.sent |= {(mlflow_run, p.key): (p.step, p.value) for p in batch}

    def lacks(self, mlflow_run: str, point: Any) -> bool:
        step, value = self.sent.get((mlflow_run, point.key), (-1, None))
        return bool(point.step > step or (point.step == step and point.value != value))

    def send_files(self, mlflow_run: str, folder: Path, patterns: Sequence[str]) -> bool:
        """Send a folder's files, each by itself, and print one warning for each cause of failure; whether the store answered. A link is not
        sent: it may lead to any file of this machine."""
        failed = 0
        for path in sorted(path for pattern in patterns for path in folder.glob(pattern)):
            if path.is_symlink() or not path.is_file() or failed == TRIES:
                continue
            try:
                place = str(path.parent.relative_to(folder))
                self.client.log_artifact(mlflow_run, str(path), None if place == "." else place)
            except Exception as error:
                reason, failed = self.store.reason(error), failed + 1
                self.warn(
                    f"{self.store.name} does not take files such as {path} ({reason}); parameters and curves get there: {self.store.later}",
                    f"files: {cause_of(reason)}",
                )
                if unanswered(error):
                    return False
        return True

    def set_status(self, mlflow_run: str, last: Line) -> bool:
        """Whether the run has ended."""
        if last["kind"] == "end" and last["status"] in STATUS:
            self.client.set_tag(mlflow_run, "distsynth.reason", last["reason"])
            self.client.set_terminated(mlflow_run, STATUS[last["status"]], last["time"])
            return True
        if self.client.get_run(mlflow_run).info.status != "RUNNING":
            self.client.update_run(mlflow_run, status="RUNNING")  # a failed run that was resumed
        return False

    def open_run(self, run: RunDirectory, start: int) -> str:
        """The run's id in MLflow; a new run is created with its parameters, tags and start (milliseconds since 1970)."""
        identity, settings = run.read_identity(), parameters(run)
        tags = {
            **({"mlflow.parentRunId": self.parent} if self.parent else {"mlflow.source.name": "distsynth.train"}),
            "distsynth.path": str(run.path),
            "distsynth.code": str(identity.get("code", "")),
            "distsynth.commit": str(identity.get("commit", "")),
        }
        mlflow_run = self.find_or_create(identity["uid"], str(identity.get("name", run.path.name)), tags, start)
        for batch in in_batches(settings, 100):
            self.client.log_batch(mlflow_run, params=batch)
        for key in self.client.get_run(mlflow_run).data.metrics:
            last = max(self.client.get_metric_history(mlflow_run, key), key=lambda p: (p.step, p.timestamp))
            self.sent[mlflow_run, key] = (last.step, last.value)
        return mlflow_run

    def open_parent(self) -> str:
        """The sweep's id in MLflow."""
        identity = read_identity(self.sweep / "sweep.json")
        axes = ", ".join(map(str, identity.get("axes", [])))
        return self.find_or_create(identity["uid"], f"sweep {self.sweep.name}", {"distsynth.axes": axes})

    def find_or_create(self, uid: str, name: str, tags: Mapping[str, str], start: int | None = None) -> str:
        """The id of the run with this uid, which is restored if it was deleted."""
        if known := self.runs_of(uid):
            if known[0].info.lifecycle_stage == "deleted":
                self.client.restore_run(known[0].info.run_id)
                self.warn(f"{name} was deleted in {self.store.name} and is restored", "deleted")
            return str(known[0].info.run_id)
        tags = {UID: uid, "mlflow.runName": name, "mlflow.source.name": "slurm/launch.py", **tags}
        made = self.client.create_run(self.experiment, start, tags, name).info.run_id
        for double in self.runs_of(uid):  # of a slow server that was asked twice
            if double.info.run_id != made:
                self.client.delete_run(double.info.run_id)
        return str(made)

    def runs_of(self, uid: str) -> list[Any]:
        """The runs with this uid, those first that are not deleted, and of those the ones with parameters."""
        from mlflow.entities import ViewType

        runs = self.client.search_runs([self.experiment], f"tags.`{UID}` = '{uid}'", run_view_type=ViewType.ALL)
        return sorted(runs, key=lambda run: (run.info.lifecycle_stage == "deleted", not run.data.params))


if __name__ == "__main__":
    command(main, __doc__, Settings)

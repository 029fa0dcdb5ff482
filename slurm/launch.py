"""Plan a sweep, submit its runs, watch them, and send their journals to MLflow.

    python slurm/launch.py sweep=lr data.store=data/brats.zarr                  12 runs: 3 learning rates x 4 variants
    python slurm/launch.py sweep=lr dry_run=true                                only show the plan
    python slurm/launch.py sweep=methods data.store=data/phantom.zarr data.rotate=false     every method's small preset on four variants
    python slurm/launch.py variant=mimo method=tcmgan train.epochs=50           a single run
    python slurm/launch.py sweep=lr cluster=slurm cluster.partition=gpu cluster.minutes=600
    python slurm/launch.py job=preprocess cluster=slurm cluster.array=16 source=/data/BraTS store=data/brats.zarr
    python slurm/launch.py job=synthesise cluster=slurm cluster.array=8 source=/data/clinic out=synthesised run=runs/first

Settings are `group=name` (variant method data cluster sweep) or `key=value`. The same command again continues the runs that have not finished.
Without a checkout, installed from a wheel, the command is `python -m slurm.launch`.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import signal
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

# Run as a script, this folder comes first on the path, and its modules must not hide others of the same name.
sys.path[:] = [entry for entry in sys.path if not entry or Path(entry).resolve() != Path(__file__).parent.resolve()]

try:
    from distsynth import config as configuration
    from distsynth.tracking.background import Background
    from distsynth.tracking.ui import ui_lines
    from preprocess.shared.errors import SettingError, StoreError
    from preprocess.shared.files import write_json
    from preprocess.shared.locks import only_one
    from preprocess.shared.settings import command, describe, finish, flatten, merge, setting
    from preprocess.shared.words import dotlist
    from slurm.cluster import ClusterSettings
    from slurm.dispatch import Dispatcher
    from slurm.preprocessing import launch_preprocessing
    from slurm.sweep import Run, SweepSettings, left_out, plan
    from slurm.synthesis import launch_synthesis
    from slurm.watch import Display, RunState
except ModuleNotFoundError as error:
    print(
        f"error: {error.name} is not installed: install the wheel, or run pip install -e . in the checkout (make demo does it)",
        file=sys.stderr,
    )
    raise SystemExit(2) from None


@dataclass
class Launch:
    """The launcher's own settings; all others belong to the runs."""

    cluster: ClusterSettings = setting(ClusterSettings, "where the runs are executed")
    sweep: SweepSettings = setting(SweepSettings, "the runs")
    runs: str = setting("runs", "the folder of all runs")
    job: Literal["train", "preprocess", "synthesise", "synthesize"] = setting(
        "train",
        "preprocess: make a cohort; synthesise: make the contrasts that patients lack; the other settings are to_zarr's or "
        "distsynth.synthesise's, and cluster.*",
    )
    dry_run: bool = setting(False, "only show the plan")
    poll_seconds: float = setting(2.0, "seconds between two readings of the runs' journals")

    def __post_init__(self) -> None:
        # Slurm and submitit replace %j and the like in the paths of the logs, and take a backslash for "replace nothing".
        if re.search(r"%\d*[a-zA-Z%]|[\\\x00-\x1f]", str(Path(self.runs).absolute())) or not self.runs.strip():
            raise SettingError(f"runs={self.runs!r} must be a folder whose path has no %, backslash or line break")


OWN = ("cluster", "sweep", "runs", "job", "dry_run", "poll_seconds")
IN_PARTS = {"preprocess": launch_preprocessing, "synthesise": launch_synthesis}


def main(words: Sequence[str]) -> int:
    launch, shared = read_words(words)
    job = launch.job.replace("synthesize", "synthesise")
    if job in IN_PARTS:
        logs = Path(launch.runs).absolute() / job / "logs"
        if launch.cluster.why:
            print(f"on {launch.cluster.resolved}{launch.cluster.why}")
        return IN_PARTS[job](launch.cluster, shared, logs, launch.poll_seconds, launch.dry_run)
    runs = plan(launch.sweep, shared, Path(launch.runs).absolute())
    made_up = made_up_patients(launch.sweep, shared, runs)
    print(made_up, end="")
    try:
        return launch_runs(launch, runs)
    finally:
        print(made_up, end="")


def made_up_patients(sweep: SweepSettings, words: Sequence[str], runs: Sequence[Run]) -> str:
    """A line to print where no cohort is named and the runs train on the demo's. Raises SettingError if that is not there."""
    if (
        any(word.startswith(("data=", "data.store=")) for word in words)
        or {"data", "data.store"} & dict(flatten(sweep.axes)).keys()
    ):
        return ""
    store = runs[0].config.data.store
    if not Path(store).is_dir():
        raise SettingError(
            "give data.store=PATH, the cohort to train on, which python -m preprocess.to_zarr source=… store=PATH makes "
            f"(the made-up patients of make demo, {store}, are not there)"
        )
    return f"made-up patients ({store}); yours: data.store=PATH\n"


def launch_runs(launch: Launch, runs: Sequence[Run]) -> int:
    """Check the runs and, unless it is a dry run, carry them out; returns the exit status."""
    show_plan(launch, runs)
    check(launch, runs)
    if launch.dry_run:
        return 0
    folder = Path(launch.runs).absolute() / launch.sweep.name
    prepare(launch, folder, runs)
    with only_one(
        folder / ".lock", f"another launcher watches sweep {launch.sweep.name}: wait for it, or give another sweep.name="
    ):
        states = [RunState(run) for run in runs]
        for state in states:
            state.update()
        todo = [s.run for s in states if s.state != "finished"]
        sync = Background(folder)
        dispatcher = Dispatcher(launch.cluster, f"distsynth-{launch.sweep.name}", todo, folder / "logs")
        with room_in(folder):
            carry_out(launch, states, dispatcher, sync)
            return conclude(states, sync)


def check(launch: Launch, runs: Sequence[Run]) -> None:
    """Everything that can be checked before a run starts. Raises UserError; a dry run need not be on a login node."""
    from distsynth import preflight  # which loads torch: --help does not wait for it

    opened = preflight.check_all([run.config for run in runs], launch.cluster.nodes * launch.cluster.ranks)
    for sentence in sorted({each.left_out for each in opened} - {""}):
        print(sentence)
    try:
        launch.cluster.check()
    except SettingError as error:
        if not launch.dry_run:
            raise
        print(f"warning: {error}")


@contextmanager
def room_in(folder: Path) -> Iterator[None]:
    """Turn a full disk or quota into one sentence. Raises StoreError."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StoreError(f"no space left in {folder}: free some and run the same command again") from error


def read_words(words: Sequence[str]) -> tuple[Launch, list[str]]:
    """The launcher's settings, and the words that are the runs' settings."""
    from omegaconf import OmegaConf

    dotlist(words)  # refuses what is not key=value
    own = [word for word in words if word.partition("=")[0].split(".")[0] in OWN]
    shared = [word for word in words if word not in own]
    tree = configuration.layers(own, ("cluster", "sweep"), Launch, ignore=("seed",))
    return finish(merge(OmegaConf.structured(Launch), tree), Launch), shared


def explain(words: Sequence[str]) -> str:
    """The launcher's settings for `--help`; with `method=NAME` also those of its runs."""
    runs = [configuration.settings_help(words)] if any(word.startswith("method=") for word in words) else []
    return "\n\n".join(["\n".join(["the launcher's settings (key=default):", *describe(Launch)]), *runs])


def show_plan(launch: Launch, runs: Sequence[Run]) -> None:
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    columns = [axis for axis in runs[0].axes if axis != "method" and len({run.axes[axis] for run in runs}) > 1]
    table = Table(Column("run", no_wrap=True, overflow="fold"), "in -> out", "method", *columns)
    for run in runs:
        method = run.axes.get("method", run.config.method.name)
        cells = (run.name, run.config.variant.title, method, *(run.axes[axis] for axis in columns))
        table.add_row(*map(Text, cells))  # which are no markup
    print(f"sweep {launch.sweep.name}: {len(runs)} runs on {launch.cluster.resolved}, {launch.cluster.size}{launch.cluster.why}")
    if absent := left_out(launch.sweep, runs):
        pairs = "; ".join(f"{method} with {', '.join(variants)}" for method, variants in absent.items())
        print(f"left out, since the method does not serve the variant: {pairs}")
    Console().print(table)


def prepare(launch: Launch, folder: Path, runs: Sequence[Run]) -> None:
    """Write the sweep's identity, and each run's identity and configuration."""
    if not (folder / "sweep.json").is_file():
        axes = dict(runs[0].axes)
        write_json(folder / "sweep.json", {"uid": uuid.uuid4().hex, "name": launch.sweep.name, "axes": sorted(axes)})
    for run in runs:
        run.directory.create(run.name, launch.sweep.name)
        configuration.save(run.config, run.directory.config)


def carry_out(launch: Launch, states: Sequence[RunState], dispatcher: Dispatcher, sync: Background) -> None:
    """Start the runs, watch them and replay their journals into MLflow, until every run has ended."""
    try:
        with Display(states, f"sweep {launch.sweep.name}") as display:
            while dispatcher.busy:
                dispatcher.poll()
                for state in states:
                    state.update()
                display.show()
                sync.replay()
                time.sleep(launch.poll_seconds)
    except BaseException:  # above all Ctrl-C; no run on this machine continues without a launcher
        dispatcher.cancel()
        if dispatcher.jobs:
            where = "stopped" if launch.cluster.resolved == "local" else "continue on Slurm (scancel stops them)"
            print(
                f"\nthe runs {where}; watch them again with the same command, or: python -m distsynth.tracking.sync sweep={sync.folder}"
            )
        raise


def conclude(states: Sequence[RunState], sync: Background) -> int:
    """Print the sweep's table and the command that opens the UI; returns the exit status."""
    from distsynth.evaluation.table import write_table

    for state in states:
        state.update()
    print(write_table(sync.folder))
    if sent := sync.finish():
        print("\n".join(ui_lines(sent)))
    else:
        print(f"not all of it is in MLflow; to send it: python -m distsynth.tracking.sync {shlex.quote(str(sync.folder))}")
    failed = [state for state in states if state.state != "finished"]
    for state in failed:
        print(f"{state.run.name} {state.state}: {state.reason}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {len(states)} runs did not finish; the same command continues them", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    # A script's background job ignores SIGINT, and so would submitit's controllers, which are sent it to end a run.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    command(
        main, (__doc__ or "").strip() + configuration.groups_help((*configuration.GROUPS, "cluster", "sweep")), explain=explain
    )

"""The fault table: what happens to a run, how soon that is noticed, how much work is repeated, and whether the result is the same.

    python -m slurm.bench.faults store=data/phantom.zarr                       every fault, on this machine
    python -m slurm.bench.faults store=data/phantom.zarr only='[rank_killed]'    some of them
    python -m slurm.bench.faults store=data/phantom.zarr cluster=slurm         those on Slurm that need only a user's rights
    tests/slurm/lab.sh up && SLURM_CONF=/tmp/distsynth-slurm/slurm.conf python -m slurm.bench.faults store=data/phantom.zarr cluster=slurm \
        partitions='[low,high]' node_down='tests/slurm/lab.sh kill' node_up='tests/slurm/lab.sh start'      all, on the Slurm of the tests

Each fault is done to real processes: a small run of two ranks that the launcher started. The result is the same if all weights and every loss
equal those of an undisturbed run, bit for bit.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from preprocess.shared.errors import SettingError, UserError
from preprocess.shared.settings import command, parse, required, setting
from slurm.bench.trial import STEP, Trial, small_disk


@dataclass
class Settings:
    store: str = required("a small cohort, for example from python -m preprocess.phantom spacing=5 subjects=10")
    cluster: Literal["local", "slurm"] = setting("local", "where the runs go")
    only: list[str] = setting([], "names of the faults to try (empty: all)")
    partitions: list[str] = setting([], "on Slurm: one whose jobs are pre-empted, and one whose jobs pre-empt them")
    node_down: str = setting("", "on Slurm: a command that cuts the power of a node, whose name is appended")
    node_up: str = setting("", "on Slurm: a command that restores the power of a node, whose name is appended")

    def __post_init__(self) -> None:
        if len(self.partitions) not in (0, 2):
            raise SettingError(
                f"partitions={self.partitions} must be two: one whose jobs are pre-empted, and one whose jobs pre-empt them"
            )
        if bool(self.node_down) != bool(self.node_up):
            raise SettingError("node_down and node_up must be given together")


@dataclass(frozen=True)
class Fault:
    """One row: `do` does it to a run that has reached STEP; `again`: the same command has to be given again afterwards."""

    how: str
    do: Callable[[Trial], None]
    again: bool = False
    words: tuple[str, ...] = ()
    disk: bool = False
    recovers: bool = True
    restarts: bool = True  # the run itself is interrupted
    afterwards: Callable[[], None] = lambda: None


def to_rank(number: signal.Signals) -> Callable[[Trial], None]:
    return lambda trial: os.kill(trial.ranks()[1], number)


def to_all_ranks(number: signal.Signals) -> Callable[[Trial], None]:
    def do(trial: Trial) -> None:
        for pid in trial.ranks():
            os.kill(pid, number)

    return do


def fill_the_disk(trial: Trial) -> None:
    with (trial.folder / "filler").open("wb") as file:
        try:
            while file.write(bytes(1 << 16)):
                file.flush()
        except OSError:
            pass


def damage_the_newest_checkpoint(trial: Trial) -> None:
    """As after a power cut: all processes die together, and the file that was written last has a flipped byte."""
    trial.kill_everything()
    newest = sorted((trial.run.checkpoints).glob("step-*.pt"))[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 0xFF
    newest.write_bytes(content)


def kill_the_launcher(trial: Trial) -> None:
    trial.process.kill()
    trial.process.wait()


def slurm_command(*words: str) -> Callable[[Trial], None]:
    def do(trial: Trial) -> None:
        subprocess.run([*words, trial.job], check=True)

    return do


LOCAL = {
    "rank_killed": Fault("kill -9 of rank 1", to_rank(signal.SIGKILL)),
    "rank_hung": Fault("kill -STOP of rank 1", to_rank(signal.SIGSTOP)),
    "terminated": Fault("SIGTERM to every rank", to_all_ranks(signal.SIGTERM), again=True),
    "preempted": Fault("SIGUSR2 to every rank", to_all_ranks(signal.SIGUSR2)),
    "disk_full": Fault("a file fills the disk", fill_the_disk, again=True, disk=True),
    "checkpoint_damaged": Fault("all killed, a byte of the newest flipped", damage_the_newest_checkpoint, again=True),
    "not_finite": Fault("train.lr=1e30", lambda trial: None, words=("train.lr=1e30",), recovers=False),
    "launcher_killed": Fault("kill -9 of slurm/launch.py", kill_the_launcher, again=True, restarts=False),
}


SHORT = ("cluster.minutes=1", "cluster.warning=30")


def on_slurm(settings: Settings) -> dict[str, Fault]:
    """The faults of a cluster, without those that the settings do not allow."""
    faults = {
        "signalled": Fault("scancel --signal=USR2", slurm_command("scancel", "--signal=USR2")),
        "requeued": Fault("scontrol requeue", slurm_command("scontrol", "requeue")),
        "out_of_time": Fault("a limit of a minute, with a warning at half of it", lambda trial: None, words=SHORT),
        "cancelled": Fault("scancel", slurm_command("scancel"), again=True),
    }
    if settings.partitions:
        low, high = settings.partitions
        faults["preempted"] = Fault(f"a job in {high} takes the nodes", urgent_job(high), words=(f"cluster.partition={low}",))
    if settings.node_down:
        for name, place in (("first_node_lost", 0), ("last_node_lost", -1)):
            lose, restore = power_cut(settings, place)
            faults[name] = Fault(f"{settings.node_down} NODE", lose, afterwards=restore)
    return faults


def urgent_job(partition: str) -> Callable[[Trial], None]:
    def do(trial: Trial) -> None:
        take = ["--exclusive", f"--nodelist={trial.squeue('%N')}", "--output=/dev/null", "--wrap=sleep 3"]
        subprocess.run(["sbatch", f"--partition={partition}", *take], check=True, capture_output=True)

    return do


def power_cut(settings: Settings, place: int) -> tuple[Callable[[Trial], None], Callable[[], None]]:
    """Functions that cut the power of the node at a place of the job's list, and restore it."""
    lost = []

    def lose(trial: Trial) -> None:
        listed = subprocess.run(["scontrol", "show", "hostnames", trial.squeue("%N")], check=True, capture_output=True, text=True)
        lost.append(listed.stdout.split()[place])
        subprocess.run([*shlex.split(settings.node_down), lost[-1]], check=True)

    def restore() -> None:
        for node in lost:
            subprocess.run([*shlex.split(settings.node_up), node], check=True)
            subprocess.run(["scontrol", "update", f"nodename={node}", "state=resume"], check=False)

    return lose, restore


HEAD = ("fault", "how", "noticed after, s", "updates repeated", "result equal?")


def main(words: Sequence[str]) -> int:
    settings = parse(Settings, words)
    known = LOCAL if settings.cluster == "local" else on_slurm(settings)
    for name in settings.only:
        if name not in known:
            raise SettingError(f"only={name} is not a fault: choose from {', '.join(known)}")
    rows, failed = [], False
    folder = Path(tempfile.mkdtemp(prefix="faults-", dir=Path.cwd()))  # compute nodes cannot read this machine's /tmp
    try:
        whole = Trial(folder / "whole", settings.store, settings.cluster, ())
        whole.finish()
        for name in settings.only or known:
            try:
                row = one_fault(name, known[name], whole, folder / name, settings)
            except UserError as error:
                row = ("-", "-", f"NO: {error}")
            print(f"{name}: {row}", file=sys.stderr, flush=True)
            rows.append((name, known[name].how, *row))
        print_table(rows, whole)
        failed = not all(row[-1].startswith(("yes", "needs", "-")) for row in rows)
    finally:
        if failed:
            print(f"logs and journals of the runs are kept: {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return int(failed)


def one_fault(name: str, fault: Fault, whole: Trial, folder: Path, settings: Settings) -> tuple[str, ...]:
    """Do it, let the run end, compare. Noticed: the first line of the journal or the launcher's end after it."""
    with ExitStack() as stack:
        folder.mkdir()
        if fault.disk and not small_disk(folder, stack):
            return "-", "-", "needs root"
        trial = Trial(folder, settings.store, settings.cluster, fault.words)
        stack.callback(trial.kill_everything)
        stack.callback(fault.afterwards)
        trial.until(STEP if fault.recovers else 1)
        done_at = time.time()
        fault.do(trial)
        noticed = "-" if trial.process.poll() is not None else f"{trial.noticed_after(done_at):.1f}"
        if not fault.recovers:
            trial.finish(expect=1)
            return noticed, "-", f"- ({trial.last_reason})"
        if fault.again:
            trial.process.wait(120)
            (folder / "filler").unlink(missing_ok=True)
            trial.launch()
        trial.finish()
        equal = "yes" if trial.same_as(whole) else "NO"
        return noticed, str(trial.repeated), equal if trial.disturbed or not fault.restarts else "nothing disturbed it"


def print_table(rows: Sequence[Sequence[str]], whole: Trial) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        *HEAD,
        title=f"undisturbed: {whole.updates} updates in {whole.seconds:.0f} s, a checkpoint every 1.2 s",
        title_justify="left",
    )
    for row in rows:
        table.add_row(*row)
    Console(width=160).print(table)


if __name__ == "__main__":
    command(main, __doc__, Settings)

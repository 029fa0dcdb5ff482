"""Train one run: in one process, under torchrun, or on the ranks that the launcher starts.

    python -m distsynth.train variant=simo method=tcmgan data.store=data/brats.zarr run=runs/mine
    torchrun --nproc-per-node=2 -m distsynth.train variant=mimo data.store=data/brats.zarr run=runs/mine2
    python -m distsynth.train runs/mine                            resume a run that was killed
    python -m distsynth.train method=unet --help                   the settings of a method

The run directory holds everything (see distsynth.run_directory). Killed and started again, a run resumes from its newest checkpoint.
"""

from __future__ import annotations

import errno
import os
import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from distsynth import config as configuration
from distsynth.config import Config, compose
from distsynth.run_directory import RunDirectory, run_of, shown, similar
from distsynth.tracking.journal import write_end
from preprocess.shared.errors import SettingError, StoreError, UserError
from preprocess.shared.settings import command, differences
from preprocess.shared.signals import number_of, sentence_of

if TYPE_CHECKING:  # torch is only loaded with the first use: --help stays instant
    from distsynth.data.cohorts import Opened
    from distsynth.ranks.world import World


class RunLost(UserError):
    """The run failed; the journal's last line has the same sentence."""


def main(words: Sequence[str]) -> int:
    from distsynth.ranks.world import world as join

    run, settings = directory_of(words)
    begun = run.config.is_file()
    config = configuration.load(run.config) if begun else compose(settings)
    if begun and settings and (asked := compose(settings)) != config:
        differing = "; ".join(differences(asdict(config), asdict(asked))[:3])
        raise SettingError(
            f"run={run.path} holds another configuration ({differing}): give another run=, or only run= to resume it"
        )
    with ended_by_signal(run), join(config.train.device, config.train.limits, run.path) as world:
        config, begun = world.from_first((config, begun))  # another node may see an older folder
        if not begun:
            check_new(run, words, settings)
        opened = None if begun else begin(config, run, world)
        with locked(run, world):
            train_and_evaluate(config, run, world, opened)
    if world.leads:
        from distsynth.evaluation.ending import ending

        print(ending(run))
    return 0


@contextmanager
def ended_by_signal(run: RunDirectory) -> Iterator[None]:
    """Turn a signal's end into one sentence, of rank 0, and its exit status."""
    from distsynth.ranks.preemption import Stopped

    try:
        yield
    except (Stopped, KeyboardInterrupt) as stop:
        number = stop.number if isinstance(stop, Stopped) else number_of(stop)
        again = f"; resume it with python -m distsynth.train {shlex.quote(shown(run.path))}" if run.config.is_file() else ""
        if os.environ.get("RANK", "0") == "0":
            print(f"{stop if isinstance(stop, Stopped) else sentence_of(number)}{again}", file=sys.stderr)
        raise SystemExit(128 + number) from None


def directory_of(words: Sequence[str]) -> tuple[RunDirectory, list[str]]:
    """The run directory (`run=DIR`, or runs/alone/VARIANT_METHOD), and the words that are settings."""
    given, settings = run_of(words)
    if given:
        return RunDirectory(given), settings
    config = compose(settings)
    return RunDirectory(Path("runs") / "alone" / f"{config.variant.name}_{config.method.name}"), settings


def check_new(run: RunDirectory, words: Sequence[str], settings: Sequence[str]) -> None:
    """Raise SettingError for a new run without a cohort. Where only `run=` is given it is most likely misspelt: names the most similar run."""
    if not settings and words:
        near = similar(run.path)
        hint = f"{near} A" if near else "a"
        raise SettingError(
            f"run={shown(run.path)} is not there to be resumed: {hint} new run needs its settings too, for example data.store="
        )
    if not any(word.startswith(("data.store=", "data=")) for word in settings):
        raise SettingError(
            "a new run needs data.store=PATH, the cohort to train on, which python -m preprocess.to_zarr source=… store=PATH makes"
        )


def begin(config: Config, run: RunDirectory, world: World) -> Opened:
    """Check a new run and open what it reads, then write its directory. Raises UserError before there is a directory."""
    from distsynth import preflight

    try:
        opened = preflight.on_one_rank(config, world)
    except Exception as error:
        give_up(error, run, world)
    if world.leads:
        prepare(run, config)
    return opened


def prepare(run: RunDirectory, config: Config) -> None:
    """Write a run's identity and configuration."""
    run.create(run.path.name, run.path.parent.name)
    configuration.save(config, run.config)


def train(path: Path) -> None:
    """Train or resume the run at `path` on this rank, then evaluate its best checkpoint.

    Raises UserError for what the user can fix and Stopped when asked to stop. Once the ranks have joined and hold the run's lock, the journal's
    last line has the same sentence.
    """
    from distsynth.ranks.world import world as join

    run = RunDirectory(path)
    wait_for(run.config)
    config = configuration.load(run.config)
    with join(config.train.device, config.train.limits, path) as world, locked(run, world):
        train_and_evaluate(config, run, world)


@contextmanager
def locked(run: RunDirectory, world: World) -> Iterator[None]:
    """Hold the run's lock, on rank 0. Raises StoreError on every rank if another process trains it."""
    with ExitStack() as lock:
        with world.together():
            if world.leads:
                lock.enter_context(run.lock())
        yield


def train_and_evaluate(config: Config, run: RunDirectory, world: World, opened: Opened | None = None) -> None:
    """Train and evaluate on the `opened` cohorts, or open them here. Whatever happens, one rank writes the journal's last line, and all ranks end
    with the same sentence."""
    from distsynth import preflight
    from distsynth.evaluation.scoring import evaluate, journal_scores
    from distsynth.ranks.preemption import Stopped, stop_request
    from distsynth.training.trainer import Trainer

    world.watchdog.tell = lambda verdict: end(run, "failed", verdict.sentence, world, verdict.retry)
    with stop_request() as stop:
        try:
            opened = opened or preflight.on_one_rank(config, world)
            trainer = Trainer(config, opened, run, world, stop)
            trainer.fit()
            world.watchdog.enter("evaluation", trainer.at.total)
            scores = evaluate(config, opened, run, world, stop=stop)
            if world.leads:
                journal_scores(run, scores, trainer.at.total)
            world.barrier()
        except (Stopped, KeyboardInterrupt) as error:
            if world.leads:
                end(run, "stopped", str(error) or "interrupted", world)
            raise
        except Exception as error:
            give_up(error, run, world)
    if world.leads:
        end(run, "finished", "", world)


def give_up(error: Exception, run: RunDirectory, world: World) -> NoReturn:
    """End with the sentence that all ranks agree on; one rank prints it and, where the run has a directory, writes it to the journal."""
    from distsynth.ranks.world import cause, lost_peer

    if lost_peer(error):
        verdict = world.watchdog.blame(cause(error))
    else:
        mine = reason(error, run)
        if transient(error):
            mine = f"rank {world.rank} failed at step {world.watchdog.step}: {mine}"
        verdict = world.watchdog.fail(mine, transient(error))
        if verdict.sentence == mine and transient(error):
            traceback.print_exception(error)  # a bug: show where
    if not world.watchdog.speaks(verdict):
        raise SystemExit(2) from None
    world.watchdog.reported = True
    if run.config.is_file():
        end(run, "failed", verdict.sentence, world, verdict.retry)
    raise RunLost(verdict.sentence) from None


def wait_for(path: Path, seconds: float = 60) -> None:
    """Wait for the config, which rank 0 writes, perhaps on another node. Raises SettingError if it does not appear."""
    import time

    deadline = time.monotonic() + seconds
    while not path.is_file():
        if time.monotonic() > deadline or int(os.environ.get("RANK", 0)) == 0:
            raise SettingError(f"{path} does not exist: give settings, or the directory of a run")
        time.sleep(0.1)


def reason(error: BaseException, run: RunDirectory) -> str:
    """Why the run failed, in one sentence."""
    import torch

    from distsynth.ranks.world import cause, unfit

    if isinstance(error, UserError):
        return str(error)
    if unfit(error):
        return f"{cause(error)}: check the GPUs of the ranks and the build of torch with python -m distsynth.bench gpu"
    if no_space(error):
        place = getattr(error, "filename", None) or run.path
        return f"no space left for {place}: free some and start the run again"
    if isinstance(error, torch.OutOfMemoryError):
        return "the GPU's memory is full: set train.micro_batch, which only changes the use of memory; the run printed at its start what fits"
    where = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"unexpected error ({type(error).__name__}: {cause(error)}, {Path(where.filename).name}:{where.lineno}): please report it"
    )


def transient(error: BaseException) -> bool:
    """Whether the run may succeed when it is resumed: after a lost rank or node, but not where the user has to fix something first. A loss that is
    not finite would come again, since the same weights meet the same batches."""
    import torch

    from distsynth.ranks.world import unfit

    return not (isinstance(error, UserError | torch.OutOfMemoryError) or no_space(error) or unfit(error))


def no_space(error: BaseException) -> bool:
    """Whether a disk or a quota is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def end(run: RunDirectory, status: str, why: str, world: World, retry: bool = False) -> None:
    """Write the journal's last line. Where rank 0 is lost another rank writes it, unless rank 0 still holds the run's lock."""
    try:
        with nullcontext() if world.leads else run.lock():
            write_end(run.journal, status, why, retry)
    except StoreError as error:
        print(f"{error}; {why}", file=sys.stderr)


def entry() -> None:
    """The command `distsynth-train`."""
    command(main, (__doc__ or "").strip() + configuration.groups_help(), explain=configuration.settings_help)


if __name__ == "__main__":
    entry()

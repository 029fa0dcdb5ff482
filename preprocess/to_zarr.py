"""A folder of BRATS cases becomes a cohort: N4, clip bounds, z-score, crop, labels, split, all in one Zarr store.

    python -m preprocess.to_zarr source=MICCAI_BraTS_2018 store=data/brats.zarr

Killed and run again, it goes on where it was. A case that cannot be used is set aside with its reason and the others go on.
Exit status: 0 when every case went through, 1 when some were set aside, 2 when nothing could be done.
"""

from __future__ import annotations

import dataclasses
import errno
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread

from preprocess.brats import MODALITIES, Case, discover
from preprocess.cohort import Cohort, CohortWriter
from preprocess.errors import CaseError, SettingError, StoreError, UserError
from preprocess.settings import command, parse, setting
from preprocess.splits import SPLITS, SplitSettings, split
from preprocess.subject import Recipe, Stopwatch, process


@dataclass
class Settings:
    source: str = setting("data/phantom", "the folder that holds the BRATS cases")
    layout: str = setting("auto", "how the files are named: brats2015, brats2018, brats2023, bids, pattern, or auto")
    pattern: str = setting("", "layout=pattern: path below source, e.g. {patient}/{case}/*_{modality}.nii.gz")
    names: dict[str, str] = setting(dict, "layout=pattern: its words for t1, t1c, t2, flair, seg and mask, e.g. names.T1post=t1c")
    require: list[str] = setting(list(MODALITIES), "the contrasts that a case must have")
    store: str = setting("data/phantom.zarr", "the cohort to make or to go on with")
    recipe: Recipe = setting(Recipe, "the preprocessing")
    split: SplitSettings = setting(SplitSettings, "the split by patient")
    workers: int = setting(0, "processes, each with one thread and about 1.5 GB at 240x240x155 (0: one per core)")


@dataclass
class Outcome:
    """What became of a case."""

    case: Case
    seconds: Stopwatch
    reason: str = ""  # why it was set aside


def main(words: Sequence[str]) -> int:
    settings = parse(Settings, words)
    if settings.workers < 0:
        raise SettingError(f"workers={settings.workers} must not be negative")
    if not settings.require or set(settings.require) - set(MODALITIES):
        raise SettingError(f"require={settings.require} must name one or more of {', '.join(MODALITIES)}")
    found = discover(Path(settings.source), settings.layout, settings.pattern, settings.names)
    print(found.why)
    cases = found.cases
    writer = CohortWriter(settings.store, dataclasses.asdict(settings.recipe), MODALITIES)
    try:
        with writer.lock():
            done = writer.committed()
            if strangers := sorted(done - {case.name for case in cases}):
                held = f"store={settings.store} holds {strangers[0]}, which source={settings.source} does not"
                raise StoreError(f"{held}: give another store=")
            todo = [case for case in cases if case.name not in done]
            outcomes = sorted(run(todo, settings, writer), key=lambda outcome: outcome.case.name)
            rejected = {o.case.name: o.reason for o in outcomes if o.reason}
            finish(cases, settings, writer, rejected)
    except OSError as error:
        raise StoreError(disk_sentence(error, settings.store)) from error
    return summarise(Cohort.open(settings.store), len(cases) - len(todo), outcomes, rejected)


def run(cases: Sequence[Case], settings: Settings, writer: CohortWriter) -> Iterator[Outcome]:
    """Every case through the recipe, in a pool of processes, with a progress bar."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    workers = max(1, min(settings.workers or len(os.sched_getaffinity(0)), len(cases)))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    pool = ProcessPoolExecutor(workers, mp_context=get_context("forkserver"), initializer=die_with_parent)
    try:
        with Progress(*columns) as progress:
            task = progress.add_task("subjects", total=len(cases))
            waiting = [pool.submit(one, case, settings, writer) for case in cases]
            for future in as_completed(waiting):
                yield future.result()
                progress.advance(task)
    except BrokenProcessPool as error:
        what = "a worker process died, out of memory perhaps"
        raise UserError(f"{what}: run again with fewer workers= and it goes on where it was") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def die_with_parent() -> None:
    """End this worker when the command is killed; it would go on writing into a store that the next command has locked."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def one(case: Case, settings: Settings, writer: CohortWriter) -> Outcome:
    """One case, in a worker."""
    watch = Stopwatch()
    try:
        case.check(settings.require)
        record, image, labels = process(case, settings.recipe, watch)
        with watch.stage("write"):
            writer.write(record, image, labels)
    except CaseError as error:
        return Outcome(case, watch, str(error))
    except MemoryError:
        return Outcome(case, watch, f"{case.name}: not enough memory: run again with fewer workers=")
    except RuntimeError as error:  # ITK's; one odd volume must not cost the others a night's work
        return Outcome(case, watch, f"{case.name}: bias correction failed ({str(error).strip().splitlines()[-1]})")
    return Outcome(case, watch)


def finish(cases: Sequence[Case], settings: Settings, writer: CohortWriter, rejected: dict[str, str]) -> None:
    """Split the committed subjects by patient and write the manifest. Raises UserError if no case could be used."""
    committed = writer.committed()
    if not committed:
        raise UserError(f"no case of {settings.source} could be used; the first: {next(iter(rejected.values()))}")
    used = sorted((case for case in cases if case.name in committed), key=lambda case: case.name)
    patients = split({case.patient: case.grade for case in used}, settings.split)
    home = {patient: name for name, members in patients.items() for patient in members}
    writer.finish({name: [case.name for case in used if home[case.patient] == name] for name in SPLITS}, rejected)


def disk_sentence(error: OSError, store: str) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left for store={store}: free some and run again, it goes on where it was"
    return f"cannot read or write: {error.strerror} ({error.filename or store})"


def summarise(cohort: Cohort, kept: int, outcomes: Sequence[Outcome], rejected: dict[str, str]) -> int:
    """Print the tables; the exit status."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table("split", "subjects", "HGG", "LGG", "unknown", title=f"{cohort.path}")
    for name in SPLITS:
        grades = Counter(cohort.record(s).grade for s in cohort.split(name))
        table.add_row(name, *(str(n) for n in (len(cohort.split(name)), grades["HGG"], grades["LGG"], grades["unknown"])))
    console.print(table)
    lost = {s: r.brain_voxels_lost / (r.brain_voxels + r.brain_voxels_lost) for s, r in cohort.records.items()}
    worst = max(lost, key=lambda s: lost[s])
    mean = sum(lost.values()) / len(lost)
    console.print(f"brain outside the crop: mean {mean:.2%}, most {lost[worst]:.2%} ({worst})", highlight=False, soft_wrap=True)
    if cut := sum(share > 0.01 for share in lost.values()):
        console.print(f"[yellow]warning[/yellow] {cut} subjects lose over 1 % of their brain: a larger recipe.crop= keeps it")
    total: Counter[str] = Counter()
    for outcome in outcomes:
        total.update(outcome.seconds)
    if seconds := sum(total.values()):
        stages = ", ".join(f"{name} {value / seconds:.0%}" for name, value in total.items())
        console.print(f"{len(outcomes)} subjects, {seconds / len(outcomes):.1f} s of one core each: {stages}", highlight=False)
    if kept:
        console.print(f"{kept} subjects were finished before and kept", highlight=False)
    for reason in rejected.values():
        console.print(f"[red]set aside[/red] {reason}", highlight=False, soft_wrap=True)
    console.print(f"next: python slurm/launch.py sweep=lr data.store={cohort.path}", highlight=False, soft_wrap=True)
    if rejected:
        where = cohort.path / "rejected.json"
        message = f"{len(cohort.subjects)} subjects are in the cohort, {len(rejected)} cases were set aside: see {where}"
        console.print(message, highlight=False, soft_wrap=True)
    return 1 if rejected else 0


if __name__ == "__main__":
    command(main, __doc__, Settings)

"""Makes a cohort of a folder of BRATS cases: N4, clip bounds, z-scores, crop, labels and split, in one Zarr store.

    python -m preprocess.to_zarr source=MICCAI_BraTS_2018 store=data/brats.zarr

If it is killed, the same command continues where it stopped. A case that cannot be used is set aside with the reason. Without source= and store=
it makes the cohort of the demo's made-up patients in data/phantom.
Exit status: 0 if every case is in the cohort, 1 if some were set aside or scans were left out, 2 if nothing could be done.
"""

from __future__ import annotations

import errno
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

from preprocess.cohort import Cohort, CohortWriter
from preprocess.cohort.files import is_store, naming_of, read_json, record_path, store_above
from preprocess.cohort.origin import make_again, mark, stamped
from preprocess.cohort.summary import summarise
from preprocess.recipe import Recipe, Stopwatch, box_of, brain_extent, process
from preprocess.shared.errors import CaseError, SettingError, StoreError, UserError
from preprocess.shared.files import plain
from preprocess.shared.pool import pooled
from preprocess.shared.settings import command, parse, setting
from preprocess.source.brats import Case, Discovery
from preprocess.source.layouts import MODALITIES
from preprocess.source.naming import LAYOUT, BidsSettings, Naming
from preprocess.splits import Fold, Member, SplitSettings, split

PHANTOM = "data/phantom"  # where preprocess.phantom puts the demo's patients
MADE_UP = "made-up patients; yours: source=PATH store=PATH"
ALIASES = {"split": "split.file"} | {name: f"recipe.{name}" for name in ("resample", "coregister", "orientation", "labels")}


@dataclass
class Settings:
    POSITIONAL: ClassVar = ("source", "store")
    source: str = setting("", "the folder that holds the BRATS cases")
    layout: str = setting("", LAYOUT)
    pattern: str = setting("", "layout=pattern: the path below source, e.g. {patient}/{case}/*_{modality}.nii.gz")
    names: dict[str, str] = setting(
        dict, "layout=pattern: your words for t1, t1c, t2, flair, seg and mask, e.g. names.T1post=t1c"
    )
    bids: BidsSettings = setting(BidsSettings, "choices among a BIDS dataset's files")
    require: list[str] = setting(list(MODALITIES), "the contrasts that a case must have")
    store: str = setting("", "the cohort to make or to continue")
    recipe: Recipe = setting(Recipe, "the preprocessing")
    split: SplitSettings = setting(SplitSettings, "the split by patient")
    checks: Literal["refuse", "warn"] = setting(
        "refuse", "refuse: cases that are known to be wrong are set aside; warn: they are taken as they are, with a warning"
    )
    workers: int = setting(0, "processes, each with one thread and about 0.7 GB at 240x240x155 (0: one per core)")
    part: str = setting(
        "", "K/N: only the K-th of N parts, which can run at the same time on many nodes; finish: write the manifest after them"
    )

    def __post_init__(self) -> None:
        if not self.require or set(self.require) - set(MODALITIES):
            raise SettingError(f"require={self.require} must name one or more of {', '.join(MODALITIES)}")
        if self.workers < 0:
            raise SettingError(f"workers={self.workers} must not be negative")
        number, _, parts = self.part.partition("/")
        if self.part not in ("", "finish") and not (number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
            raise SettingError(f"part={self.part} must be K/N with K from 1 to N, for example 3/16, or finish")


@dataclass
class Outcome:
    """The result of one case."""

    case: Case
    seconds: Stopwatch
    reason: str = ""  # why it was set aside; empty if it was not


def main(words: Sequence[str]) -> int:
    settings, demo = settings_of(words)
    if demo:
        print(MADE_UP)
    status = make(settings)
    if demo:
        print(MADE_UP)
    return status


def make(settings: Settings) -> int:
    """Make or continue the cohort; returns the exit status."""
    discovery, writer = plan(settings)
    cases = discovery.cases
    part = settings.part.replace("/", "-of-") if settings.part != "finish" else ""
    try:
        with writer.lock(part):
            refuse_strangers(settings, writer, cases)
            mine = share(cases, settings.part)
            make_again(writer, mine, settings.require)
            done = writer.committed()
            todo = [case for case in mine if case.name not in done]
            outcomes = sorted(run(todo, settings, writer), key=lambda outcome: outcome.case.name)
            rejected = {o.case.name: o.reason for o in outcomes if o.reason}
            if part:
                writer.set_aside(part, rejected)
            else:
                if settings.part:
                    rejected = left_over(cases, done, writer.parts_rejected())
                finish(cases, settings, writer, rejected)
    except OSError as error:
        raise StoreError(disk_sentence(error, settings.store)) from error
    if part:
        written = len(mine) - len(rejected)
        print(f"part {settings.part}: {written} of {len(mine)} cases are in {settings.store}; part=finish completes it")
        return 1 if rejected else 0
    status = summarise(Cohort.open(settings.store), len(done), [outcome.seconds for outcome in outcomes], rejected)
    return max(status, report_left_out(discovery))


def report_left_out(discovery: Discovery) -> int:
    """Print again, at the end, what the source holds and the cohort does not; returns the exit status."""
    for line in discovery.left_out:
        print(line)
    return 1 if discovery.left_out else 0


def settings_of(words: Sequence[str]) -> tuple[Settings, bool]:
    """The settings, and whether they are the demo's: neither a source nor a store is given. Raises SettingError if only one is."""
    settings = parse(Settings, [aliased(word) for word in words])
    settings.source, settings.store = (path and plain(path) for path in (settings.source, settings.store))
    if settings.source and settings.store:
        return settings, False
    if settings.source:
        raise SettingError(
            f"store= is missing: give store=PATH, the cohort to make of source={settings.source}, e.g. store=data/mine.zarr"
        )
    if settings.store:
        raise SettingError(f"source= is missing: give source=PATH, the folder of scans of which to make store={settings.store}")
    if not Path(PHANTOM).is_dir():
        raise SettingError("source= is missing: give source=PATH, a folder of scans, and store=PATH, the cohort to make of them")
    settings.source, settings.store = PHANTOM, f"{PHANTOM}.zarr"
    return settings, True


def plan(settings: Settings) -> tuple[Discovery, CohortWriter]:
    """The cases of the source and the writer of the store; prints the layouts. Raises UserError for settings that cannot work."""
    remembered = naming_of(Path(settings.store))
    naming = Naming.given(settings, remembered)
    if remembered and naming.stored() == remembered:
        print(f"as store={settings.store} remembers: {naming}")
    source = Path(settings.source)
    if is_store(source) or store_above(source):
        raise UserError(f"source={source} is a cohort, or lies in one: give the folder of the scans")
    if settings.recipe.crop == "brain" and settings.recipe.box not in ([], stored_box(Path(settings.store))):
        raise SettingError("recipe.crop=brain finds recipe.box= by itself: give only one of them")
    discovery = naming.discover(source)
    print(discovery.message)
    split(members(discovery.cases), settings.split)
    if settings.recipe.crop == "brain" and not settings.recipe.box:
        settings.recipe.box = stored_box(Path(settings.store)) or measured_box(discovery.cases, settings)
    return discovery, CohortWriter(settings.store, settings.recipe.stored(), MODALITIES, naming.stored())


def stored_box(store: Path) -> list[int]:
    """The box that an earlier call with recipe.crop=brain found for the store; empty if there was none."""
    if not (store / "zarr.json").is_file():
        return []
    recipe = read_json(store / "zarr.json").get("attributes", {}).get("recipe", {})
    return list(recipe.get("box", [])) if recipe.get("crop") == "brain" else []


def measured_box(cases: Sequence[Case], settings: Settings) -> list[int]:
    """The box that holds the brain of every case. Raises UserError if no case can be used."""
    measure = partial(brain_extent, recipe=settings.recipe, checks=settings.checks, require=settings.require)
    if not (extents := [extent for extent in pooled(measure, cases, settings.workers, "brains") if extent]):
        raise UserError(f"no case of {settings.source} can be used: run without recipe.crop=brain to see why")
    box = box_of(extents)
    print(f"recipe.crop=brain: every brain fits into {' x '.join(map(str, box))} voxels")
    return box


def refuse_strangers(settings: Settings, writer: CohortWriter, cases: Sequence[Case]) -> None:
    """Raise StoreError if the store holds subjects of another source, or that this naming does not give."""
    if others := sorted(writer.committed() - {case.name for case in cases}):
        what = f"store={settings.store} holds {others[0]}, which source={settings.source} does not"
        before = naming_of(writer.path)
        differs = f" with these names (before: {shlex.join(f'{k}={v}' for k, v in before.items()) or 'layout=auto'})"
        raise StoreError(f"{what}{differs * (before != writer.naming)}: give another store=")


def aliased(word: str) -> str:
    """The word with its full name in place of a short one: `split=my.csv`, `resample=t1`, `coregister=true`."""
    key, equals, value = word.partition("=")
    return f"{ALIASES.get(key, key)}{equals}{value}"


def members(cases: Sequence[Case]) -> list[Member]:
    return [Member(case.name, case.patient, case.grade) for case in cases]


def share(cases: Sequence[Case], part: str) -> Sequence[Case]:
    """The cases of a part: every N-th of all, whether finished or not. None for the step that finishes the cohort."""
    if part in ("", "finish"):
        return [] if part else cases
    number, parts = (int(n) for n in part.split("/"))
    return cases[number - 1 :: parts]


def left_over(cases: Sequence[Case], done: set[str], rejected: dict[str, str]) -> dict[str, str]:
    """Why cases are not in the store, including those of parts that did not finish."""
    lost = {case.name: f"{case.name}: its part has not finished: run the same parts again" for case in cases}
    return {name: rejected.get(name, reason) for name, reason in lost.items() if name not in done}


def run(cases: Sequence[Case], settings: Settings, writer: CohortWriter) -> Iterator[Outcome]:
    """Take every case through the recipe."""
    return pooled(partial(one, settings=settings, writer=writer), cases, settings.workers, "subjects")


def one(case: Case, settings: Settings, writer: CohortWriter) -> Outcome:
    """Take one case through the recipe, in a worker."""
    watch = Stopwatch()
    try:
        case.check(settings.require)
        record_path(writer.path, case.name)  # refuses an impossible name before the work, not after it
        seen = stamped(case)
        record, image, labels = process(case, settings.recipe, watch, settings.checks)
        if stamped(case) != seen:
            raise CaseError(f"{case.name}: its files changed while they were read: give the same command again")
        with watch.stage("write"):
            writer.write(record, image, labels)
            mark(writer.path, case, seen)
    except CaseError as error:
        return Outcome(case, watch, str(error))
    except MemoryError:
        return Outcome(case, watch, f"{case.name}: not enough memory: run again with fewer workers=")
    except (OSError, UserError):  # the disk's or the store's: no other case could be written either
        raise
    except Exception as error:  # one odd case must not stop the others
        why = (str(error).strip() or type(error).__name__).splitlines()[-1]
        return Outcome(case, watch, f"{case.name}: unexpected error ({type(error).__name__}: {why}): please report it")
    return Outcome(case, watch)


def finish(cases: Sequence[Case], settings: Settings, writer: CohortWriter, rejected: dict[str, str]) -> None:
    """Split the committed subjects by patient and write the manifest. Raises UserError if no case could be used."""
    committed = writer.committed()
    if not committed:
        raise UserError(f"no case of {settings.source} could be used; the first: {next(iter(rejected.values()))}")
    writer.remember()
    writer.finish(folds_of(cases, committed, settings.split), rejected)


def folds_of(cases: Sequence[Case], committed: set[str], settings: SplitSettings) -> list[Fold]:
    """The split of the committed subjects. A user's list may name cases that were set aside, so it is read for all cases first."""
    if not settings.file:
        return split(members([case for case in cases if case.name in committed]), settings)
    (fold,) = split(members(cases), settings)
    return [{name: [s for s in subjects if s in committed] for name, subjects in fold.items()}]


def disk_sentence(error: OSError, store: str) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left for store={store}: free some and run again, and it continues where it stopped"
    return f"cannot read or write: {error.strerror} ({error.filename or store})"


if __name__ == "__main__":
    command(main, __doc__, Settings)

"""Synthesise the contrasts that patients lack, as NIfTI on each patient's own grid.

    python -m distsynth.synthesise source=/data/clinic out=synthesised run=runs/first
    python -m distsynth.synthesise t1=t1.nii.gz t2=t2.nii.gz out=synthesised run=model.zip
    python -m distsynth.synthesise -i /data/clinic -o synthesised run=runs/lr --device cuda:1

`source` is a patient's folder or a folder of patients, in any layout that to_zarr reads. The run's preprocessing is repeated. Nothing that exists
is overwritten. `run` is a run's folder, an exported model.zip, or a sweep's folder, of which the run that was best on its val patients is taken for
each contrast. A patient that cannot be used is set aside with the reason.
Exit status: 0 if every patient was done, 1 if some were set aside, 2 if nothing could be done.
"""

from __future__ import annotations

import errno
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from distsynth.synthesis.cases import named, scans_of
from distsynth.synthesis.naming import Naming, dataset_of
from distsynth.synthesis.outcome import Options, Outcome, listed_outputs
from preprocess.shared.errors import SettingError, StoreError, UserError
from preprocess.shared.files import read_bytes, write_json
from preprocess.shared.locks import only_one
from preprocess.shared.settings import command, parse, required, setting
from preprocess.shared.words import undashed
from preprocess.source.brats import Case, discover
from preprocess.source.layouts import MODALITIES
from preprocess.source.naming import BidsSettings

if TYPE_CHECKING:
    from distsynth.synthesis.session import Session

FLAGS = {"-i": "source", "--input": "source", "-o": "out", "--output": "out", "--device": "device"}


@dataclass
class Settings:
    POSITIONAL: ClassVar = ("source", "out")

    out: str = required("the folder to write to")
    run: str = required("a run's folder, a sweep's (the best run on val for each contrast), or an exported model.zip")
    source: str = setting("", "a patient's folder or a folder of patients; or name the files:")
    t1: str = setting("", "one patient's T1 file")
    t1c: str = setting("", "one patient's T1c file")
    t2: str = setting("", "one patient's T2 file")
    flair: str = setting("", "one patient's FLAIR file")
    mask: str = setting("", "one patient's brain mask, which scans with a skull need")
    name: str = setting("", "the name of the one patient (empty: from its files)")
    layout: str = setting("auto", "how the files below source are named (see to_zarr)")
    bids: BidsSettings = setting(BidsSettings, "see to_zarr")
    pattern: str = setting("", "layout=pattern: the path below source, e.g. {case}/*_{modality}.nii.gz (see to_zarr)")
    words: dict[str, str] = setting(dict, "layout=pattern: your words for t1, t1c, t2, flair and mask, e.g. words.T1post=t1c")
    outputs: Any = setting("missing", "missing: what a patient lacks; all: what it has too; or a list, e.g. '[t1c]'")
    names: Literal["synth", "plain"] = setting(
        "synth", "synth: NAME_flair_synth, or BIDS derivatives; plain: NAME/NAME_flair, as segmenters expect"
    )
    resample: str = setting("", "the contrast onto whose grid others are resampled if theirs differs (empty: as in training)")
    coregister: bool = setting(False, "bring the contrasts onto each other first, by a rigid registration")
    checks: Literal["refuse", "warn"] = setting(
        "refuse", "refuse: scans that are known to be wrong are set aside; warn: they are used"
    )
    tta: Literal["none", "flip"] = setting("none", "flip: the mean with what is made of the mirrored brain, in twice the time")
    device: str = setting("auto", "auto, cpu, cuda or cuda:N")
    threads: int = setting(0, "threads of the network on a CPU (0: one per core)", least=0)
    part: str = setting("", "K/N: only the K-th of N parts of the patients, which can run at the same time")
    continue_: bool = setting(False, "keep what is done, and redo what is half done")

    def __post_init__(self) -> None:
        named = [kind for kind in (*MODALITIES, "mask") if getattr(self, kind)]
        if bool(self.source) == bool(named):
            both = f"source={self.source} and {named[0]}= are both given" if named else "no scans are given"
            raise SettingError(f"{both}: give source=FOLDER, or one patient's files as t1=FILE t2=FILE")
        if named == ["mask"]:
            raise SettingError("mask= alone is no scan: give t1=FILE, t1c=, t2= or flair= too")
        self.outputs = listed_outputs(self.outputs)
        if self.resample not in ("", *MODALITIES):
            raise SettingError(f"resample={self.resample} must be empty or one of {', '.join(MODALITIES)}")
        number, _, parts = self.part.partition("/")
        if self.part and not (number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
            raise SettingError(f"part={self.part} must be K/N with K from 1 to N, for example 3/16")


def main(words: Sequence[str]) -> int:
    settings = parse(Settings, spelled(words))
    check_threads(settings)
    cases, layout, dataset = patients(settings)
    session = opened(settings, layout, dataset, settings.device)
    root = session.naming.root
    name = f"report-{settings.part.replace('/', '-of-')}.json" if settings.part else "report.json"
    refuse_other(root / name)
    with disk(settings.out), writing(root, settings.part):
        session.begin()
        outcomes = list(progress(session, share(cases, settings.part)))
        given = {key.removesuffix("_"): value for key, value in asdict(settings).items() if value not in ("", {})}
        write_json(root / name, {"settings": given, "patients": [asdict(outcome) for outcome in outcomes]})
    return conclude(outcomes, root / name)


def check_threads(settings: Settings) -> None:
    """Raise SettingError for more threads than this process may use."""
    if settings.threads > (cores := len(os.sched_getaffinity(0))):
        raise SettingError(f"threads={settings.threads}: this process may use {cores} cores; give at most {cores}")


def spelled(words: Sequence[str]) -> list[str]:
    """The words as settings: `-i X -o Y --device cpu`, as other tools have them, and `continue=true`. Raises SettingError for another flag."""
    spelled, rest = [], iter(words)
    for word in rest:
        if word.startswith("-"):
            flag, equals, value = word.partition("=")
            if flag not in FLAGS:
                right = undashed(word, next(rest, ""))
                raise SettingError(
                    f"{flag} is not known: write key=value without dashes, {right}; {', '.join(FLAGS)} are also understood"
                )
            spelled.append(f"{FLAGS[flag]}={value if equals else next(rest, '')}")
        else:
            if word.startswith("names."):  # as to_zarr calls the words of a pattern
                word = f"words.{word.removeprefix('names.')}"
            spelled.append(f"continue_{word.removeprefix('continue')}" if word.startswith("continue=") else word)
    return spelled


def opened(settings: Settings, layout: str, dataset: Path, device: str) -> Session:
    """The models, names and options of a call. Raises UserError for a model or a contrast that there is not."""
    from distsynth.synthesis.models import Models  # which loads torch: a wrong word is refused before
    from distsynth.synthesis.session import Session

    models = Models.open(settings.run, device)
    if models.left_out:
        print(models.left_out)
    wanted = settings.outputs if isinstance(settings.outputs, list) else []
    if unknown := [output for output in wanted if output not in models.outputs]:
        raise SettingError(f"outputs={unknown[0]}: run={settings.run} makes {', '.join(models.outputs)}")
    flip = settings.tta == "flip"
    options = Options(
        settings.outputs, settings.resample, settings.coregister, flip, settings.continue_, settings.threads, settings.checks
    )
    return Session(models, Naming(Path(settings.out), layout, settings.names), dataset, options)


def patients(settings: Settings) -> tuple[list[Case], str, Path]:
    """The patients, the layout of their files, and the folder that these are below. Raises UserError if there is none.

    Synthesised files among the scans are left out: they may be an earlier call's.
    """
    if settings.source:
        source = Path(settings.source)
        if source.is_file():
            raise SettingError(f"source={source} is a file: name it by its contrast, for example t1={source}")
        try:
            discovery = discover(source, settings.layout, settings.pattern, settings.words, settings.bids.run, "words")
        except SettingError:
            raise
        except UserError as error:
            raise UserError(f"{error}; or name one patient's files: t1=FILE t2=FILE") from error
        print(discovery.message)
        cases = [replace(case, files=scans_of(case.files)) for case in discovery.cases]
        return cases, discovery.layout, dataset_of(source) if discovery.layout == "bids" else source
    files = {kind: Path(getattr(settings, kind)) for kind in (*MODALITIES, "mask") if getattr(settings, kind)}
    return [named(files, settings.name)], "brats2018", next(iter(files.values())).parent


def share(cases: Sequence[Case], part: str) -> Sequence[Case]:
    """The cases of a part: every N-th of all."""
    if not part:
        return cases
    number, parts = (int(n) for n in part.split("/"))
    return cases[number - 1 :: parts]


def refuse_other(report: Path) -> None:
    """Raise StoreError if there is a file in the report's place that is no report."""
    if report.exists():
        try:
            known = "patients" in json.loads(read_bytes(report))
        except (OSError, ValueError, TypeError, RecursionError):
            known = False
        if not known:
            raise StoreError(f"{report} exists and is no report of this command: give another out=")


@contextmanager
def writing(root: Path, part: str) -> Iterator[None]:
    """Be the only one that writes there, or with a `part` K/N beside other parts of N. Raises StoreError if another process is at work."""
    root.mkdir(parents=True, exist_ok=True)
    busy = f"another call writes to out={root}: wait for it, or give another out="
    mine = root / f".synthesise{part and '-' + part.replace('/', '-of-')}.lock"
    with only_one(mine, busy):
        try:
            for other in root.glob(".synthesise*.lock"):
                if other != mine and not (part and other.name.endswith(f"-of-{part.partition('/')[2]}.lock")):
                    with only_one(other, busy):  # left by a killed call, if it can be had
                        other.unlink()
            yield
        finally:
            mine.unlink(missing_ok=True)


@contextmanager
def disk(out: str) -> Iterator[None]:
    """Turn a full, read-only or forbidden disk into one sentence. Raises StoreError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(f"no space left for out={out}: free some and run again with continue=true") from error
        raise StoreError(f"cannot write to out={out}: {error.strerror} ({error.filename}): give another out=") from error


def progress(session: Session, cases: Sequence[Case]) -> Iterator[Outcome]:
    """Every patient, with a line for each and a progress bar."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("patients"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=len(cases) < 2) as bar:
        task = bar.add_task("", total=len(cases))
        for case in cases:
            outcome = session.one(case)
            if len(cases) > 1 or outcome.status != "set aside":  # else it is the call's own error
                bar.console.print(outcome.line, markup=False, highlight=False, soft_wrap=True)
            yield outcome
            bar.advance(task)


def conclude(outcomes: Sequence[Outcome], report: Path) -> int:
    """Print what became of the patients; returns the exit status. Raises UserError if every one was set aside."""
    aside = [outcome for outcome in outcomes if outcome.status == "set aside"]
    if aside and len(aside) == len(outcomes):
        raise UserError(f"no patient could be synthesised; the first: {aside[0].why}")
    if not outcomes:
        print(f"this part has no patient: {report}")
        return 0
    counts = Counter(outcome.status for outcome in outcomes)
    print(
        f"{', '.join(f'{count} {status}' for status, count in counts.items())}; images and pictures are in {report.parent}, the report is {report}"
    )
    if counts["nothing missing"] == len(outcomes):
        print("outputs=all makes contrasts that patients have too, under other names")
    return 1 if aside else 0


def entry() -> None:
    """The console script."""
    command(main, __doc__, Settings)


if __name__ == "__main__":
    entry()

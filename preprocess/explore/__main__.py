"""Draws figures of a cohort, puts them on one page, and lists what is odd in the cohort.

    python -m preprocess.explore data/brats.zarr
    python -m preprocess.explore data/brats.zarr source=MICCAI_BraTS_2018      also the scans themselves, and each stage of the recipe

Writes a PNG for each figure, and index.html, which needs no other file and no network. The exit status is 0 even if there are flags.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from preprocess.cohort import Cohort
from preprocess.cohort.files import naming_of
from preprocess.explore.flags import flags, print_flags
from preprocess.explore.report import report
from preprocess.explore.sample import Cases, chosen, largest, losses
from preprocess.shared.errors import SettingError, StoreError, UserError
from preprocess.shared.settings import command, parse, required, setting
from preprocess.source.naming import BidsSettings, Naming


@dataclass
class Settings:
    POSITIONAL: ClassVar = ("store",)
    store: str = required("the cohort to show; its path alone is enough")
    source: str = setting("", "the folder that it was made from: also shows the scans themselves and each stage of the recipe")
    layout: str = setting(
        "", "how the source's files are named, as for to_zarr; also pattern= and names= (empty: as the store remembers)"
    )
    pattern: str = setting("", "layout=pattern: as for to_zarr")
    names: dict[str, str] = setting(dict, "layout=pattern: as for to_zarr")
    bids: BidsSettings = setting(BidsSettings, "as for to_zarr")
    subject: str = setting("", "the subject whose stages and augmentations are drawn (empty: the one with the largest tumour)")
    subjects: int = setting(
        40, "most subjects to read for histograms and pictures, evenly spread over the grades; all records are read", least=1
    )
    out: str = setting("", "the folder to write to (empty: beside the cohort, its name with _explore)")


def main(words: Sequence[str]) -> int:
    settings = parse(Settings, words)
    cohort = Cohort.open(settings.store)
    out = folder(settings)
    sample = chosen(cohort, settings.subjects)
    subject = settings.subject or largest(cohort, sample)
    cohort.record(subject)  # refuses an unknown subject before any work is done
    needed = {*sample, subject, *dict(losses(cohort))}
    cases = files_of(settings, cohort, needed)
    flagged = flags(cohort)
    print_flags(flagged)
    repeat = shlex.join(["python", "-m", "preprocess.explore", *words])
    try:
        out.mkdir(parents=True, exist_ok=True)
        page = report(cohort, sample, subject, cases, flagged, out, repeat)
    except OSError as error:
        raise UserError(f"cannot write to out={out}: {error.strerror}") from error
    print(f"{page} shows {len(sample)} of {len(cohort.subjects)} subjects and the records of all")
    return 0


def folder(settings: Settings) -> Path:
    """The folder for the figures. Raises SettingError for one inside the store, where `verify` would list them as unexpected."""
    store = Path(settings.store).resolve()
    out = Path(settings.out) if settings.out else store.with_name(store.name.removesuffix(".zarr") + "_explore")
    if out.resolve().is_relative_to(store):
        raise SettingError(f"out={settings.out} lies inside the store: give a folder beside it")
    return out


def files_of(settings: Settings, cohort: Cohort, subjects: set[str]) -> Cases:
    """The source's cases by name; none without a source. Raises StoreError if the source lacks a file of one of the subjects."""
    if not settings.source:
        return {}
    discovery = Naming.given(settings, naming_of(cohort.path)).discover(Path(settings.source))
    cases = {case.name: case for case in discovery.cases}
    for subject in sorted(subjects):
        files = cases[subject].files if subject in cases else {}
        if missing := [modality for modality in cohort.record(subject).modalities if modality not in files]:
            what = f"source={settings.source} does not hold {subject}'s {', '.join(missing)}, which store={settings.store} does"
            raise StoreError(f"{what}: give the folder that it was made from")
    return cases


if __name__ == "__main__":
    command(main, __doc__, Settings)

"""CPU time of bias correction and what it leaves of the field, on phantoms whose field is known."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean, median

import numpy as np

from preprocess.bench.cases import phantoms
from preprocess.bias import Mask, N4Settings, Volume, correct
from preprocess.geometry import spacing_of, to_canonical
from preprocess.shared.errors import SettingError, UserError
from preprocess.shared.settings import setting
from preprocess.source.brats import Case
from preprocess.source.layouts import MODALITIES
from preprocess.source.scans import read

Method = Callable[[Volume, Mask, Sequence[float]], Volume]  # volume, brain mask, voxel size in mm -> corrected volume
CPU_GOAL, FULL_GOAL, RESIDUAL_GOAL = 1 / 4, 1 / 50, 1.05


@dataclass
class Settings:
    phantoms: str = setting("data/phantom_1mm", "the folder of phantoms; missing ones are made")
    voxel: float = setting(1.0, "their voxel size in mm")
    seed: int = setting(0, "their seed")
    first: int = setting(0, "number of the first phantom")
    subjects: int = setting(2, "number of phantoms, of four contrasts each")
    spacings: list[float] = setting([8.0, 10.0, 12.0], "values of n4.spacing to try")
    levels: list[int] = setting([1, 2, 3], "numbers of levels of n4.iterations to try")
    iterations: list[int] = setting([50], "iterations per level to try")
    tolerances: list[float] = setting([1e-3, 5e-4], "values of n4.tolerance to try")
    control_points: list[int] = setting([4, 5], "values of n4.control_points to try")
    full_resolution: bool = setting(True, "also N4 on every voxel, for the first volume: it takes minutes")

    def __post_init__(self) -> None:
        if self.subjects < 1 or self.first < 0:
            raise SettingError(f"subjects={self.subjects} must be at least 1 and first={self.first} at least 0")
        self.grid()

    def grid(self) -> list[N4Settings]:
        """The default and every combination of the settings. Raises SettingError for one that N4 refuses."""
        values = product(self.control_points, self.levels, self.iterations, self.tolerances, self.spacings)
        rows = [N4Settings(True, spacing, [n] * levels, tolerance, points) for points, levels, n, tolerance, spacing in values]
        return [N4Settings(), *(row for row in rows if row != N4Settings())]


@dataclass(frozen=True)
class Scan:
    """One contrast of a phantom (z, y, x) and its ground truth."""

    volume: Volume
    mask: Mask
    spacing: tuple[float, float, float]
    log_bias: Volume
    white: Mask


@dataclass
class Row:
    """A method, with CPU seconds and residual for each volume."""

    name: str
    method: Method
    seconds: list[float] = field(default_factory=list)
    residuals: list[float] = field(default_factory=list)

    def measure(self, scan: Scan) -> None:
        start = time.process_time()
        corrected = self.method(scan.volume, scan.mask, scan.spacing)
        self.seconds.append(time.process_time() - start)
        self.residuals.append(residual(scan, corrected))


def run(settings: Settings) -> None:
    """Measure all rows on one volume after the other, in one process, and print the table."""
    from rich.progress import track

    rows = [Row("no correction", lambda volume, *_: volume), Row("common practice", common_practice)]
    rows += [Row(describe(n4), by(n4)) for n4 in settings.grid()]
    full = Row("full resolution", partial(common_practice, shrink=1))
    scans = read_scans(selected(settings), Path(settings.phantoms) / "truth")
    for number, scan in enumerate(track(scans, "volumes", total=settings.subjects * len(MODALITIES))):
        for row in [*rows, full] if settings.full_resolution and not number else rows:
            row.measure(scan)
    report(rows, full)


def selected(settings: Settings) -> list[Case]:
    last = settings.first + settings.subjects
    return phantoms(Path(settings.phantoms), settings.voxel, last, settings.seed)[settings.first :]


def read_scans(cases: Sequence[Case], truth: Path) -> Iterator[Scan]:
    """Every contrast of every phantom with its ground truth. Raises UserError if that is missing, as in folders of an older version."""
    for case in cases:
        scans = read(case)
        affine = np.array(scans.original["original_affine"])
        try:
            fields, white = np.load(truth / f"{case.name}_log_bias.npz"), np.load(truth / f"{case.name}_white.npz")["white"]
        except OSError as error:
            raise UserError(
                f"phantoms={truth.parent} lacks the truth of {case.name}: give another folder for new ones"
            ) from error
        for modality, volume in zip(MODALITIES, scans.volumes, strict=True):
            kind = case.files[modality].name.removeprefix(f"{case.name}_").partition(".")[0]
            log_bias, inside = (to_canonical(array, affine)[0] for array in (fields[kind].astype(np.float32), white))
            yield Scan(volume, scans.mask, spacing_of(affine), log_bias, inside)


def by(settings: N4Settings) -> Method:
    return lambda volume, mask, spacing: correct(volume, mask, spacing, settings)


def describe(n4: N4Settings) -> str:
    return f"{n4.spacing:g} mm, {n4.control_points}, {len(n4.iterations)} x {n4.iterations[0]}, {n4.tolerance:g}"


def common_practice(volume: Volume, mask: Mask, spacing: Sequence[float], shrink: int = 4) -> Volume:
    """N4 as in SimpleITK's example: every fourth voxel of the whole grid, 4 x 50 iterations, ITK's field at full resolution."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    image, inside = sitk.GetImageFromArray(np.maximum(volume, 1e-6)), sitk.GetImageFromArray(mask.astype(np.uint8))
    for part in (image, inside):
        part.SetSpacing([float(s) for s in reversed(spacing)])
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations([50] * 4)
    n4.Execute(sitk.Shrink(image, [shrink] * 3), sitk.Shrink(inside, [shrink] * 3))
    return np.asarray(sitk.GetArrayFromImage(image / sitk.Exp(n4.GetLogBiasFieldAsImage(image))), np.float32)


def residual(scan: Scan, corrected: Volume) -> float:
    """Coefficient of variation, inside white matter, of the true field over the estimated one."""
    true, estimated = np.exp(scan.log_bias[scan.white], dtype=np.float64), scan.volume[scan.white] / corrected[scan.white]
    return float((true / estimated).std() / (true / estimated).mean())


def report(rows: Sequence[Row], full: Row) -> None:
    """Print the table, and the results beside the goals."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    common, default = rows[1], rows[2]
    title = f"N4 on {len(common.seconds)} volumes: per volume, including the application of the field"
    table = Table(
        "spacing, control points, levels x iterations, tolerance",
        title=title,
        caption="* the default; ratios are to common practice",
    )
    for column in ("CPU s", "ratio", "residual", "ratio", "worst"):
        table.add_column(column, justify="right")
    for row in rows:
        numbers = [f"{mean(row.seconds):.2f}", f"{mean(row.seconds) / mean(common.seconds):.3f}", f"{median(row.residuals):.4f}",
                   f"{median(row.residuals) / median(common.residuals):.2f}", f"{max(row.residuals):.4f}"]  # fmt: skip
        table.add_row(row.name + " *" * (row is default), *numbers)
    console.print(table)
    lines = [f"default / common practice: CPU {mean(default.seconds) / mean(common.seconds):.3f} (goal {CPU_GOAL} at most), "
             f"residual {median(default.residuals) / median(common.residuals):.2f} (goal {RESIDUAL_GOAL} at most)"]  # fmt: skip
    if full.seconds:
        lines.append(f"first volume at full resolution: {full.seconds[0]:.1f} CPU s, residual {full.residuals[0]:.4f}; "
                     f"default {default.seconds[0]:.2f} s, residual {default.residuals[0]:.4f}: "
                     f"CPU {default.seconds[0] / full.seconds[0]:.4f} (goal {FULL_GOAL} at most)")  # fmt: skip
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)

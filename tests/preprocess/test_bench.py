"""The benchmark measures correctly, on phantoms whose field is known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from preprocess.bench import n4
from preprocess.bench.__main__ import main
from preprocess.bias import N4Settings
from preprocess.shared.errors import SettingError, UserError
from preprocess.shared.settings import parse

ONE = ["voxel=5", "seed=3", "subjects=1"]


@pytest.fixture(scope="module")
def scans(phantoms: Path) -> list[n4.Scan]:
    cases = n4.selected(parse(n4.Settings, [f"phantoms={phantoms}", *ONE]))
    return list(n4.read_scans(cases, phantoms / "truth"))


def test_dividing_by_the_true_field_leaves_nothing_and_no_correction_leaves_the_field(scans: list[n4.Scan]) -> None:
    assert len(scans) == 4
    for scan in scans:
        field = np.exp(scan.log_bias)
        assert n4.residual(scan, scan.volume / field) < 1e-6
        assert n4.residual(scan, 3 * scan.volume / field) < 1e-6  # a gain is not a bias
        inside = field[scan.white]
        assert n4.residual(scan, scan.volume) == pytest.approx(inside.std() / inside.mean(), rel=1e-4)


def test_the_truth_lies_on_the_scan(scans: list[n4.Scan]) -> None:
    """Without the true field, white matter has nearly one intensity; without the mirrored field it has not."""
    for scan in scans:
        even = (scan.volume / np.exp(scan.log_bias))[scan.white]
        assert scan.mask[scan.white].all()
        assert 500 < scan.white.sum() < 0.5 * scan.mask.sum()
        assert even.std() / even.mean() < 0.1
    scan = max(scans, key=lambda scan: n4.residual(scan, scan.volume))
    field = np.exp(scan.log_bias)
    right, mirrored = ((scan.volume / f)[scan.white] for f in (field, field[:, :, ::-1]))
    assert right.std() / right.mean() < mirrored.std() / mirrored.mean()


def test_the_table_marks_the_default_and_compares_it_with_common_practice(phantoms: Path, capsys: pytest.CaptureFixture) -> None:
    grid = ["spacings=[16]", "levels=[1,2]", "control_points=[5]", "iterations=[20]"]
    assert main(["n4", f"phantoms={phantoms}", *ONE, *grid, "full_resolution=true"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "N4 on 4 volumes" in out
    for row in ("no correction", "common practice", f"{n4.describe(N4Settings())} *", "16 mm, 5, 1 x 20", "16 mm, 5, 2 x 20"):
        assert row in out
    assert "default / common practice: CPU " in out
    assert "first volume at full resolution" in out


def test_every_method_is_timed_and_scored_on_each_volume(scans: list[n4.Scan]) -> None:
    row = n4.Row("ours", n4.by(N4Settings()))
    for scan in scans[:2]:
        row.measure(scan)
    assert len(row.seconds) == len(row.residuals) == 2
    assert min(row.seconds) > 0
    idle = n4.Row("none", lambda volume, *_: volume)
    idle.measure(scans[0])
    assert idle.seconds[0] < row.seconds[0]


def test_the_default_is_always_in_the_grid_and_only_once() -> None:
    grid = n4.Settings().grid()
    assert grid[0] == N4Settings()
    assert sum(row == N4Settings() for row in grid) == 1
    assert replace(N4Settings(), spacing=12.0, tolerance=1e-3) in grid


@pytest.mark.parametrize("words", [["n5"], ["subjects=1"], ["n4", "subjects=0"], ["n4", "levels=[0]"], ["n4", "spacings=[-1]"]])
def test_impossible_settings_are_refused_before_any_work(words: list[str]) -> None:
    with pytest.raises(SettingError):
        main(words)


def test_phantoms_without_truth_are_refused(phantoms: Path, tmp_path: Path) -> None:
    cases = n4.selected(parse(n4.Settings, [f"phantoms={phantoms}", *ONE, "first=1"]))
    assert [case.name for case in cases] == ["Brats18_PHANTOM_001_1"]
    with pytest.raises(UserError, match=r"lacks the truth of Brats18_PHANTOM_001_1"):
        next(n4.read_scans(cases, tmp_path / "truth"))


def test_missing_phantoms_are_made(tmp_path: Path) -> None:
    cases = n4.selected(n4.Settings(phantoms=str(tmp_path / "new"), voxel=8.0, subjects=1))
    assert [case.name for case in cases] == ["Brats18_PHANTOM_000_1"]
    assert len(list(n4.read_scans(cases, tmp_path / "new" / "truth"))) == 4

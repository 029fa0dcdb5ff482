"""recipe.crop=brain: one box for the cohort that cuts no brain; and what a crop that does cut one says."""

import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from preprocess.cohort import Cohort
from preprocess.explore.__main__ import main as explore
from preprocess.recipe import box_of
from preprocess.shared.errors import UserError
from preprocess.to_zarr import main

FAST = ("recipe.n4.enabled=false", "workers=1", "recipe.crop=brain", "checks=warn")


@pytest.fixture
def cases(tmp_path: Path, write_case: Callable[..., dict[str, Path]]) -> Path:
    for number, size in enumerate((28, 28, 44)):
        write_case(tmp_path / "cases", f"c{number}", seed=number, size=size)
    return tmp_path / "cases"


def make(cases: Path, store: Path, *words: str) -> Cohort:
    assert main([f"source={cases}", f"store={store}", *FAST, *words]) == 0
    return Cohort.open(store)


def test_every_brain_is_whole_in_one_box_of_multiples_of_16(cases: Path, tmp_path: Path) -> None:
    cohort = make(cases, tmp_path / "c.zarr")
    records = list(cohort.records.values())
    assert {tuple(record.shape) for record in records} == {(48, 48, 48)}
    assert [record.brain_voxels_lost for record in records] == [0, 0, 0]
    assert max(max(record.brain_size) for record in records) == 36
    assert (cohort.recipe["crop"], cohort.recipe["box"]) == ("brain", [48, 48, 48])


def test_a_box_is_found_once_and_a_larger_brain_refused(cases: Path, tmp_path: Path, write_case) -> None:
    store = tmp_path / "c.zarr"
    before = make(cases, store).digest
    assert make(cases, store).digest == before
    write_case(cases, "small", seed=8, size=28)
    assert len(make(cases, store).subjects) == 4
    write_case(cases, "large", seed=9, size=66)
    assert main([f"source={cases}", f"store={store}", *FAST]) == 1
    cohort = Cohort.open(store)
    assert "its brain has 52 x 52 x 52 voxels, and the boxes of this store 48 x 48 x 48" in cohort.rejected["large"]
    assert len(cohort.subjects) == 4


def test_parts_find_the_same_box(cases: Path, tmp_path: Path) -> None:
    whole = make(cases, tmp_path / "whole.zarr")
    for part in ("1/2", "2/2", "finish"):
        assert main([f"source={cases}", f"store={tmp_path / 'parts.zarr'}", *FAST, f"part={part}"]) == 0
    assert Cohort.open(tmp_path / "parts.zarr").digest == whole.digest


def test_on_another_spacing_and_with_a_case_that_cannot_be_used(cases: Path, tmp_path: Path) -> None:
    (cases / "c2" / "c2_t2.nii.gz").write_bytes(b"no scan")
    assert main([f"source={cases}", f"store={tmp_path / 'c.zarr'}", *FAST, "recipe.spacing=8"]) == 1
    cohort = Cohort.open(tmp_path / "c.zarr")
    assert {tuple(record.shape) for record in cohort.records.values()} == {(16, 16, 16)}
    assert set(cohort.rejected) == {"c2"}
    shutil.rmtree(cases / "c0")
    shutil.rmtree(cases / "c1")
    with pytest.raises(UserError, match=r"no case of .* can be used"):
        main([f"source={cases}", f"store={tmp_path / 'd.zarr'}", *FAST])


def test_explore_shows_the_box(cases: Path, tmp_path: Path) -> None:
    make(cases, tmp_path / "c.zarr")
    assert explore([str(tmp_path / "c.zarr"), f"source={cases}", f"out={tmp_path / 'out'}"]) == 0
    assert "48 × 48 × 48 voxels" in (tmp_path / "out" / "index.html").read_text()


def test_a_crop_that_cuts_says_what_keeps_the_brain(cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"source={cases}", f"store={tmp_path / 'c.zarr'}", *FAST, "recipe.crop=[80,160,160]"]) == 0
    shown = capsys.readouterr().out
    assert (
        "3 subjects lose over 1 % of their brain to the crop: recipe.crop=brain in another store= keeps every brain whole"
        in shown
    )


def test_a_box_is_the_smallest_multiple_of_16_on_each_axis() -> None:
    assert box_of([[10, 33, 64], [17, 32, 65]]) == [80, 48, 32]


def test_the_clip_table_says_what_it_means(tmp_path: Path, write_case, capsys: pytest.CaptureFixture[str]) -> None:
    """A bright lesion of under 1 % of the brain lies wholly beyond the clip."""
    files = write_case(tmp_path / "cases", "a")
    image = nib.load(files["seg"])
    labels = np.asarray(image.dataobj).copy()
    bright = nib.load(files["flair"]).get_fdata() > np.percentile(nib.load(files["flair"]).get_fdata()[labels > 0], 90)
    nib.save(nib.Nifti1Image((2 * bright).astype("u1"), image.affine), files["seg"])
    assert (
        main(
            [
                f"source={tmp_path / 'cases'}",
                f"store={tmp_path / 'c.zarr'}",
                "recipe.n4.enabled=false",
                "workers=1",
                "split.test=1",
            ]
        )
        == 0
    )
    shown = " ".join(capsys.readouterr().out.split())
    assert "oedema" in shown
    assert "where their shades matter, train with data.clip=false" in shown

"""Each outlier, written into real files, is flagged, and nothing else is."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from preprocess import to_zarr
from preprocess.cohort import Cohort
from preprocess.explore.flags import Flag, flags

Array = np.ndarray
CaseWriter = Callable[..., dict[str, Path]]


def flagged(folder: Path, *words: str) -> list[Flag]:
    store = folder.with_name(folder.name + ".zarr")
    to_zarr.main([f"source={folder}", f"store={store}", "workers=1", "recipe.n4.enabled=false", *words])
    return flags(Cohort.open(store))


def one_voxel(value: float) -> Callable[[Array], Array]:
    def change(array: Array) -> Array:
        array[14, 14, 14] = value
        return array

    return change


def flat_slice(array: Array) -> Array:
    array[..., 14][array[..., 14] != 0] = 100
    return array


def half(array: Array) -> Array:
    array[:, :9] = 0
    return array


def corner(array: Array) -> Array:
    array[:] = 0
    array[:3, :3, :3] = 2
    return array


# by the case's name: the changed file, the change, and the flag: contrast, part of its text, number
ODD: dict[str, tuple[str, Callable[[Array], Array], tuple[str, str, str]]] = {
    "ceiling": ("t1", one_voxel(32767), ("t1", "at the limit of 16 bits", "32767")),
    "far": ("t2", one_voxel(3000), ("t2", "3000, in standard deviations", "")),
    "masks": ("flair", half, ("", "set aside: the contrasts' brains are", "")),
    "flat": ("t1c", flat_slice, ("t1c", "the same intensity", "1")),
    "empty": ("t2", np.zeros_like, ("", "set aside: empty_t2.nii.gz has the same intensity everywhere", "")),
    "constant": (
        "t1",
        lambda array: 100.0 * (array != 0),
        ("", "set aside: constant_t1.nii.gz has the same intensity everywhere", ""),
    ),
    "no tumour": ("seg", np.zeros_like, ("seg", "is empty", "0 ml")),
    "label": ("seg", lambda array: 3.5 * array, ("seg", "labels that BRATS does not have", "7")),
    "beside": ("seg", corner, ("", "labelled voxels lie outside the brain", "")),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_file_is_flagged_and_nothing_else(
    name: str, tmp_path: Path, write_case: CaseWriter, rewrite: Callable[..., None]
) -> None:
    kind, change, (contrast, what, number) = ODD[name]
    write_case(tmp_path / "cases", "sound", seed=1)
    rewrite(write_case(tmp_path / "cases", name)[kind], change)
    (flag,) = flagged(tmp_path / "cases")
    assert (flag.subject, flag.contrast) == (name, contrast)
    assert what in flag.what
    assert number in flag.number


def test_a_sound_cohort_has_no_flags(tmp_path: Path, write_case: CaseWriter) -> None:
    for seed in range(3):
        write_case(tmp_path / "cases", f"s{seed}", seed=seed)
    assert flagged(tmp_path / "cases") == []


def test_the_same_image_under_two_names_is_flagged_once_per_contrast(tmp_path: Path, write_case: CaseWriter) -> None:
    for path in write_case(tmp_path / "cases", "a").values():
        copy = tmp_path / "cases/b" / path.name.replace("a_", "b_")
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(path, copy)
    twice = write_case(tmp_path / "cases", "c", seed=1)
    shutil.copy(twice["t1"], twice["t1c"])
    same = [(flag.subject, flag.contrast, flag.what) for flag in flagged(tmp_path / "cases")]
    assert same == [
        *(("b", m, f"the same image as a's {m}") for m in ("flair", "t1", "t1c", "t2")),
        ("c", "t1c", "the same image as its t1"),
    ]


def test_a_copied_file_is_flagged_even_if_another_brain_mask_changes_the_stored_image(
    tmp_path: Path, write_case: CaseWriter, rewrite: Callable[..., None]
) -> None:
    first, second = write_case(tmp_path / "cases", "a"), write_case(tmp_path / "cases", "b", seed=1)
    shutil.copy(first["t2"], second["t2"])
    rewrite(second["t1"], lambda array: np.where(np.arange(28) < 4, 50, array))
    copies = [flag for flag in flagged(tmp_path / "cases") if "same image" in flag.what]
    assert copies == [Flag("b", "t2", "the same image as a's t2", "")]


def test_a_contrast_that_only_other_subjects_have_is_flagged(tmp_path: Path, write_case: CaseWriter) -> None:
    write_case(tmp_path / "cases", "whole", seed=1)
    write_case(tmp_path / "cases", "lacks", seg=False)["flair"].unlink()
    lacking = flagged(tmp_path / "cases", "require=[t2]")
    assert [(flag.subject, flag.contrast) for flag in lacking] == [("lacks", "flair"), ("lacks", "seg")]


def test_brain_and_tumour_outside_the_crop_are_flagged(
    tmp_path: Path, write_case: CaseWriter, rewrite: Callable[..., None]
) -> None:
    large = write_case(tmp_path / "cases", "large", size=52)

    def at_the_side(array: Array) -> Array:
        array[:] = 0
        array[6:11, 22:30, 22:30] = 2
        return array

    rewrite(large["seg"], at_the_side)
    outside = flagged(tmp_path / "cases", "recipe.crop=[148,148,148]")
    assert [(flag.contrast, flag.what) for flag in outside] == [
        ("", "a brain of 2.4 litres is larger than most: was the skull removed?"),
        ("", "brain outside the crop"),
        ("seg", "40% of the tumour lies outside the crop: recipe.crop=brain keeps every brain whole"),
    ]
    assert 0.5 < float(outside[1].number.rstrip("%")) < 10

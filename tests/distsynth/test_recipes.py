"""A cohort of another recipe or voxel size is refused, before a training and in an evaluation; another crop or type is none."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from workbench import untrained_run

from distsynth import evaluate
from distsynth.config import compose
from distsynth.data.recipes import other_tumour, refuse_other, spacings
from distsynth.preflight import check
from preprocess import to_zarr
from preprocess.cohort import Cohort
from preprocess.recipe import Recipe
from preprocess.shared.errors import StoreError

UNET = ["variant=mimo", "method=unet_small", "method.width=4"]
THREE = [[3.0, 3.0, 3.0]]


def cohort(*voxels: list[float], **recipe: Any) -> Any:
    """A cohort with a subject for each (z, y, x) voxel size."""
    stored = Recipe().stored()
    stored["n4"] |= recipe.pop("n4", {})
    records = {f"s{number}": SimpleNamespace(spacing=voxel) for number, voxel in enumerate(voxels)}
    return SimpleNamespace(path="clinic.zarr", recipe=stored | recipe, record=records.__getitem__, subjects=list(records))


def refusal(theirs: Any, recipe: Any = None, trained: Any = THREE) -> str:
    with pytest.raises(StoreError) as caught:
        refuse_other("data.external.clinic", theirs, theirs.subjects, recipe or Recipe().stored(), trained)
    return str(caught.value)


def test_what_may_differ_is_not_refused() -> None:
    theirs = cohort([3.05, 2.95, 3.0], crop=[100.0, 100.0, 100.0], dtype="float32", chunks="patch", resample="t1", spacing=3.0)
    refuse_other("data.external.clinic", theirs, theirs.subjects, Recipe().stored(), THREE)
    off = cohort([3.0, 3.0, 3.0], n4={"enabled": False, "iterations": [5]})
    refuse_other(
        "data.external.clinic", off, off.subjects, cohort(n4={"enabled": False}).recipe, THREE
    )  # settings of what is off


def test_the_sentence_names_store_setting_both_values_and_what_would_be_right() -> None:
    assert refusal(cohort([3.0, 3.0, 3.0], [4.0, 4.0, 4.0])) == (
        "data.external.clinic=clinic.zarr holds s1 with voxels of 4 x 4 x 4 mm and the training's cohort has 3 x 3 x 3 mm: "
        "make it again with to_zarr recipe.spacing=3 and another store="
    )
    assert refusal(cohort([3.0, 3.0, 3.0], clip_percent=0.5)) == (
        "data.external.clinic=clinic.zarr was made with recipe.clip_percent=0.5 and the training's cohort with 1.0: "
        "make it again with to_zarr recipe.clip_percent=1.0 and another store="
    )
    assert refusal(cohort([3.0, 3.0, 3.0], n4={"enabled": False})).endswith(
        "make it again with to_zarr recipe.n4.enabled=true and another store="
    )
    assert refusal(cohort([3.0, 3.0, 3.0], n4={"iterations": [5]})).endswith(
        f"to_zarr 'recipe.n4.iterations={list(Recipe().n4.iterations)}' and another store="
    )
    assert refusal(cohort([5.0, 1.0, 1.0]), trained=[[2.0, 1.0, 1.0]]).endswith("make both cohorts with the same recipe.spacing=")


def test_voxels_as_scanned_may_lie_between_those_of_the_training() -> None:
    own = cohort([1.0, 1.0, 1.0], [2.0, 1.0, 1.0], [2.0, 1.0, 1.0])
    trained = spacings(own, own.subjects)
    assert trained == [[1.0, 1.0, 1.0], [2.0, 1.0, 1.0]]
    inside = cohort([1.5, 1.0, 1.0])
    refuse_other("data.external.clinic", inside, inside.subjects, own.recipe, trained)
    assert "holds s0 with voxels of 1 x 1 x 3 mm" in refusal(cohort([3.0, 1.0, 1.0]), trained=trained)


def test_a_recipe_of_version_0_1_has_the_defaults() -> None:
    old = deepcopy(Recipe().stored())
    for name in ("resample", "chunks"):
        old.pop(name)
    theirs = cohort([3.0, 3.0, 3.0])
    refuse_other("data.external.clinic", theirs, theirs.subjects, old, THREE)


def test_other_labels_that_count_as_tumour_are_said() -> None:
    whole, core = cohort([3.0, 3.0, 3.0]), cohort([3.0, 3.0, 3.0], labels=[1, 3])
    assert other_tumour("data.external.clinic", whole, whole.recipe) == ""
    assert other_tumour("data.external.clinic", core, cohort(labels=[1, 4]).recipe) == ""
    assert other_tumour("data.external.clinic", core, whole.recipe) == (
        "warning: data.external.clinic=clinic.zarr counts labels=[1, 3] as tumour and the training's cohort all labels: "
        "compare their tumour scores only if these mean the same"
    )


@pytest.fixture
def cohort_of(phantoms: Path, tmp_path: Path) -> Callable[..., Path]:
    def store(name: str, *words: str) -> Path:
        fast = ["recipe.n4.iterations=[5]", "workers=1", f"store={tmp_path / name}"]
        assert to_zarr.main([f"source={phantoms}", *fast, *words]) == 0
        return tmp_path / name

    return store


def test_it_is_refused_before_the_training_and_in_the_evaluation(
    store: Path, cohort_of: Callable[..., Path], tmp_path: Path
) -> None:
    coarse = cohort_of("coarse.zarr", "recipe.spacing=7")
    sentence = r"coarse.zarr holds .* with voxels of 7 x 7 x 7 mm and the training's cohort has 5 x 5 x 5 mm: .* recipe.spacing=5 and another store=$"
    with pytest.raises(StoreError, match=sentence):
        check(compose([*UNET, f"data.store={store}", f"data.external.clinic={coarse}"]), 1)
    run = untrained_run(tmp_path / "run", *UNET, f"data.store={store}")
    for words in (f"data.external.clinic={coarse}", f"data.store={coarse}"):
        with pytest.raises(StoreError, match=f"^{words.split('=', maxsplit=1)[0]}=.*{sentence}"):
            evaluate.main([str(run.path), words])
    assert not run.scores.exists()
    assert Cohort.open(coarse).subjects == Cohort.open(store).subjects


def test_a_cohort_with_other_labels_is_scored_with_a_warning_and_the_table(
    store: Path, cohort_of: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    core = cohort_of("core.zarr", "labels=[1]", "recipe.spacing=5")
    run = untrained_run(tmp_path / "run", *UNET, f"data.store={store}")
    capsys.readouterr()
    assert evaluate.main([str(run.path), f"data.external.clinic={core}"]) == 0
    printed = capsys.readouterr()
    assert printed.err.count("counts labels=[1] as tumour and the training's cohort all labels") == 1
    assert "| variant |" in printed.out
    assert "patients of data.external.clinic" in printed.out

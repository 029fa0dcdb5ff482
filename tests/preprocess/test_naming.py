"""A store remembers how its source is named; a first run that comes to nothing leaves nothing in the way; the demo's defaults are the demo's only."""

import json
from pathlib import Path

import numpy as np
import pytest
from sick import Sick

from preprocess import to_zarr
from preprocess.cohort import Cohort
from preprocess.explore.__main__ import main as explore
from preprocess.shared.errors import SettingError, StoreError, UserError
from preprocess.to_zarr import main

FAST = ("recipe.n4.enabled=false", "workers=1", "split.test=1", "checks=warn")


def own_names(folder: Path, write_case, case: str) -> None:
    """A case under names that need a pattern."""
    for kind, path in write_case(folder / "raw", case).items():
        (folder / "source" / case).mkdir(parents=True, exist_ok=True)
        path.rename(
            folder / "source" / case / f"{kind}-post.nii.gz" if kind == "t1c" else folder / "source" / case / f"{kind}.nii.gz"
        )


def interrupt(*arguments: object, **settings: object) -> None:
    raise KeyboardInterrupt


def naming(store: Path) -> dict:
    return json.loads((store / "zarr.json").read_text())["attributes"].get("naming", {})


def test_pattern_and_names_are_remembered_for_another_run_and_for_explore(tmp_path: Path, write_case, capsys) -> None:
    own_names(tmp_path, write_case, "a")
    words = (f"source={tmp_path / 'source'}", f"store={tmp_path / 'c.zarr'}", *FAST)
    own = ("pattern={case}/{modality}.nii.gz", "names.t1c-post=t1c")
    assert main([*words, *own]) == 0
    assert naming(tmp_path / "c.zarr") == {"pattern": "{case}/{modality}.nii.gz", "names": {"t1c-post": "t1c"}}
    own_names(tmp_path, write_case, "b")
    capsys.readouterr()
    assert main(list(words)) == 0
    assert "remembers: 'pattern={case}/{modality}.nii.gz' names.t1c-post=t1c" in capsys.readouterr().out
    assert Cohort.open(tmp_path / "c.zarr").subjects == ["a", "b"]
    assert explore([str(tmp_path / "c.zarr"), f"source={tmp_path / 'source'}", f"out={tmp_path / 'page'}"]) == 0
    write_case(tmp_path / "source", "other")
    with pytest.raises(StoreError, match=r"holds a, which source=.* does not with these names \(before: 'pattern="):
        main([*words, "layout=auto"])


def test_another_naming_that_gives_all_subjects_is_used_and_remembered(tmp_path: Path, write_case) -> None:
    write_case(tmp_path / "source", "a")
    write_case(tmp_path / "source", "b-c", layout="brats2023", seed=1)
    words = (f"source={tmp_path / 'source'}", f"store={tmp_path / 'c.zarr'}", *FAST)
    assert main([*words, "layout=brats2018"]) == 1  # b-c is left out
    assert naming(tmp_path / "c.zarr") == {"layout": "brats2018"}
    assert main([*words, "layout=auto"]) == 0  # as the message advises
    whole = tmp_path / "whole.zarr"
    assert main([words[0], f"store={whole}", *FAST]) == 0
    for path in (each for each in whole.rglob("*") if each.is_file()):
        assert path.read_bytes() == (tmp_path / "c.zarr" / path.relative_to(whole)).read_bytes()


def test_a_first_run_that_comes_to_nothing_leaves_no_store(tmp_path: Path, write_case, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write_case(tmp_path / "source", "a")
    words = (f"source={tmp_path / 'source'}", f"store={tmp_path / 'c.zarr'}", *FAST)
    whole = files["t1"].read_bytes()
    files["t1"].write_bytes(b"")
    with pytest.raises(UserError, match="no case of"):
        main([*words, "recipe.spacing=5"])
    assert not (tmp_path / "c.zarr").exists()
    files["t1"].write_bytes(whole)
    with monkeypatch.context() as patch:
        patch.setattr(to_zarr, "process", interrupt)
        with pytest.raises(KeyboardInterrupt):
            main([*words, "recipe.spacing=6"])
    assert not list(tmp_path.glob("c.zarr*"))
    assert main(list(words)) == 0


def test_an_empty_store_of_another_recipe_is_taken_over(tmp_path: Path, write_case) -> None:
    write_case(tmp_path / "source", "a")
    words = (f"source={tmp_path / 'source'}", f"store={tmp_path / 'c.zarr'}", *FAST)
    settings, _ = to_zarr.settings_of([*words, "recipe.spacing=5"])
    with to_zarr.plan(settings)[1].lock("launch"):
        pass  # a launcher whose parts never ran
    assert (tmp_path / "c.zarr" / "zarr.json").is_file()
    assert main([*words, "part=1/1"]) == 0
    assert main([*words, "part=finish"]) == 0
    assert Cohort.open(tmp_path / "c.zarr").recipe["spacing"] == 0


def test_the_demos_defaults_are_for_the_demo_only(tmp_path: Path, write_case, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingError, match="source= is missing: give source=PATH, a folder of scans, and store=PATH"):
        main([])
    write_case(tmp_path / "real", "a")
    with pytest.raises(SettingError, match="store= is missing: give store=PATH, the cohort to make of source=real"):
        main(["source=real"])
    with pytest.raises(SettingError, match="source= is missing: give source=PATH, the folder of scans of which to make store=c"):
        main(["store=c.zarr"])
    assert list(Path().iterdir()) == [Path("real")]
    write_case(tmp_path / "data" / "phantom", "Brats18_PHANTOM_000_1")
    assert main(list(FAST)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == lines[-1] == "made-up patients; yours: source=PATH store=PATH"
    assert Cohort.open("data/phantom.zarr").subjects == ["Brats18_PHANTOM_000_1"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "next: python slurm/launch.py sweep=lr data.store="),
        (["split.test=1"], "score a run on it with python -m distsynth.evaluate run=RUN data.external.NAME="),
        (["split.val=0"], "no patient is in val, so that no sweep can be trained and tested: give the same command with other split.* settings"),
        (["split.counts=[2,3,1]"], "next: python slurm/launch.py sweep=lr data.store="),
    ],
)  # fmt: skip
def test_the_next_command_is_one_that_works(tmp_path: Path, write_case, capsys, words: list[str], line: str) -> None:
    for seed in range(6):
        write_case(tmp_path / "source", f"case{seed}", seed=seed, size=12)
    assert main([f"source={tmp_path / 'source'}", f"store={tmp_path / 'c.zarr'}", *FAST[:2], FAST[3], *words]) == 0
    assert line in capsys.readouterr().out


def test_where_contrasts_or_segmentations_lack_the_next_command_does_without(tmp_path: Path, write_case, capsys) -> None:
    for seed in range(6):
        files = write_case(tmp_path / "source", f"case{seed}", seed=seed, size=12)
        files["seg"].unlink()
    words = [f"source={tmp_path / 'source'}", f"store={tmp_path / 'c.zarr'}", *FAST[:2], FAST[3]]
    assert main(words) == 0
    assert "\nnext: python slurm/launch.py sweep=lr method=unet data.store=" in capsys.readouterr().out
    for path in (tmp_path / "source").rglob("*_t1ce*"):
        path.unlink()
    assert main([*words[:1], f"store={tmp_path / 'd.zarr'}", *words[2:], "require=[t2]"]) == 0
    wanted = "\nnext: python slurm/launch.py method=unet variant=siso 'variant.inputs=[t1]' 'variant.outputs=[t2]' data.store="
    assert wanted in capsys.readouterr().out


def test_subjects_made_of_other_files_are_made_again(sick: Sick, capsys: pytest.CaptureFixture[str]) -> None:
    """A slip in the names, corrected in the same store."""
    right = ("pattern=**/{case}_{modality}.nii.gz", "names.t1ce=t1c")
    words = (f"source={sick.source}", f"store={sick.store}", "workers=1", "recipe.n4.enabled=false", "split.test=1")
    assert main([*words, *right, "names.t2=flair", "names.flair=t2"]) == 0
    wrong = Cohort.open(sick.store).image(sick.name)
    assert main([*words, *right]) == 0
    assert f"1 subjects are made again, since their files are other ones now, such as {sick.name}" in capsys.readouterr().out
    np.testing.assert_array_equal(Cohort.open(sick.store).image(sick.name)[2:], wrong[[3, 2]])
    assert main([*words, *right]) == 0
    assert "made again" not in capsys.readouterr().out

"""A store remembers how its source is named; a first run that comes to nothing leaves nothing in the way; the demo's defaults are the demo's only."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from sick import Sick

from preprocess import restore, to_zarr
from preprocess.cohort import Cohort
from preprocess.cohort.verify import verify
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


def six(place: Path, write_case, count: int = 6) -> list[str]:
    for seed in range(count):
        write_case(place / "source", f"case{seed}", seed=seed, size=12)
    return [f"source={place / 'source'}", f"store={place / 'c.zarr'}", *FAST[:2], FAST[3]]


def command_lines(text: str) -> list[list[str]]:
    return [shlex.split(line.partition(": ")[2]) for line in text.splitlines() if line.startswith(("next: ", "then: "))]


def test_of_a_small_cohort_a_look_and_one_training_come_first_and_run_as_they_stand(
    tmp_path: Path, write_case, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    words = six(Path("./x y/.."), write_case, 3)
    assert main([*words, "split.folds=2"]) == 0
    advice = capsys.readouterr().out.partition("give the same command with other split.* settings, ")[2]
    assert main([*words, *shlex.split(advice)]) == 0
    look, train = command_lines(capsys.readouterr().out)
    assert look == ["python", "-m", "preprocess.explore", "c.zarr"]
    assert train[:3] == ["python", "-m", "distsynth.train"]
    from distsynth import preflight
    from distsynth.config import compose
    from distsynth.run_directory import run_of

    run, settings = run_of(train[3:])
    assert run == "runs/c"
    preflight.check(compose(settings), 1)  # all that a training checks before it begins


def test_a_cohort_of_six_is_also_told_of_sweeps_and_one_of_two_of_what_it_lacks(tmp_path: Path, write_case, capsys) -> None:
    assert main(six(tmp_path, write_case)) == 0
    assert [words[2] for words in command_lines(capsys.readouterr().out)] == ["preprocess.explore", "distsynth.train", "sweep=lr"]
    assert main([*six(tmp_path / "two", write_case, 2)]) == 0
    assert "2 of at least 4 patients are there: add some" in capsys.readouterr().out


@pytest.mark.parametrize("typed", ["./c.zarr", "c.zarr/", "x/../c.zarr", "./x/.././c.zarr//"])
def test_a_path_typed_in_another_way_is_the_same_store(
    tmp_path: Path, write_case, monkeypatch: pytest.MonkeyPatch, capsys, typed: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    words = six(Path(), write_case, 1)
    assert main([words[0], f"store={typed}", *words[2:], "split.test=1"]) == 0
    shown = capsys.readouterr().out
    assert "explore c.zarr\n" in shown
    assert typed not in shown
    assert main([*words, "split.test=1"]) == 0
    assert "1 subjects were kept from an earlier run" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.zarr", "source", "x"]


def test_nothing_is_written_into_or_read_from_a_cohort_as_scans(tmp_path: Path, write_case) -> None:
    words = [*six(tmp_path, write_case, 1), "split.test=1"]
    assert main(words) == 0
    for inside in ("c.zarr/sub", "c.zarr/subjects/a.zarr", "c.zarr/x/../y"):
        with pytest.raises(StoreError, match=r"lies inside the cohort .*c\.zarr: give a path beside it"):
            main([words[0], f"store={tmp_path / inside}", *words[2:]])
    for source in ("c.zarr", "c.zarr/subjects"):
        with pytest.raises(UserError, match="is a cohort, or lies in one: give the folder of the scans"):
            main([f"source={tmp_path / source}", f"store={tmp_path / 'd.zarr'}", *words[2:]])
    for out in ("c.zarr", "c.zarr/out"):
        with pytest.raises(SettingError, match="lies inside a cohort"):
            restore.main([f"store={tmp_path / 'c.zarr'}", "subject=case0", f"out={tmp_path / out}"])
    assert list(verify(Cohort.open(tmp_path / "c.zarr"))) == []


def test_layout_in_capitals_is_remembered_as_the_layout(tmp_path: Path, write_case) -> None:
    words = [*six(tmp_path, write_case, 1), "split.test=1"]
    assert main([*words, "layout=BraTS2018"]) == 0
    assert naming(tmp_path / "c.zarr") == {"layout": "brats2018"}


def test_a_box_beside_the_crop_that_finds_it_is_one_sentence(tmp_path: Path, write_case) -> None:
    words = [*six(tmp_path, write_case, 1), "split.test=1"]
    with pytest.raises(SettingError, match=r"^recipe\.crop=brain finds recipe\.box= by itself: give only one of them$"):
        main([*words, "recipe.crop=brain", "recipe.box=16,16,16"])
    assert main([*words, "recipe.crop=brain"]) == 0
    box = Cohort.open(tmp_path / "c.zarr").recipe["box"]
    assert main([*words, "recipe.crop=brain", f"recipe.box={box}"]) == 0  # as a message about another recipe may advise


def test_duplicates_are_one_sentence(tmp_path: Path, write_case, capsys) -> None:
    words = [*six(tmp_path, write_case, 1), "split.test=1"]
    for name in ("copy1", "copy2"):
        write_case(tmp_path / "source", name, seed=0, size=12)
    assert main(words) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "are the same" in line]
    (line,) = lines
    assert line.startswith("warning 8 pairs of images are the same, such as case0's ")
    assert line.endswith(": are these scans under two names?")

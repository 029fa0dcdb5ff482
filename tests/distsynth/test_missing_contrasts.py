"""A cohort whose subjects lack contrasts trains those variants that the others allow, and says whom it leaves out."""

from pathlib import Path

from distsynth.tracking.journal import read
from preprocess import to_zarr
from preprocess.cohort import Cohort


def test_training_leaves_out_who_lacks_a_contrast_and_says_how_many(
    phantoms: Path, tmp_path: Path, tiny: tuple[str, ...], run
) -> None:
    cases = sorted(folder for folder in phantoms.glob("?GG/*"))
    for i, case in enumerate(cases):
        folder = tmp_path / "source" / case.parent.name / case.name
        folder.mkdir(parents=True)
        for path in case.iterdir():
            if i not in (2, 5) or "_t2." not in path.name:
                (folder / path.name).symlink_to(path)
    store = tmp_path / "c.zarr"
    words = [f"source={tmp_path / 'source'}", f"store={store}", "recipe.n4.enabled=false", "workers=1", "require=[t1]"]
    assert to_zarr.main(words) == 0
    lacking = {cases[i].name for i in (2, 5)}
    assert {name for name, record in Cohort.open(store).records.items() if "t2" not in record.modalities} == lacking
    done = run("distsynth.train", f"run={tmp_path / 'run'}", f"data.store={store}", "variant=siso", *tiny, "train.epochs=1")
    assert done.returncode == 0, done.stderr
    assert f"2 of 10 subjects of {store} lack a contrast of variant siso and are left out" in done.stdout + done.stderr
    lines, _ = read(tmp_path / "run" / "journal.jsonl")
    assert lines[-1]["status"] == "finished"
    assert not any(name in path.read_text() for path in (tmp_path / "run").glob("*.json") for name in lacking)

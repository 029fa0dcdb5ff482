"""A new user's first day, as they type it: three cases named in three ways in one folder -> cohort -> one training -> table -> MLflow -> image."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

KINDS = ("t1", "t1ce", "t2", "flair", "seg")
NAMED = {
    "2018": ("{name}/{name}_{word}", KINDS),
    "2023": ("{name}/{name}-{word}", ("t1n", "t1c", "t2w", "t2f", "seg")),
    "bids": ("{name}/anat/{name}_{word}", ("T1w", "ce-gadolinium_T1w", "T2w", "FLAIR", "dseg")),
}
PATH = """
preprocess.to_zarr my_scans my.zarr split.segmentor=0 split.val=0.5
preprocess.explore my.zarr source=my_scans
distsynth.train variant=siso method=unet_small train.epochs=1 data.store=my.zarr run=runs/first
distsynth.tracking.sync runs/first
distsynth.synthesise run=runs/first source=my_scans/P2_1 out=made outputs=all
"""


def name_them(phantoms: Path, folder: Path) -> None:
    """Copy three phantoms, each named by another scheme."""
    for case, name, (place, words) in zip(
        sorted(phantoms.glob("*GG/*")), ("P1_1", "P2_1", "sub-03"), NAMED.values(), strict=False
    ):
        for kind, word in zip(KINDS, words, strict=True):
            path = folder / f"{place.format(name=name, word=word)}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(case / f"{case.name}_{kind}.nii.gz", path)


@pytest.mark.full
def test_the_first_day(phantoms: Path, tmp_path: Path, run: Callable) -> None:
    name_them(phantoms, tmp_path / "my_scans")
    shown = {}
    for line in PATH.strip().splitlines():
        done = run(*line.split(), cwd=tmp_path)
        assert done.returncode == 0, f"{line}: {done.stderr}"
        shown[line.split()[0]] = done.stdout
    assert [line.split(":")[0] for line in shown["preprocess.to_zarr"].splitlines()[:3]] == [
        "layout brats2018",
        "layout brats2023",
        "layout bids",
    ]
    assert "PSNR in dB, higher is better, mean over 1 test patient" in shown["distsynth.train"]
    assert "python -m distsynth.tracking.sync runs/first" in shown["distsynth.train"]
    assert "mlflow ui" in shown["distsynth.tracking.sync"]
    assert (tmp_path / "made" / "P2_1_t2_synth.nii.gz").is_file()
    assert list(json.loads((tmp_path / "runs/first/evaluation/scores.json").read_text())["cohorts"]) == ["val", "test"]

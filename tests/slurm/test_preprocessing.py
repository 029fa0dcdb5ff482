"""Preprocessing through the launcher: the same words, the same store as to_zarr's."""

from pathlib import Path

import pytest

from preprocess.cohort import Cohort
from preprocess.shared.errors import SettingError, UserError
from slurm.cluster import ClusterSettings
from slurm.preprocessing import launch_preprocessing

SCRIPT = str(Path(__file__).parents[2] / "slurm" / "launch.py")
FAST = ("recipe.n4.enabled=false", "workers=1")


def test_on_this_machine_it_is_to_zarr(tmp_path: Path, run, phantoms: Path) -> None:
    words = (f"source={phantoms}", f"store={tmp_path / 'c.zarr'}", "split.counts=[3,3,2]", *FAST)
    done = run(SCRIPT, "job=preprocess", "cluster=local", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    cohort = Cohort.open(tmp_path / "c.zarr")
    assert (len(cohort.subjects), len(cohort.split("test"))) == (10, 2)
    assert not (tmp_path / "runs").exists()


def test_the_plan_is_shown_and_nothing_done(tmp_path: Path, run, phantoms: Path) -> None:
    words = ("cluster=slurm", "cluster.array=3", f"source={phantoms}", f"store={tmp_path / 'c.zarr'}", "dry_run=true")
    done = run(SCRIPT, "job=preprocess", *words, cwd=tmp_path)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "10 cases in 3 parts on slurm, 4 workers each")
    assert not list(tmp_path.iterdir())


def test_a_dry_run_checks_the_store_as_the_real_run_does(store: Path, phantoms: Path) -> None:
    before = sorted(path for path in store.rglob("*"))
    cluster = ClusterSettings(kind="slurm")
    others = phantoms.parent / "fewer"
    for words, sentence in (
        ([f"source={phantoms}", "recipe.spacing=7"], "was made with another recipe"),
        ([f"source={next(phantoms.glob('*'))}", "recipe.n4.iterations=[5]"], "holds .*, which source=.* does not"),
    ):
        for dry_run in (True, False):
            with pytest.raises(UserError, match=sentence):
                launch_preprocessing(cluster, [*words, f"store={store}"], others, 1.0, dry_run)
    assert sorted(path for path in store.rglob("*")) == before
    assert not others.exists()


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("part=1/2", "part=1/2 is set by the launcher: leave it out"),
        ("recipe.spcing=3", "did you mean recipe.spacing"),
        ("train.lr=1", "unknown setting train"),
    ],
)
def test_a_mistake_is_refused_before_anything_is_submitted(tmp_path: Path, phantoms: Path, word: str, sentence: str) -> None:
    words = [f"source={phantoms}", f"store={tmp_path / 'c.zarr'}", word]
    with pytest.raises(SettingError, match=sentence):
        launch_preprocessing(ClusterSettings(kind="slurm"), words, tmp_path / "logs", 1.0, dry_run=False)
    assert not list(tmp_path.iterdir())

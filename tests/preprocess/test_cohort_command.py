"""verify names every file that has changed; info and tree show what a cohort holds; ordinary viewers open a subject."""

import json
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import zarr
from ome_zarr_models.v05 import Image, ImageLabel, Labels

from preprocess import to_zarr
from preprocess.cohort import Cohort
from preprocess.cohort.__main__ import main as cohort_command
from preprocess.cohort.verify import verify
from preprocess.shared.errors import StoreError

NAMES = ("case [_b] é", "dotsa")
IMAGE_SHARD, SEG_SHARD = "image/c/0/0/0/0", "labels/seg/0/c/0/0/0"


def make(source: Path, store: Path, *words: str) -> Path:
    to_zarr.main(
        [f"source={source}", f"store={store}", "workers=1", "recipe.n4.enabled=false", "recipe.crop=[112,93,93]", *words]
    )
    return store


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, write_case) -> Path:
    """A store of two subjects and a case that was set aside, at a path with special characters."""
    place = tmp_path_factory.mktemp("place") / "a [" / "b] é"
    for seed, name in enumerate(NAMES):
        write_case(place / "source" / "HGG" / "x", name, seed=seed, size=12)
    write_case(place / "source", "lacking", size=12)["t2"].unlink()
    return make(place / "source", place / "c [d].zarr")


@pytest.fixture
def store(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "c.zarr"))


def faults(store: Path) -> list[str]:
    try:
        return list(verify(Cohort.open(store)))
    except StoreError as error:  # the manifest itself
        return [str(error)]


def test_a_sound_cohort_has_no_fault(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cohort_command(["verify", str(sound)]) == 0
    assert capsys.readouterr().out == f"{sound}: 2 subjects, no byte has changed\n"


def test_any_changed_byte_is_detected_and_its_file_or_array_named(store: Path) -> None:
    rng = np.random.default_rng(0)
    files = sorted(path for path in store.rglob("*") if path.is_file())
    assert len(files) == 4 + 2 * (5 + 2 + 1)
    for path in [*files, *(files[i] for i in rng.integers(0, len(files), 60))]:
        whole = path.read_bytes()
        changed = bytearray(whole)
        changed[rng.integers(0, len(whole))] ^= rng.integers(1, 256)
        path.write_bytes(changed)
        array = path.relative_to(store).as_posix().partition("/c/0/")[0]
        assert any(str(store / array) in sentence for sentence in faults(store)), path
        path.write_bytes(whole)
    assert faults(store) == []


@pytest.mark.parametrize(
    "name", ["manifest.json", "rejected.json", "records/dotsa.json", "zarr.json", "subjects/dotsa/zarr.json"]
)
@pytest.mark.parametrize(("old", "new"), [(b"\n", b"\r"), (b" ", b"\t")])
def test_other_white_space_is_another_byte(store: Path, name: str, old: bytes, new: bytes) -> None:
    text = (store / name).read_bytes()
    (store / name).write_bytes(text.replace(old, new, 1))
    assert any(str(store / name) in sentence for sentence in faults(store))


def retell(store: Path) -> None:
    """Change a mean in a record."""
    path = store / "records/dotsa.json"
    commit = json.loads(path.read_text())
    commit["record"]["intensity"]["t1"]["mean"] += 1
    path.write_text(json.dumps(commit))


def forget(store: Path) -> None:
    shutil.rmtree(store / "subjects/dotsa")
    (store / "records/dotsa.json").unlink()


def stranger(store: Path) -> None:
    shutil.copytree(store / "subjects/dotsa", store / "subjects/stranger")
    shutil.copy(store / "records/dotsa.json", store / "records/stranger.json")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a missing shard": (lambda s: (s / "subjects/dotsa" / IMAGE_SHARD).unlink(), "subjects/dotsa/image/c/0/0/0/0 is missing"),
    "a cut shard": (
        lambda s: (s / "subjects/dotsa" / SEG_SHARD).write_bytes(b"cut"), "subjects/dotsa/labels/seg/0/c/0/0/0 is damaged"
    ),
    "an empty shard": (
        lambda s: (s / "subjects/dotsa" / IMAGE_SHARD).write_bytes(b""), "subjects/dotsa/image/c/0/0/0/0 is empty"
    ),
    "another's shard": (
        lambda s: shutil.copy(s / "subjects/case [_b] é" / IMAGE_SHARD, s / "subjects/dotsa" / IMAGE_SHARD),
        "subjects/dotsa/image is not the array that the manifest names",
    ),
    "no record": (lambda s: (s / "records/dotsa.json").unlink(), "records/dotsa.json cannot be read (No such file"),
    "another record": (retell, "records/dotsa.json has changed since it was written"),
    "no subject": (forget, "records/dotsa.json cannot be read (No such file"),
    "no metadata": (
        lambda s: (s / "subjects/dotsa/labels/zarr.json").unlink(), "subjects/dotsa/labels/zarr.json cannot be read (No such file"
    ),
    "a subject not in the manifest": (stranger, "subject stranger is in"),
    "a stray file": (lambda s: (s / "subjects/dotsa/notes.txt").touch(), "subjects/dotsa/notes.txt does not belong"),
    "a stray file at the top": (lambda s: (s / "notes.txt").touch(), "notes.txt does not belong"),
    "no list of those set aside": (lambda s: (s / "rejected.json").unlink(), "rejected.json cannot be read"),
    "another list of those set aside": (lambda s: (s / "rejected.json").write_text("{}"), "rejected.json has changed since it was written"),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_named_with_exit_status_1(store: Path, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    damage, sentence = DAMAGE[what]
    damage(store)
    assert cohort_command(["verify", str(store)]) == 1
    *lines, last = capsys.readouterr().out.splitlines()
    assert any(sentence in line for line in lines)
    assert all("dotsa" in line or "stranger" in line or "notes" in line or "rejected" in line for line in lines)
    assert last == f"{store}: 2 subjects, {len(lines)} fault{'s' * (len(lines) > 1)}"


def test_one_damaged_record_hides_no_fault_of_another_subject(store: Path) -> None:
    retell(store)
    other = next(p for p in (store / "subjects").iterdir() if p.is_dir() and p.name != "dotsa")
    (other / IMAGE_SHARD).unlink()
    assert [name in " ".join(faults(store)) for name in ("records/dotsa.json", f"{other.name}/image")] == [True, True]
    Cohort.open(store).labels(other.name)


def test_verify_as_a_user_runs_it(store: Path, run) -> None:
    (store / "subjects/dotsa" / IMAGE_SHARD).unlink()
    done = run("preprocess.cohort", "verify", str(store))
    assert (done.returncode, "image/c/0/0/0/0 is missing" in done.stdout) == (1, True)
    for words in (["verify", str(store / "none")], ["verify"], ["shrink", str(store)]):
        refused = run("preprocess.cohort", *words)
        assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)


def test_info_shows_what_the_cohort_holds(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cohort_command(["info", str(sound)]) == 0
    shown = capsys.readouterr().out
    for line in (
        f"{sound}: 2 subjects of 2 patients, ",
        "contrasts: t1 2, t1c 2, t2 2, flair 2; segmentations 2",
        "stored grids (z, y, x): 10x10x12 of 9.33333x9.33333x9.33333 mm (2)",
        "scanned (x, y, z): 12x12x12 LPS (2)",
        f"cases set aside: 1, see {sound / 'rejected.json'}",
        f"digest {Cohort.open(sound).digest}",
        "recipe.n4.enabled=False",
        "recipe.crop=[112, 93, 93]",
    ):
        assert line in shown, line


def test_tree_shows_the_arrays_and_names_a_missing_file(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cohort_command(["tree", str(store)]) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[0] == f"{store} (Zarr v3, OME-Zarr 0.5 images)"
    assert "\n  subjects/dotsa\n" in shown
    assert "image  float16  (4, 10, 10, 12)  chunks (4, 1, 10, 12)" in shown
    assert "labels/seg/0  uint8  (10, 10, 12)  chunks (1, 10, 12)" in shown
    (store / "subjects/dotsa" / SEG_SHARD).unlink()
    with pytest.raises(StoreError, match="labels/seg/0/c/0/0/0 is missing"):
        cohort_command(["tree", str(store)])


def test_every_subject_is_a_valid_ome_zarr_image_with_its_scale(tmp_path: Path, write_case) -> None:
    files = write_case(tmp_path / "source", "a", size=12)
    write_case(tmp_path / "source", "b", size=12, seg=False)
    for path in files.values():
        nib.save(nib.Nifti1Image(nib.load(path).get_fdata(dtype=np.float32), np.diag([-10.0, -12.0, 14.0, 1.0])), path)
    store = make(tmp_path / "source", tmp_path / "c.zarr")
    for subject, (z, y, x) in (("a", (14.0, 12.0, 10.0)), ("b", (28 / 3,) * 3)):
        group = zarr.open_group(store / "subjects" / subject, mode="r")
        image, seg = Image.from_zarr(group), ImageLabel.from_zarr(group["labels/seg"])
        assert Labels.from_zarr(group["labels"]).attributes.ome.labels == ["seg"]
        scales = [[1.0, z, y, x], [z, y, x]]
        for part, axes, scale in zip((image, seg), ("czyx", "zyx"), scales, strict=True):
            (multiscale,) = part.attributes.ome.multiscales
            assert "".join(axis.name for axis in multiscale.axes) == axes
            assert [axis.unit for axis in multiscale.axes if axis.type == "space"] == ["millimeter"] * 3
            (dataset,) = multiscale.datasets
            (transformation,) = dataset.coordinateTransformations
            assert transformation.scale == pytest.approx(scale)
        cohort = Cohort.open(store)
        np.testing.assert_array_equal(group["image"][...], cohort.image(subject))
        np.testing.assert_array_equal(group["labels/seg/0"][...], cohort.labels(subject))
        shown = image.attributes.ome.omero["channels"]
        assert [channel["label"] for channel in shown] == ["t1", "t1c", "t2", "flair"]
        bounds = cohort.record(subject).intensity["flair"]
        assert (shown[3]["window"]["start"], shown[3]["window"]["end"]) == (bounds["clip_low"], bounds["clip_high"])


def test_patch_chunks_hold_the_same_values_in_as_many_files(tmp_path: Path, write_case) -> None:
    write_case(tmp_path / "source", "a", size=36)  # not a multiple of 32
    slices, patches = (
        make(
            tmp_path / "source",
            tmp_path / f"{chunks}.zarr",
            f"recipe.chunks={chunks}",
            "recipe.crop=[144,144,136]",
            "split.test=1",
        )
        for chunks in ("slice", "patch")
    )
    ours, theirs = Cohort.open(patches), Cohort.open(slices)
    np.testing.assert_array_equal(ours.image("a"), theirs.image("a"))
    np.testing.assert_array_equal(ours.labels("a"), theirs.labels("a"))
    image, labels = ours.lazy_image("a"), ours.lazy_labels("a")
    assert (image.shape, image.chunks, image.shards) == ((4, 34, 36, 36), (4, 32, 32, 32), (4, 64, 64, 64))
    assert (labels.chunks, labels.shards) == ((32, 32, 32), (64, 64, 64))
    np.testing.assert_array_equal(image[:, 30:34, 2:5, 31:], theirs.image("a")[:, 30:34, 2:5, 31:])
    assert len(list(patches.rglob("*"))) == len(list(slices.rglob("*")))
    assert faults(patches) == []


@pytest.fixture
def many(tmp_path: Path, write_case) -> Path:
    for i in range(6):
        files = write_case(tmp_path / "source" / ("HGG" if i % 2 else "LGG"), f"case{i}", seed=i, size=10)
    files["flair"].unlink()
    return tmp_path


def test_folds_counts_and_a_users_list_are_in_the_manifest(many: Path) -> None:
    store = make(many / "source", many / "c.zarr", "require=[t1]", "split.folds=3")
    tested = [Cohort.open(store, fold).split("test") for fold in range(3)]
    assert sorted(chain(*tested)) == Cohort.open(store).subjects
    assert len({Cohort.open(store, fold).digest for fold in range(3)}) == 3
    with pytest.raises(StoreError, match="has no fold 3: its folds are 0 to 2"):
        Cohort.open(store, 3)
    make(many / "source", store, "require=[t1]", "split.counts=[1,2,1]", "split.val=0.5")
    assert [len(Cohort.open(store).split(name)) for name in ("segmentor", "gan", "val", "test")] == [1, 1, 1, 1]
    (many / "my split.csv").write_text("subject,split\ncase0,gan\ncase5,test\ncase2,gan\n")
    make(many / "source", store, "require=[t1]", f"split={many / 'my split.csv'}")
    assert (Cohort.open(store).split("gan"), Cohort.open(store).split("test")) == (["case0", "case2"], ["case5"])
    assert faults(store) == []


def test_subjects_that_lack_a_contrast_can_be_left_out(many: Path) -> None:
    cohort = Cohort.open(make(many / "source", many / "c.zarr", "require=[t1]", "split.test=1"))
    assert cohort.records["case5"].modalities == ["t1", "t1c", "t2"]
    assert cohort.image("case5").shape[0] == 3
    assert cohort.having(["t1", "t2"]) is cohort
    fewer = cohort.having(["t1", "flair"])
    assert fewer.subjects == fewer.split("test") == list(fewer.records) == ["case0", "case1", "case2", "case3", "case4"]
    with pytest.raises(StoreError, match="case5 is not in the manifest"):
        fewer.record("case5")
    assert cohort.split("test")[-1] == "case5"
    assert fewer.digest != cohort.digest


def test_the_store_and_a_subject_open_in_zarr_without_a_warning(sound: Path) -> None:
    """Without consolidated metadata zarr warns of the files in the store that are ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        group = zarr.open_group(sound, mode="r")
        names = [name for name, _ in group.members(max_depth=None)]
        assert len(names) == 1 + 2 * 5
        assert str(group.tree())
        np.testing.assert_array_equal(group[f"subjects/{NAMES[0]}/image"][...], Cohort.open(sound).image(NAMES[0]))
        subject = zarr.open_consolidated(sound / "subjects" / NAMES[0], mode="r")
        assert sorted(name for name, _ in subject.members(max_depth=None)) == ["image", "labels", "labels/seg", "labels/seg/0"]


def test_a_store_of_version_0_1_keeps_its_bytes_when_it_is_finished_again(tmp_path: Path, write_case) -> None:
    """Runs know their cohort by its digest."""
    write_case(tmp_path / "source", "a", size=12)
    store = make(tmp_path / "source", tmp_path / "c.zarr")
    root = json.loads((store / "zarr.json").read_text())
    del root["consolidated_metadata"]
    (store / "zarr.json").write_text(json.dumps(root))
    make(tmp_path / "source", store)
    assert "consolidated_metadata" not in json.loads((store / "zarr.json").read_text())
    (store / "manifest.json").unlink()
    make(tmp_path / "source", store)
    assert "consolidated_metadata" in json.loads((store / "zarr.json").read_text())


def test_a_reader_that_ends_early_ends_the_command_without_a_traceback(sound: Path) -> None:
    command = f"{shlex.quote(sys.executable)} -m preprocess.cohort info {shlex.quote(str(sound))} | head -c 0"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (141, "")

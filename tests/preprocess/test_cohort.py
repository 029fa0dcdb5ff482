"""The store returns what was written, or an error; never anything else."""

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from preprocess.cohort import BACKGROUND, Cohort, CohortWriter, Record, reader
from preprocess.shared.errors import CaseError, StoreError

MODALITIES = ["t1", "t1c", "t2", "flair"]
SHAPE = (6, 8, 10)


def record(subject: str) -> Record:
    return Record(
        subject=subject, patient=subject, grade="HGG", modalities=MODALITIES, shape=list(SHAPE), spacing=[1.0] * 3,
        affine=np.eye(4).tolist(), source={}, original_shape=[10, 8, 6], original_affine=np.eye(4).tolist(),
        original_orientation="RAS", canonical_shape=list(SHAPE),
        crop_offset=[0, 0, 0], brain_size=[1, 1, 1], brain_voxels=1, brain_voxels_lost=0, clip_share={}, label_voxels={}, has_labels=True,
        intensity={m: {"clip_low": -2.0, "clip_high": 3.0} for m in MODALITIES}, quality={}, dtypes={}, scaling={}, content={},
    )  # fmt: skip


def arrays(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(4, *SHAPE)).astype(np.float16)
    image[:, 0] = BACKGROUND
    return image, rng.integers(0, 4, SHAPE).astype(np.uint8)


def make(path: Path, names: tuple[str, ...] = ("a", "b"), labels: np.ndarray | None = None) -> Path:
    writer = CohortWriter(path, {"spacing": 0.0, "n4": {"spacing": 6.0}}, MODALITIES)
    with writer.lock():
        for seed, name in enumerate(names):
            image, drawn = arrays(seed)
            writer.write(record(name), image, drawn if labels is None else labels)
        writer.finish([{"segmentor": [], "gan": list(names), "val": [], "test": []}], {"bad": "bad: no t1"})
    return path


def test_what_was_written_is_read(tmp_path: Path) -> None:
    cohort = Cohort.open(make(tmp_path / "a store é.zarr", ("sub é 1", "b")))
    image, labels = arrays(0)
    assert cohort.subjects == ["b", "sub é 1"]
    assert cohort.modalities == MODALITIES
    assert cohort.split("gan") == ["sub é 1", "b"]
    assert cohort.record("sub é 1") == record("sub é 1")
    assert cohort.image("sub é 1").dtype == np.float32
    np.testing.assert_array_equal(cohort.image("sub é 1"), image.astype(np.float32))
    np.testing.assert_array_equal(cohort.labels("sub é 1"), labels)


def test_labels_of_only_0_are_read(tmp_path: Path) -> None:
    cohort = Cohort.open(make(tmp_path / "c.zarr", labels=np.zeros(SHAPE, np.uint8)))
    assert not cohort.labels("a").any()


def test_one_shard_file_per_array_and_one_chunk_per_slice(tmp_path: Path) -> None:
    store = make(tmp_path / "c.zarr", ("a",))
    assert [str(p.relative_to(store / "subjects/a")) for p in sorted((store / "subjects/a").rglob("c/**/*")) if p.is_file()] == [
        "image/c/0/0/0/0",
        "labels/seg/0/c/0/0/0",
    ]
    codec = json.loads((store / "subjects/a/image/zarr.json").read_text())["codecs"][0]["configuration"]
    assert codec["chunk_shape"] == [4, 1, 8, 10]
    assert [c["name"] for c in codec["codecs"]] == ["bytes", "blosc", "crc32c"]


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    first, second = make(tmp_path / "1.zarr"), make(tmp_path / "2.zarr")
    files = sorted(p.relative_to(first) for p in first.rglob("*") if p.is_file())
    assert len(files) > 10
    assert files == sorted(p.relative_to(second) for p in second.rglob("*") if p.is_file())
    assert all((first / f).read_bytes() == (second / f).read_bytes() for f in files)
    assert Cohort.open(first).digest == Cohort.open(second).digest != Cohort.open(make(tmp_path / "3.zarr", ("a",))).digest


def flip(position: float) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        data = bytearray(file.read_bytes())
        data[int(position * (len(data) - 1))] ^= 1
        file.write_bytes(data)

    return damage


DAMAGE = {
    "a flipped bit at the start": flip(0),
    "a flipped bit in the middle": flip(0.5),
    "a flipped bit in the index": flip(1),
    "a shorter file": lambda file: file.write_bytes(file.read_bytes()[:-20]),
    "an empty file": lambda file: file.write_bytes(b""),
    "no file": lambda file: file.unlink(),
    "another subject's file": lambda file: shutil.copy(str(file).replace("/a/", "/b/"), file),
    "no metadata": lambda file: next(p for p in file.parents if (p / "zarr.json").exists()).joinpath("zarr.json").unlink(),
}


@pytest.mark.parametrize("what", DAMAGE)
@pytest.mark.parametrize(("read", "shard"), [("image", "image/c/0/0/0/0"), ("labels", "labels/seg/0/c/0/0/0")])
def test_a_damaged_array_is_refused_with_its_path(tmp_path: Path, what: str, read: str, shard: str) -> None:
    store = make(tmp_path / "c.zarr")
    DAMAGE[what](store / "subjects" / "a" / shard)
    with pytest.raises(StoreError, match=r"subjects/a/(image|labels/seg)"):
        getattr(Cohort.open(store), read)("a")
    getattr(Cohort.open(store), read)("b")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"schema": 99}', '{"schema": 1}'])
def test_a_bad_manifest_is_refused(tmp_path: Path, text: str) -> None:
    store = make(tmp_path / "c.zarr")
    (store / "manifest.json").write_text(text)
    with pytest.raises(StoreError):
        Cohort.open(store)


def test_a_bad_record_is_refused(tmp_path: Path) -> None:
    store = make(tmp_path / "c.zarr")
    (store / "records" / "a.json").write_text('{"record": {}}')
    with pytest.raises(StoreError, match=r"a\.json"):
        Cohort.open(store).image("a")


class CountedName(str):
    """A subject's name that counts how often it is compared."""

    __slots__ = ()
    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        CountedName.compared += 1
        return str.__eq__(self, other)


def test_selecting_subjects_takes_time_in_proportion_to_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of n subjects is compared a few times, not n or n x n times."""
    names = [CountedName(f"case{number:04}") for number in range(1252)]
    read: list[str] = []

    def read_record(store: Path, subject: str, digest: str) -> Record:
        read.append(subject)
        return replace(record(subject), modalities=MODALITIES[: 3 if subject == "case0700" else 4])

    monkeypatch.setattr(reader, "read_record", read_record)
    fold = {"segmentor": names[:500], "gan": names[500:1000], "val": names[1000:1050], "test": names[1050:]}
    manifest = {
        "recipe": {},
        "modalities": MODALITIES,
        "folds": [fold, fold],
        "subjects": {name: {"record": ""} for name in names},
    }
    cohort = Cohort(tmp := Path("c.zarr"), manifest)
    CountedName.compared = 0
    fewer = cohort.having(MODALITIES)
    assert len(fewer.subjects) == len(fewer.records) == 1251
    assert cohort.in_fold(1).having(MODALITIES).subjects == fewer.subjects
    assert fewer.whole is cohort
    assert cohort.having(MODALITIES) is fewer
    assert CountedName.compared < 20 * len(names)
    assert sorted(read) == names
    assert fewer.path == tmp


def test_a_cohort_takes_what_it_has_read_to_another_process(tmp_path: Path) -> None:
    cohort = Cohort.open(make(tmp_path / "c.zarr"))
    assert cohort.having(["t1"]) is cohort
    digest = cohort.digest
    for name in ("manifest.json", "records/a.json", "records/b.json"):
        (tmp_path / "c.zarr" / name).unlink()
    taken = pickle.loads(pickle.dumps(cohort))
    assert taken.record("a") == record("a")
    assert (taken.whole.split("gan"), taken.digest) == (["a", "b"], digest)
    np.testing.assert_array_equal(taken.labels("b"), arrays(1)[1])


def test_a_missing_and_an_unfinished_cohort_have_different_errors(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        Cohort.open(tmp_path / "none.zarr")
    store = make(tmp_path / "c.zarr")
    (store / "manifest.json").unlink()
    with pytest.raises(StoreError, match="is not finished"):
        Cohort.open(store)


def test_unknown_subjects_and_splits_are_refused(tmp_path: Path) -> None:
    cohort = Cohort.open(make(tmp_path / "c.zarr"))
    with pytest.raises(StoreError, match="nobody"):
        cohort.image("nobody")
    with pytest.raises(StoreError, match="choose from segmentor, gan, val, test"):
        cohort.split("train")


def test_another_recipe_is_refused_with_the_settings_that_differ(tmp_path: Path) -> None:
    store = make(tmp_path / "c.zarr")
    before = (store / "manifest.json").read_bytes()
    with (
        pytest.raises(StoreError, match=r"recipe\.n4\.spacing: 6\.0 before, 4\.0 now"),
        CohortWriter(store, {"spacing": 0.0, "n4": {"spacing": 4.0}}, MODALITIES).lock(),
    ):
        pass
    assert (store / "manifest.json").read_bytes() == before


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    recipe = {"spacing": 0.0}
    first, second = (CohortWriter(tmp_path / "c.zarr", recipe, MODALITIES) for _ in range(2))
    with first.lock(), pytest.raises(StoreError, match="another to_zarr"), second.lock():
        pass


def test_a_subject_staged_but_not_committed_does_not_exist(tmp_path: Path) -> None:
    store = make(tmp_path / "c.zarr", ("a",))
    (store / "records" / "a.json").unlink()
    assert CohortWriter(store, {}, MODALITIES).committed() == set()
    assert Cohort.open(make(store, ("a",))).subjects == ["a"]


def test_a_failed_writer_leaves_nothing_staged(tmp_path: Path) -> None:
    writer = CohortWriter(tmp_path / "c.zarr", {}, MODALITIES)

    def fail_halfway() -> None:
        with writer.lock():
            (writer.staging / "half").mkdir()
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail_halfway()
    assert not writer.staging.exists()


@pytest.mark.parametrize("name", ["../a", "a/b", "..", "", "zarr.json", "a" * 241])
def test_a_name_that_leads_out_of_the_store_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CaseError, match="cannot name a subject"):
        make(tmp_path / "c.zarr", (name,))


def test_a_folder_of_other_files_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match="is not a cohort"):
        make(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]

"""A subject is made again when its files have other content, in whole runs and in parts, and is not hashed where nothing changed."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from sick import Sick

from preprocess.cohort import Cohort, origin
from preprocess.cohort.verify import verify
from preprocess.to_zarr import main

FAST = ("workers=1", "recipe.n4.enabled=false", "split.test=1", "checks=warn", "recipe.crop=[112,93,93]")
Hashed = list[Path]


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> Hashed:
    """The files that were hashed."""
    paths: Hashed = []
    digest = origin.file_digest

    def noted(path: Path) -> str:
        paths.append(path)
        return digest(path)

    monkeypatch.setattr(origin, "file_digest", noted)
    return paths


@pytest.fixture
def two(tmp_path: Path, write_case: Callable[..., dict[str, Path]]) -> Path:
    for seed, name in enumerate("ab"):
        write_case(tmp_path / "source", name, seed=seed, size=12)
    assert make(tmp_path) == 0
    return tmp_path


def make(place: Path, *words: str, source: str = "source") -> int:
    return main([f"source={place / source}", f"store={place / 'c.zarr'}", *FAST, *words])


def correct(path: Path, like: os.stat_result | None = None) -> None:
    """Label twice as much; with `like`, the file keeps this time, as a copy with `cp -p` does."""
    image = nib.load(path)
    labels = np.asarray(image.dataobj)
    nib.save(nib.Nifti1Image(np.maximum(labels, np.roll(labels, 1, axis=2)), image.affine), path)
    if like:
        os.utime(path, ns=(like.st_atime_ns, like.st_mtime_ns))


def labelled(place: Path, subject: str) -> int:
    return sum(Cohort.open(place / "c.zarr").record(subject).label_voxels.values())


@pytest.mark.parametrize("keeps_time", [False, True])
@pytest.mark.parametrize("parts", [(), ("part=1/2", "part=2/2", "part=finish")])
def test_a_corrected_segmentation_makes_its_subject_again(two: Path, capsys, parts: tuple[str, ...], keeps_time: bool) -> None:
    seg, before = two / "source" / "a" / "a_seg.nii.gz", labelled(two, "a")
    other = (two / "c.zarr/records/b.json").read_bytes()
    correct(seg, seg.stat() if keeps_time else None)
    assert [make(two, *([part] if part else [])) for part in parts or ("",)] == [0] * len(parts or ("",))
    assert (
        "1 subjects are made again, since their files are other ones now, such as a (other content of seg)"
        in capsys.readouterr().out
    )
    assert labelled(two, "a") > before
    assert (two / "c.zarr/records/b.json").read_bytes() == other
    assert list(verify(Cohort.open(two / "c.zarr"))) == []
    assert make(two) == 0
    assert "made again" not in capsys.readouterr().out


def test_another_folder_with_the_same_names_is_another_cohort(two: Path, write_case, capsys) -> None:
    for seed, name in enumerate("ab"):
        write_case(two / "other", name, seed=seed + 5, size=12)
    assert make(two, source="other") == 0
    assert "2 subjects are made again" in capsys.readouterr().out
    whole = two / "whole.zarr"
    assert main([f"source={two / 'other'}", f"store={whole}", *FAST]) == 0
    for path in (each for each in whole.rglob("*") if each.is_file()):
        assert path.read_bytes() == (two / "c.zarr" / path.relative_to(whole)).read_bytes()


def test_nothing_is_hashed_again_until_a_time_differs_and_a_copy_is_hashed_once(two: Path, hashed: Hashed, capsys) -> None:
    whole = {path: path.read_bytes() for path in (two / "c.zarr").rglob("*") if path.is_file()}
    assert make(two) == 0
    assert hashed == []
    shutil.copytree(two / "source", two / "copy", copy_function=shutil.copyfile)
    assert make(two, source="copy") == 0
    assert len(hashed) == 2 * 5
    assert make(two, source="copy") == 0
    assert len(hashed) == 2 * 5
    assert "made again" not in capsys.readouterr().out
    assert {path: path.read_bytes() for path in (two / "c.zarr").rglob("*") if path.is_file()} == whole


def test_files_of_the_same_size_and_age_in_another_folder_are_told_apart(tmp_path: Path, write_case) -> None:
    """Not packed, so that all have one size; and unpacked from archives that give all files one time."""
    for folder, seed in (("source", 0), ("other", 7)):
        for path in write_case(tmp_path / folder, "a", seed=seed, size=12).values():
            image = nib.load(path)
            nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine), path.with_name(path.name.removesuffix(".gz")))
            path.unlink()
            os.utime(path.with_name(path.name.removesuffix(".gz")), (10**9, 10**9))
    assert make(tmp_path) == 0
    before = Cohort.open(tmp_path / "c.zarr").digest
    assert make(tmp_path, source="other") == 0
    assert Cohort.open(tmp_path / "c.zarr").digest != before


def test_a_case_that_fails_when_it_is_made_again_leaves_nothing_in_the_store(two: Path) -> None:
    (two / "source/a/a_t2.nii.gz").write_bytes(b"broken")
    assert make(two) == 1
    cohort = Cohort.open(two / "c.zarr")
    assert (cohort.subjects, list(cohort.rejected)) == (["b"], ["a"])
    assert list(verify(cohort)) == []


@pytest.mark.parametrize("gone", ["../.git/annex/objects/x/MD5E-s9--0.nii.gz", "version https://git-lfs.github.com/spec/v1\n"])
def test_a_subject_whose_files_were_dropped_after_it_was_made_is_kept_and_reported(two: Path, capsys, gone: str) -> None:
    path = two / "source/a/a_t1.nii.gz"
    path.unlink()
    if gone.startswith("version"):
        path.write_text(gone)
    else:
        path.symlink_to(gone)
    assert make(two) == 0
    assert "1 subjects are kept although their files cannot be read and so not be compared, such as a" in capsys.readouterr().out
    assert Cohort.open(two / "c.zarr").subjects == ["a", "b"]


def test_a_file_that_is_removed_or_added_makes_its_subject_again(two: Path, write_case, capsys) -> None:
    seg = two / "source/a/a_seg.nii.gz"
    content = seg.read_bytes()
    seg.unlink()
    assert make(two) == 0
    assert "such as a (seg a_seg.nii.gz before, none now)" in capsys.readouterr().out
    assert not Cohort.open(two / "c.zarr").record("a").has_labels
    seg.write_bytes(content)
    assert make(two) == 0
    assert "such as a (seg none before, a_seg.nii.gz now)" in capsys.readouterr().out


def test_a_record_of_an_earlier_version_keeps_its_bytes(two: Path, hashed: Hashed) -> None:
    records = {path: path.read_bytes() for path in (two / "c.zarr/records").iterdir()}
    for path in records:
        os.utime(path)  # as it was written, by a version that gave it no time
    assert make(two) == 0
    assert len(hashed) == 2 * 5
    assert {path: path.read_bytes() for path in records} == records


def test_a_file_that_changes_while_it_is_read_sets_its_case_aside(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from preprocess import to_zarr

    process = to_zarr.process
    (two / "c.zarr/records/a.json").unlink()

    def changing(case, *rest):
        made = process(case, *rest)
        correct(case.files["seg"])
        return made

    monkeypatch.setattr(to_zarr, "process", changing)
    assert make(two) == 1
    assert Cohort.open(two / "c.zarr").rejected == {"a": "a: its files changed while they were read: give the same command again"}


def test_a_corrected_table_of_grades_corrects_the_records_without_the_work(two: Path, hashed: Hashed, capsys) -> None:
    (two / "source/participants.tsv").write_text("participant_id\tgrade\nA\tIV\n")
    assert make(two) == 0
    assert "1 subjects have another grade now, such as a: HGG" in capsys.readouterr().out
    assert [record.grade for record in Cohort.open(two / "c.zarr").records.values()] == ["HGG", "unknown"]
    assert list(verify(Cohort.open(two / "c.zarr"))) == []
    assert make(two) == 0
    assert hashed == []


def test_a_subject_that_became_unclear_is_kept_and_reported(two: Path, capsys) -> None:
    shutil.copy(two / "source/a/a_t2.nii.gz", two / "source/a_t2.nii.gz")
    assert make(two) == 0
    assert "1 subjects are kept that would be set aside if they were made now, such as a: " in capsys.readouterr().out


def test_a_subject_that_lacks_a_contrast_now_is_kept_and_reported(two: Path, capsys) -> None:
    (two / "source/a/a_t2.nii.gz").unlink()
    assert make(two) == 0
    assert "1 subjects are kept that would be set aside if they were made now, such as a: no t2 file" in capsys.readouterr().out
    assert make(two, "require=t1") == 0
    assert (
        "made again, since their files are other ones now, such as a (t2 a_t2.nii.gz before, none now)" in capsys.readouterr().out
    )


def test_labels_that_dataset_json_explains_later_are_renumbered(sick: Sick, capsys) -> None:
    root = sick.source.with_name("msd")
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    stack = np.stack([sick.a[kind] for kind in ("flair", "t1", "t1ce", "t2")], -1).astype("i2")
    nib.save(nib.Nifti1Image(stack, sick.affine), root / "imagesTr/P1.nii.gz")
    nib.save(nib.Nifti1Image(np.minimum(sick.a["seg"], 3).astype("u1"), sick.affine), root / "labelsTr/P1.nii.gz")
    sick.source = root
    words = (f"source={root}", f"store={sick.store}", *FAST)
    assert main(list(words)) == 0
    assert set(Cohort.open(sick.store).record("P1").label_voxels) == {"1", "2", "3"}
    names = {"background": 0, "edema": 1, "non-enhancing tumor": 2, "enhancing tumor": 3}
    content = {"channel_names": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}, "labels": names}
    (root / "dataset.json").write_text(json.dumps(content))
    assert main(list(words)) == 0
    assert "such as P1 (other numbers in seg)" in capsys.readouterr().out
    assert set(Cohort.open(sick.store).record("P1").label_voxels) == {"1", "2", "4"}

"""The command, as a user runs it: from a folder of NIfTI files to a cohort, with one sentence per mistake."""

import gzip
import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from preprocess.cohort import BACKGROUND, Cohort

FAST = ("recipe.n4.iterations=[3]", "workers=2")
REAL = Path(__file__).parents[3] / "shared" / "data" / "real"


def to_zarr(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "preprocess.to_zarr", *words], capture_output=True, text=True, cwd=cwd, env=environment
    )


def test_a_folder_becomes_a_cohort(tmp_path: Path, write_case) -> None:
    source, store = tmp_path / "my scans é", tmp_path / "my cohort.zarr"
    for i in range(6):
        files = write_case(source / ("HGG" if i % 2 else "LGG"), f"Brats18_{i} é_1", seed=i)
    done = to_zarr(f"source={source}", f"store={store}", *FAST)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"next: python slurm/launch.py sweep=lr 'data.store={store}'"
    cohort = Cohort.open(store)
    assert len(cohort.subjects) == 6
    assert sorted(s for name in ("segmentor", "gan", "val", "test") for s in cohort.split(name)) == cohort.subjects
    image, labels, record = cohort.image("Brats18_5 é_1"), cohort.labels("Brats18_5 é_1"), cohort.record("Brats18_5 é_1")
    assert (record.patient, record.grade, record.original_orientation) == ("Brats18_5 é", "HGG", "LPS")
    mask = image[0] != BACKGROUND
    assert all(((volume != BACKGROUND) == mask).all() for volume in image)
    assert int(mask.sum()) == record.brain_voxels == int((nib.load(files["t1"]).get_fdata() != 0).sum())
    # in an LPS file the lesion's octant is left, posterior and superior
    assert np.argwhere(labels).mean(axis=0) - np.argwhere(mask).mean(axis=0) == pytest.approx([4.2, -4.2, -4.2], abs=0.5)
    assert image[3][labels == 2].mean() > 3
    assert not (tmp_path / "my cohort.zarr.partial").exists()


def test_no_thread_count_or_listing_order_changes_a_byte(tmp_path: Path, write_case) -> None:
    for i in range(3):
        write_case(tmp_path / "source", f"case{i}", seed=i)
    stores = [tmp_path / "one.zarr", tmp_path / "two.zarr"]
    for store, workers in zip(stores, (1, 2), strict=True):
        assert to_zarr(f"source={tmp_path / 'source'}", f"store={store}", FAST[0], f"workers={workers}").returncode == 0
    files = sorted(p.relative_to(stores[0]) for p in stores[0].rglob("*") if p.is_file())
    assert all((stores[0] / f).read_bytes() == (stores[1] / f).read_bytes() for f in files)


def lying_header(path: Path) -> None:
    header = nib.Nifti1Header()
    header.set_data_shape((30000, 30000, 30000))
    raw = bytearray(header.binaryblock)
    raw[344:348], raw[108:112] = b"n+1\0", struct.pack("<f", 352.0)
    path.write_bytes(gzip.compress(bytes(raw) + bytes(100)))


def with_nan(volume: np.ndarray) -> np.ndarray:
    volume[14, 14, 14] = np.nan
    return volume


def test_bad_cases_are_set_aside_with_their_reasons(tmp_path: Path, write_case, rewrite) -> None:
    names = "cut nan infinite lacking moved empty zero constant two_volumes lying endless smaller fractions twice slice .."
    bad = {name: write_case(tmp_path / "source" / "deep", name) for name in names.split()}
    for i in range(2):
        write_case(tmp_path / "source", f"good {i} ü 脑", seed=i)
    bad["cut"]["t2"].write_bytes(bad["cut"]["t2"].read_bytes()[:5000])
    rewrite(bad["nan"]["t1"], with_nan)
    rewrite(bad["infinite"]["t1c"], lambda v: np.where(v > 190, np.inf, v))
    rewrite(bad["zero"]["t1c"], np.zeros_like)
    bad["endless"]["flair"].write_bytes(bad["endless"]["flair"].read_bytes() + gzip.compress(bytes(2**24)) * 1024)
    bad["lacking"]["t2"].unlink()
    rewrite(bad["moved"]["flair"], lambda v: v, move=0.1)
    for kind in ("t1", "t1c", "t2", "flair"):
        rewrite(bad["empty"][kind], np.zeros_like)
    rewrite(bad["constant"]["t2"], lambda v: (v != 0) * np.float32(5))
    rewrite(bad["two_volumes"]["t2"], lambda v: np.stack([v, v], -1))
    lying_header(bad["lying"]["t1"])
    rewrite(bad["smaller"]["t2"], lambda v: v[:-1])
    rewrite(bad["fractions"]["seg"], lambda v: v * 0.3)
    for path in bad["slice"].values():
        rewrite(path, lambda v: v[:, :, 14:15])
    (tmp_path / "source" / "again").mkdir()
    (tmp_path / "source" / "again" / "twice_t1.nii.gz").write_bytes(bad["twice"]["t1"].read_bytes())
    done = to_zarr(f"source={tmp_path / 'source'}", f"store={tmp_path / 'c.zarr'}", *FAST)
    assert done.returncode == 1, done.stderr
    assert Cohort.open(tmp_path / "c.zarr").subjects == ["good 0 ü 脑", "good 1 ü 脑"]
    reasons = json.loads((tmp_path / "c.zarr" / "rejected.json").read_text())
    wanted = {
        "cut": "cut_t2.nii.gz cannot be read", "nan": "nan_t1.nii.gz holds 1 NaN", "lacking": "no t2 file",
        "infinite": "NaN or infinite intensities in the brain", "zero": "zero_t1ce.nii.gz has the same intensity",
        "endless": "endless_flair.nii.gz is longer than", "..": "..: a case cannot have this name",
        "moved": "different affines",
        "empty": "brain mask is empty", "constant": "constant_t2.nii.gz has the same intensity", "two_volumes": "(28, 28, 28, 2)",
        "lying": "(30000, 30000, 30000)", "smaller": "smaller_t2.nii.gz has shape",
        "fractions": "are not labels", "twice": "twice: again/twice_t1.nii.gz and deep/twice/twice_t1.nii.gz are both its t1",
        "slice": "slice_t1.nii.gz: bias correction failed",
    }  # fmt: skip
    assert {name: reasons[name] for name in wanted if wanted[name] not in reasons[name]} == {}
    assert set(reasons) == set(wanted)
    assert "2 subjects are in the cohort, 16 cases were set aside" in done.stdout.splitlines()[-1]


def test_a_case_without_segmentation_has_labels_of_0(tmp_path: Path, write_case) -> None:
    write_case(tmp_path / "source", "a", seg=False)
    done = to_zarr(f"source={tmp_path / 'source'}", f"store={tmp_path / 'c.zarr'}", "split.test=1", *FAST)
    assert done.returncode == 0, done.stderr
    cohort = Cohort.open(tmp_path / "c.zarr")
    assert not cohort.labels("a").any()
    assert not cohort.record("a").has_labels


@pytest.mark.parametrize("layout", ["brats2015", "bids"])
def test_another_layout_is_recognised_and_reported(tmp_path: Path, write_case, layout: str) -> None:
    files = write_case(tmp_path / "source", "sub-1_ses-1", layout=layout)
    done = to_zarr(f"source={tmp_path / 'source'}", f"store={tmp_path / 'c.zarr'}", "split.test=1", *FAST)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"layout {layout}: 1 cases in 5 files named like ")
    record = Cohort.open(tmp_path / "c.zarr").record("sub-1_ses-1")
    assert (record.patient, record.original_orientation, record.has_labels) == ("sub-1", "LPS", True)
    assert {kind: source["file"] for kind, source in record.source.items()} == {kind: path.name for kind, path in files.items()}


def test_a_pattern_with_the_users_own_words(tmp_path: Path, write_case) -> None:
    for number, path in enumerate(write_case(tmp_path / "raw", "a").values()):
        (tmp_path / "source").mkdir(exist_ok=True)
        path.rename(tmp_path / "source" / f"a_000{number}.nii.gz")
    own = ("pattern={case}_{modality}.nii.gz", "names={'0000': t1, '0001': t1c, '0002': t2, '0003': flair}", "names.0004=seg")
    done = to_zarr(f"source={tmp_path / 'source'}", f"store={tmp_path / 'c.zarr'}", "split.test=1", *own, *FAST)
    assert done.returncode == 0, done.stderr
    assert Cohort.open(tmp_path / "c.zarr").labels("a").any()


def test_a_case_with_the_required_contrasts_is_resampled_to_the_given_grid(tmp_path: Path, write_case, save) -> None:
    for name, lacking in (("a", "t1"), ("b", "t2")):
        write_case(tmp_path / "source", name)[lacking].unlink()
    flair = tmp_path / "source" / "a" / "a_flair.nii.gz"
    save(np.asanyarray(nib.load(flair).dataobj)[::2, ::2, ::2], np.diag([-8.0, -8.0, 8.0, 1.0]), flair)
    words = (f"source={tmp_path / 'source'}", "split.test=1", "require=[t2]", *FAST)
    refused = to_zarr(*words, f"store={tmp_path / 'none.zarr'}")
    assert (
        refused.returncode,
        "(coregister=true does), or if they show the same place set resample=t1c" in refused.stderr,
    ) == (2, True)
    done = to_zarr(*words, f"store={tmp_path / 'c.zarr'}", "recipe.resample=t2")
    assert (done.returncode, "set aside b: no t2 file" in done.stdout) == (1, True)
    record = Cohort.open(tmp_path / "c.zarr").record("a")
    assert (record.modalities, record.original_shape) == (["t1c", "t2", "flair"], [28, 28, 28])


def test_the_source_may_be_read_only(tmp_path: Path, write_case, read_only) -> None:
    write_case(tmp_path / "source", "a")
    source = read_only(tmp_path / "source")
    done = to_zarr(f"source={source}", f"store={tmp_path / 'c.zarr'}", "split.test=1", *FAST)
    assert done.returncode == 0, done.stderr
    refused = to_zarr(f"source={source}", f"store={source / 'c.zarr'}", "split.test=1", *FAST)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "Read-only file system" in refused.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["store=d.zarr", "source=nowhere"], "source=nowhere is not a folder"),
        (["store=d.zarr", "source=."], "holds no case"),
        (["store=d.zarr", "source=scans", "recipe.n4.spcing=3"], "did you mean recipe.n4.spacing?"),
        (["store=d.zarr", "source=scans", "split.test=2"], "split.test=2.0 must lie between 0 and 1"),
        (["store=d.zarr", "source=scans", "recipe.resample=t3"], "recipe.resample=t3 must be empty or one of t1, t1c"),
        (["store=d.zarr", "source=scans", "require=[t2,t9]"], "must name one or more of t1, t1c"),
        (["source=scans", "store=${home}/c.zarr"], "holds ${…}, which is not resolved: write the value itself"),
        (["store=d.zarr", "source=scans", "layout=bids"], "images named as in brats2018"),
        (
            ["store=d.zarr", "source=scans", "pattern={case}/{modality}.nii", "names={T1: t1, gd: t1x}"],
            "names.gd=t1x must be one of t1",
        ),
        (["source=scans", "store=."], "store=. cannot be a cohort"),
        (["source=scans", "store=scans"], "is not a cohort"),
        (["source=broken", "store=c.zarr"], "no case of broken could be used"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_status_2(tmp_path: Path, write_case, words: list[str], sentence: str) -> None:
    (tmp_path / "empty").mkdir()
    if words[1] != "source=.":
        write_case(tmp_path / "scans", "a")
        write_case(tmp_path / "broken", "b")["t1"].unlink()
    done = to_zarr(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert sentence in done.stderr


def test_run_again_it_keeps_finished_subjects_and_adds_new_ones(tmp_path: Path, write_case) -> None:
    words = (f"source={tmp_path / 'source'}", f"store={tmp_path / 'c.zarr'}", *FAST)
    write_case(tmp_path / "source", "a")
    assert to_zarr(*words).returncode == 0
    shard = tmp_path / "c.zarr/subjects/a/image/c/0/0/0/0"
    before = shard.stat().st_mtime_ns
    write_case(tmp_path / "source", "b", seed=1)
    done = to_zarr(*words)
    assert "1 subjects were kept from an earlier run" in done.stdout
    assert Cohort.open(tmp_path / "c.zarr").subjects == ["a", "b"]
    assert shard.stat().st_mtime_ns == before
    refused = to_zarr(*words, "recipe.spacing=5")
    assert (refused.returncode, "recipe.spacing: 0.0 before, 5.0 now" in refused.stderr) == (2, True)


def test_another_source_is_refused_before_any_work(tmp_path: Path, write_case) -> None:
    write_case(tmp_path / "first", "a")
    write_case(tmp_path / "second", "b")
    assert to_zarr(f"source={tmp_path / 'first'}", f"store={tmp_path / 'c.zarr'}", *FAST).returncode == 0
    done = to_zarr(f"source={tmp_path / 'second'}", f"store={tmp_path / 'c.zarr'}", *FAST)
    assert (done.returncode, "holds a, which source=" in done.stderr) == (2, True)
    assert not (tmp_path / "c.zarr" / "records" / "b.json").exists()


def descendants(pid: int) -> list[int]:
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(status.parent.name)] = int(status.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue  # ended in the meantime
    children = [child for child, parent in parents.items() if parent == pid]
    return children + [g for child in children for g in descendants(child)]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_killed_it_leaves_complete_subjects_and_no_worker_and_continues(tmp_path: Path, write_case) -> None:
    for i in range(6):
        write_case(tmp_path / "source", f"case{i}", seed=i, size=56)
    slow = ("recipe.n4.spacing=4", "recipe.n4.iterations=[40,40]", "workers=2", "checks=warn")
    words = (f"source={tmp_path / 'source'}", f"store={tmp_path / 'c.zarr'}", *slow)
    running = subprocess.Popen(
        [sys.executable, "-m", "preprocess.to_zarr", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    records = tmp_path / "c.zarr" / "records"
    limit = time.monotonic() + 60
    while not list(records.glob("*.json")) and time.monotonic() < limit:
        time.sleep(0.02)
    workers = descendants(running.pid)
    running.kill()
    running.wait()
    assert workers
    assert 1 <= len(list(records.glob("*.json"))) < 6
    while any(Path(f"/proc/{worker}").exists() for worker in workers) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not [worker for worker in workers if Path(f"/proc/{worker}").exists()]
    done = to_zarr(*words)
    assert done.returncode == 0, done.stderr
    assert "were kept from an earlier run" in done.stdout
    cohort = Cohort.open(tmp_path / "c.zarr")
    assert len(cohort.subjects) == 6
    assert all(np.isfinite(cohort.image(subject)).all() for subject in cohort.subjects)


def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_written(tmp_path: Path, write_case, small_disk: Path) -> None:
    for i in range(8):
        write_case(tmp_path / "source", f"case{i}", seed=i, size=40)
    words = (f"source={tmp_path / 'source'}", f"store={small_disk / 'c.zarr'}", "recipe.n4.enabled=false", "workers=2")
    done = to_zarr(*words)
    assert (done.returncode, "no space left for store=" in done.stderr) == (2, True)
    assert [p.name for p in small_disk.iterdir()] == ["c.zarr"]
    committed = {p.stem for p in (small_disk / "c.zarr" / "records").glob("*.json")}
    assert len(committed) < 8
    assert committed <= {p.name for p in (small_disk / "c.zarr" / "subjects").iterdir()}
    subprocess.run(["mount", "-o", "remount,size=40m", small_disk], check=True)
    assert to_zarr(*words).returncode == 0
    assert len(Cohort.open(small_disk / "c.zarr").subjects) == 8


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real scans are not at {REAL}")
def test_real_scans_go_through_at_the_phantoms_grid(tmp_path: Path) -> None:
    done = to_zarr(f"source={REAL}", f"store={tmp_path / 'c.zarr'}", "recipe.spacing=3", "split.test=1", *FAST)
    assert done.returncode == 0, done.stderr
    cohort = Cohort.open(tmp_path / "c.zarr")
    assert cohort.split("test") == ["LJMS-07", "LJMS-19", "TCGA-DU-7294"]
    glioma = cohort.record("TCGA-DU-7294")
    assert (glioma.original_orientation, glioma.original_shape, glioma.shape) == ("LPS", [240, 240, 155], [52, 54, 54])
    image, labels = cohort.image("TCGA-DU-7294"), cohort.labels("TCGA-DU-7294")
    assert image[3][labels > 0].mean() > 1  # a glioma is bright in FLAIR

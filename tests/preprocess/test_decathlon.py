"""A Decathlon file holds the four contrasts of a case, in the order of dataset.json."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from preprocess import restore
from preprocess.cohort import Cohort
from preprocess.cohort.verify import same_images
from preprocess.explore.__main__ import main as explore
from preprocess.shared.errors import CaseError
from preprocess.source.brats import Case, discover
from preprocess.source.layouts import MODALITIES
from preprocess.source.scans import Reading, read
from preprocess.to_zarr import main

ORDER = ("flair", "t1", "t1c", "t2")
FAST = ("recipe.n4.enabled=false", "workers=1", "split.test=1", "checks=warn")


def decathlon(folder: Path, files: dict[str, Path], order: tuple[str, ...] = ORDER) -> dict[str, np.ndarray]:
    """The contrasts of a case as one file, its labels as another, and the `._` files of the archive."""
    volumes = {kind: nib.load(path).get_fdata(dtype=np.float32) for kind, path in files.items()}
    for place in ("imagesTr", "labelsTr"):
        (folder / place).mkdir(parents=True)
        (folder / place / "._BRATS_001.nii.gz").write_bytes(b"\0\5\x16\7")
    affine = nib.load(files["t1"]).affine
    nib.save(nib.Nifti1Image(np.stack([volumes[kind] for kind in order], -1), affine), folder / "imagesTr" / "BRATS_001.nii.gz")
    nib.save(nib.Nifti1Image(volumes["seg"].astype(np.uint8), affine), folder / "labelsTr" / "BRATS_001.nii.gz")
    return volumes


@pytest.mark.parametrize("order", [ORDER, ("t2", "t1c", "flair", "t1")])
def test_each_contrast_is_the_volume_that_dataset_json_names(tmp_path: Path, write_case, order: tuple[str, ...]) -> None:
    volumes = decathlon(tmp_path / "Task01", write_case(tmp_path / "plain", "a"), order)
    if order != ORDER:
        words = {"t1": "T1w", "t1c": "t1gd", "t2": "T2w", "flair": "FLAIR"}
        modality = {str(number): words[kind] for number, kind in enumerate(order)}
        (tmp_path / "Task01" / "dataset.json").write_text(json.dumps({"modality": modality}))
    discovery = discover(tmp_path / "Task01")
    assert discovery.message == "layout msd: 1 cases in 2 files named like imagesTr/CASE.nii.gz, 4-D"
    scans = read(discovery.cases[0])
    for kind, volume in zip(scans.modalities, scans.volumes, strict=True):
        # LPS, (x, y, z) -> (z, y, x) in RAS
        np.testing.assert_array_equal(volume, volumes[kind][::-1, ::-1].transpose())


def test_it_becomes_a_subject_like_any_other(tmp_path: Path, write_case, capsys: pytest.CaptureFixture) -> None:
    files = write_case(tmp_path / "plain", "BRATS_001")
    decathlon(tmp_path / "msd", files)
    stores = {name: tmp_path / f"{name}.zarr" for name in ("msd", "plain")}
    for name, store in stores.items():
        assert main([f"source={tmp_path / name}", f"store={store}", *FAST]) == 0
    ours, plain = (Cohort.open(store).record("BRATS_001") for store in stores.values())
    assert ours.content == plain.content
    assert ours.label_voxels == plain.label_voxels
    assert [ours.source[kind]["volume"] for kind in MODALITIES] == ["1", "2", "3", "0"]
    assert len({ours.source[kind]["sha256"] for kind in MODALITIES}) == 1
    assert same_images(Cohort.open(stores["msd"])) == []
    assert restore.main([f"store={stores['msd']}", "subject=BRATS_001", f"out={tmp_path / 'out'}"]) == 0
    restored = nib.load(tmp_path / "out" / "BRATS_001_t2.nii.gz")
    np.testing.assert_allclose(restored.get_fdata(), nib.load(files["t2"]).get_fdata(), atol=0.2)
    assert explore([str(stores["msd"]), f"source={tmp_path / 'msd'}", f"out={tmp_path / 'page'}"]) == 0


def read_checked(case: Case) -> None:
    case.check(["t1"])
    read(case)


@pytest.mark.parametrize(
    "content", ["{", '{"modality": {"0": "CT"}}', '{"modality": {"0": "T1w", "1": "T1"}}', '{"modality": {"0": "T1w"}}']
)
def test_an_order_that_is_not_clear_sets_the_case_aside(tmp_path: Path, write_case, content: str) -> None:
    decathlon(tmp_path / "msd", write_case(tmp_path / "plain", "a"))
    (tmp_path / "msd" / "dataset.json").write_text(content)
    (case,) = discover(tmp_path / "msd").cases
    with pytest.raises(CaseError, match=r"BRATS_001.* dataset\.json") as refusal:
        read_checked(case)
    assert "layout=msd" not in str(refusal.value)


def test_a_file_of_another_number_of_volumes_is_refused(tmp_path: Path, write_case) -> None:
    files = write_case(tmp_path / "plain", "a")
    decathlon(tmp_path / "msd", files)
    for volumes in (1, 3, 5):
        image = nib.Nifti1Image(np.ones((4, 4, 4, volumes), np.float32), np.eye(4))
        nib.save(image, tmp_path / "msd" / "imagesTr" / "BRATS_001.nii.gz")
        (case,) = discover(tmp_path / "msd").cases
        with pytest.raises(CaseError, match=r"expected 4 volumes"):
            read(case)


def test_labels_take_brats_numbers_where_dataset_json_names_them(tmp_path: Path, write_case) -> None:
    files = write_case(tmp_path / "plain", "a")
    decathlon(tmp_path / "msd", files)
    path = tmp_path / "msd" / "labelsTr" / "BRATS_001.nii.gz"
    image = nib.load(path)
    labels = np.asarray(image.dataobj).copy()
    labels[0, 0, :3] = [1, 2, 3]
    nib.save(nib.Nifti1Image(labels, image.affine), path)
    for names, wanted in (
        ({"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"}, [2, 1, 4]),
        ({"0": "background", "1": "edema", "2": "something", "3": "enhancing tumour"}, [1, 2, 3]),
        (None, [1, 2, 3]),
    ):
        order = {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}
        (tmp_path / "msd" / "dataset.json").write_text(json.dumps({"modality": order} | ({"labels": names} if names else {})))
        (case,) = discover(tmp_path / "msd").cases
        assert read(case, Reading(checks="warn")).labels[:3, -1, -1].tolist() == wanted

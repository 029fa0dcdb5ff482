"""A Decathlon file holds the four contrasts of a case, in the order of dataset.json."""

import json
import shutil
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
from preprocess.source.decathlon import contrast_of, labels
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


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        *((word, "t1") for word in ("T1", "T1w", "T1-weighted", "T1 without contrast", "T1 pre-contrast", "unenhanced T1", "T1 w/o contrast", "T1n")),
        *((word, "t1c") for word in ("t1ce", "T1wCE", "T1 Gd", "T1-Gd", "T1+C", "T1 + C", "post-contrast T1", "T1 with contrast", "ceT1w", "T1C")),
        *((word, "t1c") for word in ("T1 C+", "T1_C", "T1Gad")),
        *((word, "t2") for word in ("T2", "T2w", "T2-weighted", "T2 TSE")),
        *((word, "flair") for word in ("FLAIR", "T2 FLAIR", "T2-FLAIR", "T2FLAIR", "t2f", "Fluid Attenuated Inversion Recovery")),
        *((word, "") for word in ("T2*", "T2*w", "T2 star", "T1 map", "T1/T2 ratio", "T1, T2", "SWI", "CT", "T1 post - pre", "T1 subtraction")),
    ],
)  # fmt: skip
def test_the_words_for_a_contrast_are_never_mistaken(word: str, kind: str) -> None:
    assert contrast_of(word) == kind


FORMS = {
    "Decathlon": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
    "nnU-Net": {"background": 0, "edema": 1, "non-enhancing tumor": 2, "enhancing tumor": 3},
    "words": {"0": "BG", "1": "ED", "2": "NCR/NET", "3": "ET"},
    "core": {"0": "", "1": "peritumoral oedema", "2": "core", "3": "GD-enhancing"},
    "2023's": {"0": "BG", "1": "SNFH (surrounding non-enhancing FLAIR hyperintensity)", "2": "NETC", "3": "ET"},
    "regions": {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]},
    "list": ["background", "edema", "necrosis", "enhancing"],
}


@pytest.mark.parametrize("form", FORMS)
def test_labels_are_renumbered_in_every_form_in_which_dataset_json_names_them(form: str) -> None:
    numbers, said, doubt = labels(FORMS[form])
    assert numbers == {1: 2, 2: 1, 3: 4}
    assert said.startswith("labels are renumbered as in BRATS: 1 (")
    assert said.endswith(" to 4; labels= names the new numbers")
    assert not doubt


@pytest.mark.parametrize(
    ("listed", "kept"),
    [
        ({"0": "background", "1": "tumor"}, "1 (tumor)"),
        ({"background": 0, "edema": 1, "something": 2}, "1 (edema), 2 (something)"),
        ({"0": "background", "1": "edema", "2": "core"}, "1 (edema), 2 (core)"),  # a core that may hold enhancing tumour
        ({"0": "BG", "1": "NETC", "2": "SNFH", "3": "ET", "4": "RC"}, "4 (RC)"),  # 2024's resection cavity is not enhancing
        ({"background": 0, "whole tumor": [1, 2], "tumor core": [2]}, "1 (in whole tumor)"),
        ({"0": "BG", "1": "enhancing and non-enhancing tumor"}, "1 (enhancing and non-enhancing tumor)"),
        (None, "dataset.json names no labels"),
        ("edema", "dataset.json names no labels"),
    ],
)
def test_labels_whose_names_are_not_all_known_keep_their_numbers_and_that_is_said(listed: object, kept: str) -> None:
    numbers, said, doubt = labels(listed)
    assert (numbers, said) == ({}, "")
    assert kept in doubt
    assert "keep the numbers of the file" in doubt


def test_brats_own_numbers_need_no_word() -> None:
    assert labels({"1": "NCR", "2": "ED", "4": "ET"}) == ({}, "", "")


def test_without_dataset_json_the_decathlons_order_is_taken_and_that_is_said(tmp_path: Path, write_case) -> None:
    decathlon(tmp_path / "msd", write_case(tmp_path / "plain", "a"))
    assert main([f"source={tmp_path / 'msd'}", f"store={tmp_path / 'c.zarr'}", *FAST]) == 0
    ((kind, sentence),) = Cohort.open(tmp_path / "c.zarr").record("BRATS_001").noted
    assert kind == ""
    assert (
        "no dataset.json beside imagesTr: contrasts are read in the Decathlon's order FLAIR, T1w, t1gd, T2w, and labels keep"
        in sentence
    )


def test_how_labels_were_renumbered_is_printed_and_labels_names_the_new_numbers(tmp_path: Path, write_case, capsys) -> None:
    decathlon(tmp_path / "msd", write_case(tmp_path / "plain", "a"))
    described(tmp_path / "msd", {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}, FORMS["nnU-Net"])
    assert main([f"source={tmp_path / 'msd'}", f"store={tmp_path / 'c.zarr'}", *FAST, "labels=1"]) == 0
    assert "2 (non-enhancing tumor) to 1, 3 (enhancing tumor) to 4; labels= names the new numbers" in capsys.readouterr().out
    record = Cohort.open(tmp_path / "c.zarr").record("BRATS_001")
    assert set(record.label_voxels) == {"1"}  # 2 in the file
    assert not record.noted


def test_a_label_that_dataset_json_does_not_name_is_refused(tmp_path: Path, write_case) -> None:
    """BRATS's numbers under the Decathlon's dataset.json would be swapped."""
    decathlon(tmp_path / "msd", write_case(tmp_path / "plain", "a"))
    described(tmp_path / "msd", {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}, FORMS["Decathlon"])
    path = tmp_path / "msd" / "labelsTr" / "BRATS_001.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.where(np.asarray(image.dataobj) == 2, 4, 1).astype("u1"), image.affine), path)
    with pytest.raises(
        CaseError, match=r"BRATS_001.nii.gz holds label 4, which dataset.json does not name: correct dataset.json"
    ):
        read(discover(tmp_path / "msd").cases[0])


def test_a_contrast_that_is_not_read_is_named_where_one_lacks(tmp_path: Path, write_case) -> None:
    decathlon(tmp_path / "msd", write_case(tmp_path / "plain", "a"))
    described(tmp_path / "msd", {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2*"}, None)
    (case,) = discover(tmp_path / "msd").cases
    with pytest.raises(
        CaseError, match=r"no t2 file beside BRATS_001.nii.gz: dataset.json's T2\* is not read: the names of contrasts are T1"
    ):
        case.check()
    case.check(["t1"])


def described(folder: Path, order: dict[str, str], names: object) -> None:
    content = {"channel_names": order} | ({"labels": names} if names else {})
    (folder / "dataset.json").write_text(json.dumps(content))


def numbered(folder: Path, files: dict[str, Path]) -> None:
    """A case as nnU-Net names its files: T2, FLAIR, T1c, T1, and labels."""
    for place in ("imagesTr", "labelsTr"):
        (folder / place).mkdir(parents=True)
    for number, kind in enumerate(("t2", "flair", "t1c", "t1")):
        shutil.copy(files[kind], folder / "imagesTr" / f"P_01_{number:04}.nii.gz")
    shutil.copy(files["seg"], folder / "labelsTr" / "P_01.nii.gz")


def test_the_numbered_files_of_nnunet_are_what_dataset_json_says(tmp_path: Path, write_case) -> None:
    files = write_case(tmp_path / "plain", "a")
    numbered(tmp_path / "nn", files)
    described(tmp_path / "nn", {"0": "T2", "1": "T2-FLAIR", "2": "T1 Gd", "3": "T1"}, FORMS["nnU-Net"])
    assert main([f"source={tmp_path / 'nn'}", f"store={tmp_path / 'c.zarr'}", *FAST]) == 0
    assert main([f"source={tmp_path / 'plain'}", f"store={tmp_path / 'plain.zarr'}", *FAST]) == 0
    ours, plain = (Cohort.open(tmp_path / name).records for name in ("c.zarr", "plain.zarr"))
    assert ours["P_01"].content == plain["a"].content
    assert (set(ours["P_01"].label_voxels), set(plain["a"].label_voxels)) == ({"1"}, {"2"})


def test_numbered_files_without_dataset_json_are_refused_with_what_to_write(tmp_path: Path, write_case) -> None:
    numbered(tmp_path / "nn", write_case(tmp_path / "plain", "a"))
    with pytest.raises(
        CaseError, match=r"dataset.json beside imagesTr is missing, which says what _0000, _0001 … are"
    ) as refusal:
        discover(tmp_path / "nn").cases[0].check()
    assert str(refusal.value).endswith("with FLAIR, T1w, t1gd or T2w for each number")
    described(tmp_path / "nn", {"0": "T2w", "1": "FLAIR", "2": "t1gd", "3": "T1w"}, None)
    discover(tmp_path / "nn").cases[0].check()

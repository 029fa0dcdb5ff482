"""Labels: whole numbers, the ones that count, and segmentations that cannot be a tumour's."""

import numpy as np
import pytest
from sick import Sick

from preprocess.cohort import Cohort
from preprocess.cohort.summary import clip_shares
from preprocess.source.doubts import Doubts
from preprocess.source.labels import counted


def test_labels_stored_as_scaled_integers_are_rounded(sick: Sick) -> None:
    sick.packed("seg", sick.a["seg"], "uint16")
    record = sick.make()
    assert sum(record.label_voxels.values()) == sick.tumour
    assert not record.noted


@pytest.mark.parametrize("factor", [1.0000001, 0.9999])
def test_labels_next_to_whole_numbers_are_rounded(sick: Sick, factor: float) -> None:
    sick.put("seg", (sick.a["seg"] * factor).astype("f4"))
    assert set(sick.make().label_voxels) == {"1", "2", "4"}


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (lambda labels: labels * 0.5, "(0.5)"),
        (lambda labels: labels * 1.01, "(1.01, 2.02, 4.04)"),
        (lambda labels: -labels, "(-4, -2, -1)"),
        (lambda labels: labels * 1000, "(1000, 2000, 4000)"),
    ],
)
def test_what_is_no_label_is_refused_with_examples(sick: Sick, change, shown: str) -> None:
    sick.put("seg", change(sick.a["seg"]).astype("f4"))
    sentence = sick.refusal()
    assert "holds values that are not labels" in sentence
    assert (
        sorted(shown.strip("()").split(", ")) == sorted(sentence.partition("labels (")[2].partition(")")[0].split(", "))
        or "0.5" in shown
    )


def test_labels_says_what_counts_as_tumour_everywhere(sick: Sick) -> None:
    record = sick.make("labels=[1,4]")
    assert set(record.label_voxels) == {"1", "4"}
    assert set(np.unique(Cohort.open(sick.store).labels(record.subject))) == {0, 1, 4}
    (said,) = [sentence for kind, sentence in record.noted if kind == "seg"]
    assert f"labels 2 ({int((sick.a['seg'] == 2).sum())} voxels) do not count as tumour" in said
    assert Cohort.open(sick.store).recipe["labels"] == [1, 4]


def test_a_label_of_0_or_a_word_is_refused(sick: Sick) -> None:
    from preprocess.shared.errors import SettingError

    for word in ("labels=[0,1]", "labels=[300]", "labels=[edema]"):
        with pytest.raises(SettingError, match="labels"):
            sick.make(word)


@pytest.mark.parametrize(
    ("here", "wanted", "kept"),
    [
        ([1, 2, 4], [1, 2, 4], [1, 2, 4]),
        ([1, 2, 4], [1, 2, 3], [1, 2, 4]),  # a file of 2018 in a cohort whose labels are given as in 2023
        ([1, 2, 3], [1, 2, 4], [1, 2, 3]),  # and the other way round
        ([1, 2, 3], [1, 2, 3], [1, 2, 3]),
        ([1, 2, 3, 4], [1, 2, 3], [1, 2, 3]),  # 4 is the resection cavity of 2024
        ([1, 2, 3, 4], [4], [4]),
        ([1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4]),
        ([1, 2, 3], [1], [1]),
        ([1, 2], [3], []),
    ],
)
def test_3_of_2023_and_4_of_2018_are_the_same(here: list[int], wanted: list[int], kept: list[int]) -> None:
    labels = np.array([0, *here], np.uint8).reshape(1, 1, -1)
    assert sorted(set(np.unique(counted(labels, "a_seg.nii.gz", wanted, Doubts("a")))) - {0}) == kept


def test_both_names_of_enhancing_tumour_are_one_row(sick: Sick, tmp_path) -> None:
    """A cohort of 2018's and 2023's names, with labels of each."""
    import shutil

    other = sick.source / "BraTS-GLI-00001-000"
    other.mkdir()
    words = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f", "seg": "seg"}
    for kind, path in sick.files.items():
        shutil.copy(path, other / f"{other.name}-{words[kind]}.nii.gz")
    seg = np.where(sick.a["seg"] == 4, 3, sick.a["seg"]).astype("u1")
    import nibabel as nib

    nib.save(nib.Nifti1Image(seg, sick.affine), other / f"{other.name}-seg.nii.gz")
    sick.make("labels=[1,2,4]")
    cohort = Cohort.open(sick.store)
    assert len(cohort.subjects) == 2
    assert [set(cohort.record(subject).label_voxels) for subject in cohort.subjects] == [{"1", "2", "3"}, {"1", "2", "4"}]
    shares = clip_shares(cohort)
    assert list(shares) == ["necrotic core", "oedema", "enhancing"]
    assert len(shares["enhancing"]["t1"]) == 2


@pytest.mark.parametrize(("share", "refused"), [(0.2, None), (0.45, False), (0.75, True), (1.0, True)])
def test_a_tumour_of_much_of_the_brain_is_said_and_of_most_set_aside(sick: Sick, share: float, refused: bool | None) -> None:
    place = np.quantile(np.argwhere(sick.brain)[:, 0], share)
    sick.put("seg", (sick.brain & (np.indices(sick.brain.shape)[0] < place)).astype("u1"))
    if refused:
        assert "of the brain as tumour: labels= names the labels that count" in sick.refusal()
    else:
        assert ("of the brain as tumour" in sick.said()) == (refused is False)


def test_labels_outside_the_brain_are_said_or_set_aside(sick: Sick) -> None:
    sick.put("seg", np.roll(sick.a["seg"], 4, axis=1).astype("u1"))
    few = np.where(np.indices(sick.brain.shape)[0] < 2, 1, sick.a["seg"])
    sick.put(
        "seg",
        np.where((np.indices(sick.brain.shape)[1] < 1) & (np.indices(sick.brain.shape)[0] < 10), few + 1, sick.a["seg"]).astype(
            "u1"
        ),
    )
    assert "labelled voxels lie outside the brain: is it on the scans' grid?" in sick.said()
    corner = np.zeros_like(sick.a["seg"])
    corner[:4, :4, :4] = 2
    sick.put("seg", corner.astype("u1"))
    assert "100% of" in sick.refusal()


def test_labels_that_are_not_a_number_in_the_brain_are_refused(sick: Sick) -> None:
    sick.put("seg", np.where(sick.a["seg"] == 2, np.nan, sick.a["seg"]).astype("f4"))
    assert f"is NaN or infinite in {int((sick.a['seg'] == 2).sum())} voxels of the brain: export it again" in sick.refusal()


def test_a_resection_cavity_is_never_taken_for_enhancing_tumour(sick: Sick) -> None:
    for path in sick.files.values():
        kind = path.name.removesuffix(".nii.gz").rpartition("_")[2]
        word = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f"}.get(kind, kind)
        path.rename(path.with_name(f"{sick.name}-{word}.nii.gz"))
    sick.files["seg"] = sick.source / sick.name / f"{sick.name}-seg.nii.gz"
    sick.put("seg", np.where(sick.a["seg"] == 1, 4, np.where(sick.a["seg"] == 2, 2, 0)).astype("u1"))
    record = sick.make("labels=[1,2,3]")
    assert "4" not in record.label_voxels
    assert "labels 4 (" in "".join(sentence for _, sentence in record.noted)


def test_a_label_that_counts_in_place_of_another_is_said(sick: Sick) -> None:
    record = sick.make("labels=[1,2,3]")
    assert "4" in record.label_voxels
    assert (
        "seg",
        "label 4 counts in place of 3: both are enhancing tumour, 4 until 2022 and 3 from 2023 on",
    ) in [tuple(each) for each in record.noted]

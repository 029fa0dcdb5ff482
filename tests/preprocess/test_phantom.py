"""The phantom: BRATS's layout, contrasts in the order of the physics, and the same patient for the same (seed, number)."""

import json
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from preprocess.phantom.fields import Grid, smooth_field
from preprocess.phantom.physics import SEQUENCES, TISSUES, Sequence, Tissue, signal
from preprocess.phantom.subject import FIELD_OF_VIEW, grids, make

KINDS = ("t1", "t1ce", "t2", "flair")


def test_the_layout_is_brats_2018s(phantoms: Path) -> None:
    names = sorted(p.name for p in phantoms.glob("*GG/*"))
    assert names == [f"Brats18_PHANTOM_{n:03d}_1" for n in range(10)]
    assert {p.parent.name for p in phantoms.glob("*GG/*")} == {"HGG", "LGG"}
    for folder in phantoms.glob("*GG/*"):
        assert {p.name for p in folder.iterdir()} == {f"{folder.name}_{kind}.nii.gz" for kind in (*KINDS, "seg")}
    image = nib.load(phantoms / "HGG" / names[1] / f"{names[1]}_t1.nii.gz")
    assert image.get_data_dtype() == np.int16
    assert image.shape == (48, 48, 31)
    assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
    assert image.header.get_zooms() == (5, 5, 5)


def test_at_one_millimetre_the_grid_is_brats_own() -> None:
    shape, (fine, _), factor, _ = grids(1.0)
    assert shape == FIELD_OF_VIEW == (240, 240, 155)
    assert factor == 1
    assert float(np.diff(fine.x).mean()) == pytest.approx(1)


def test_background_is_zero_in_every_contrast_and_nothing_else_is(phantoms: Path) -> None:
    for folder in sorted(phantoms.glob("*GG/*"))[:4]:
        volumes = [np.asarray(nib.load(folder / f"{folder.name}_{kind}.nii.gz").dataobj) for kind in KINDS]
        masks = [volume != 0 for volume in volumes]
        assert all((mask == masks[0]).all() for mask in masks)
        assert 1.1e6 < masks[0].sum() * 125 < 2.0e6  # mm^3: a stripped brain
        seg = np.asarray(nib.load(folder / f"{folder.name}_seg.nii.gz").dataobj)
        assert not seg[~masks[0]].any()


def test_low_grades_have_no_enhancing_rim(phantoms: Path) -> None:
    labels = {
        folder.name: (folder.parent.name, set(np.unique(np.asarray(nib.load(folder / f"{folder.name}_seg.nii.gz").dataobj))))
        for folder in phantoms.glob("*GG/*")
    }
    assert all(present <= {0, 1, 2, 4} and 2 in present for _, present in labels.values())
    assert all((4 in present) == (grade == "HGG") for grade, present in labels.values())


def test_the_same_seed_gives_the_same_subject_whatever_the_number_of_subjects(phantoms: Path) -> None:
    again = make(3, 4, 5.0)
    folder = next(phantoms.glob("*GG/Brats18_PHANTOM_004_1"))
    for kind in KINDS:
        stored = np.asarray(nib.load(folder / f"{folder.name}_{kind}.nii.gz").dataobj)
        assert np.array_equal(stored[::-1, ::-1], again.scans[kind])
    other = make(4, 4, 5.0)
    assert not np.array_equal(other.scans["t1"], again.scans["t1"])


def test_the_sidecar_keeps_the_true_bias_field(phantoms: Path) -> None:
    """A smooth field of a few per cent, of mean about 1 in the brain, different in each contrast."""
    folder = sorted(phantoms.glob("*GG/*"))[0]
    fields = np.load(phantoms / "truth" / f"{folder.name}_log_bias.npz")
    brain = np.asarray(nib.load(folder / f"{folder.name}_t1.nii.gz").dataobj) != 0
    assert set(fields) == set(KINDS)
    for field in fields.values():
        inside = np.exp(field.astype(float))[brain]
        assert field.shape == brain.shape
        assert 0.005 < inside.std() / inside.mean() < 0.2
        assert np.abs(np.diff(field.astype(float), axis=0))[brain[1:] & brain[:-1]].max() < 0.03
    assert not np.array_equal(fields["t1"], fields["t2"])
    truth = json.loads((phantoms / "truth" / f"{folder.name}.json").read_text())
    assert {"grade", "signals", "thickness_mm", "noise"} <= set(truth)


def test_the_signal_equations_by_hand() -> None:
    tissue = Tissue(t1=1000, t2=100, density=0.8)
    assert signal(tissue, Sequence(1000, 100)) == pytest.approx(0.8 * (1 - np.exp(-1)) * np.exp(-1))
    nulled = Sequence(1e9, 0, inversion=1000 * np.log(2))
    assert signal(tissue, nulled) == pytest.approx(0, abs=1e-12)
    enhanced = Tissue(1000, 100, 0.8, uptake=1.0)
    rate = 1 / 1000 + 4.5e-3
    assert signal(enhanced, Sequence(500, 0, gadolinium=True)) == pytest.approx(0.8 * (1 - np.exp(-500 * rate)))
    assert signal(enhanced, Sequence(500, 0)) == signal(Tissue(1000, 100, 0.8), Sequence(500, 0))


def test_contrasts_are_ordered_as_in_a_clinic() -> None:
    s = {kind: {name: signal(tissue, sequence) for name, tissue in TISSUES.items()} for kind, sequence in SEQUENCES.items()}
    for kind, order in {
        "t1": ["csf", "grey", "white"],
        "t2": ["white", "grey", "oedema", "csf"],
        "flair": ["csf", "white", "grey", "oedema"],
        "t1ce": ["csf", "grey", "white", "rim"],
    }.items():
        values = [s[kind][name] for name in order]
        assert all(low < high for low, high in pairwise(values)), (kind, values)
    assert s["t1"]["rim"] < s["t1"]["white"]  # only gadolinium shows the rim
    assert s["t2"]["rim"] == pytest.approx(s["t2"]["solid"], rel=0.15)  # and T2 hardly shows it


def test_mean_intensities_lie_near_the_real_case(phantoms: Path) -> None:
    """White matter of one real glioma: 616, 105, 183 in T1, T2, FLAIR; scanners differ by some tens of per cent."""
    medians = {kind: [] for kind in KINDS}
    for folder in phantoms.glob("*GG/*"):
        for kind in KINDS:
            volume = np.asarray(nib.load(folder / f"{folder.name}_{kind}.nii.gz").dataobj)
            medians[kind].append(np.median(volume[volume > 0]))
    assert np.mean(medians["t1"]) == pytest.approx(560, rel=0.25)
    assert np.mean(medians["t2"]) == pytest.approx(130, rel=0.3)
    assert np.mean(medians["flair"]) == pytest.approx(190, rel=0.25)
    assert np.std(medians["t1"]) / np.mean(medians["t1"]) > 0.05


def test_a_smooth_field_is_the_same_on_any_grid() -> None:
    def field(spacing: float) -> np.ndarray:
        axis = np.arange(-60, 60.1, spacing)
        return smooth_field(np.random.default_rng(0), 15, Grid(axis, axis, axis))

    fine, coarse = field(2.0), field(6.0)
    assert fine[::3, ::3, ::3] == pytest.approx(coarse, abs=1e-4)
    assert abs(fine.mean()) < 0.3
    assert fine.std() == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["subjects=0"], "subjects=0 must be at least 1"),
        (["spacing=50"], "spacing=50.0 must be at least 0.5 and at most 8"),
        (["spacng=3"], "did you mean spacing?"),
        (["subjects=some"], "setting subjects"),
    ],
)
def test_bad_settings_are_one_sentence(words: list[str], sentence: str, tmp_path: Path, run) -> None:
    done = run("preprocess.phantom", f"out={tmp_path / 'p'}", *words)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert sentence in done.stderr
    assert not (tmp_path / "p").exists()


def test_other_files_and_other_phantoms_are_not_mixed(phantoms: Path, tmp_path: Path, run) -> None:
    (tmp_path / "mine.txt").write_text("x")
    assert "holds other files: give an empty folder" in run("preprocess.phantom", f"out={tmp_path}", "spacing=5").stderr
    done = run("preprocess.phantom", f"out={phantoms}", "subjects=1", "spacing=4")
    assert done.returncode == 2
    assert "give another out=" in done.stderr
    again = run("preprocess.phantom", f"out={phantoms}", "subjects=10", "spacing=5", "seed=3")
    assert "(0 made now)" in again.stdout


def test_a_folder_that_cannot_be_written_is_one_sentence(run) -> None:
    done = run("preprocess.phantom", "out=/proc/nowhere", "subjects=1", "spacing=5")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "cannot write to out=/proc/nowhere" in done.stderr

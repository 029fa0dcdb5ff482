"""Restore: stored arrays return to the patient's exact grid, and to the corrected intensities within half a float16 step."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from preprocess import restore, to_zarr
from preprocess.bias import N4Settings, correct
from preprocess.cohort import BACKGROUND, Cohort
from preprocess.geometry import from_canonical, spacing_of
from preprocess.shared.errors import SettingError, StoreError, UserError
from preprocess.source.brats import discover
from preprocess.source.scans import read

REAL = Path(__file__).parents[3] / "shared" / "data" / "real"
FAST = ("workers=1", "recipe.n4.iterations=[2]", "recipe.crop=[180,180,180]", "split.test=1")
SHAPE = (15, 13, 12)
TURN = np.array([[0.96, -0.28, 0.0], [0.28, 0.96, 0.0], [0.0, 0.0, 1.0]])  # 16 degrees about z


def affine_of(axes: np.ndarray, corner: tuple[float, ...] = (31.7, -20.25, 7.1)) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes, corner
    return affine.astype(np.float32).astype(np.float64)  # as a header holds it


AFFINES = {
    "LPS": affine_of(np.diag([-12.0, -10.5, 12.0])),
    "RAS": affine_of(np.diag([12.0, 10.5, 12.0])),
    "oblique": affine_of(TURN @ np.diag([-12.0, -10.5, 12.0])),
    "sagittal": affine_of(np.array([[0, 0, 12.0], [-10.5, 0, 0], [0, -12.0, 0]])),
}
STORED = {"int16": (np.int16, 1.0, 0.0), "float32": (np.float32, 1.0, 0.0), "scaled": (np.int16, 0.25, -50.0)}


def scans(folder: Path, name: str, affine: np.ndarray, stored: str = "int16", seed: int = 0) -> dict[str, Path]:
    """A case whose files store voxels in another type and scale; its brain is an ellipsoid off the centre."""
    dtype, slope, intercept = STORED[stored]
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij")
    brain = ((x - 8) / 6) ** 2 + ((y - 5.5) / 5) ** 2 + ((z - 5) / 4.5) ** 2 < 1
    files = {}
    for kind, suffix in {"t1": "t1", "t1c": "t1ce", "t2": "t2", "flair": "flair", "seg": "seg"}.items():
        intensity = brain * (300 + 40 * rng.normal(size=SHAPE) + 10 * x)
        voxels = brain & (x > 9) if kind == "seg" else np.round((intensity - intercept) / slope, 0 if dtype == np.int16 else 7)
        files[kind] = folder / name / f"{name}_{suffix}.nii.gz"
        files[kind].parent.mkdir(parents=True, exist_ok=True)
        image = nib.Nifti1Image(voxels.astype(np.uint8 if kind == "seg" else dtype), affine)
        if kind != "seg":
            image.header.set_slope_inter(slope, intercept)
        nib.save(image, files[kind])
    return files


def cohort_of(source: Path, store: Path, *words: str) -> Cohort:
    assert to_zarr.main([f"source={source}", f"store={store}", *FAST, *words]) == 0
    return Cohort.open(store)


def restored(cohort: Cohort, subject: str, out: Path, *words: str) -> Path:
    assert restore.main([f"store={cohort.path}", f"subject={subject}", f"out={out}", *words]) == 0
    return out


def corrected(source: Path, subject: str, modality: str, iterations: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """A contrast after N4, and the brain, on the patient's grid."""
    (case,) = [case for case in discover(source).cases if case.name == subject]
    case_scans = read(case)
    volume = case_scans.volumes[case_scans.modalities.index(modality)]
    volume = correct(volume, case_scans.mask, spacing_of(case_scans.affine), N4Settings(iterations=iterations))
    affine = np.array(case_scans.original["original_affine"])
    return from_canonical(volume, affine), from_canonical(case_scans.mask, affine)


def assert_returned(file: Path, wanted: np.ndarray, inside: np.ndarray, units: dict[str, float]) -> None:
    """Within half a float16 step of the z-score (2^-11 of it) and half a step of the file's whole numbers; 0 elsewhere."""
    image = nib.load(file)
    got = image.get_fdata()
    z = (wanted[inside] - units["mean"]) / units["std"]
    whole = image.dataobj.slope / 2 if image.get_data_dtype().kind == "i" else 0
    tolerance = units["std"] * (np.abs(z) * 2**-11 + 2**-25) + whole + 1e-5 * np.abs(wanted[inside])
    assert inside.sum() > 100
    assert (np.abs(got[inside] - wanted[inside]) <= tolerance).all()
    assert (got[~inside] == 0).all()


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("axes", AFFINES)
def test_a_patient_returns(tmp_path: Path, axes: str, stored: str) -> None:
    files = scans(tmp_path / "source", "a b", AFFINES[axes], stored)
    cohort = cohort_of(tmp_path / "source", tmp_path / "c.zarr")
    out = restored(cohort, "a b", tmp_path / "out é")
    assert len(list(out.iterdir())) == 10
    for kind, path in files.items():
        before, after = nib.load(path), nib.load(out / f"a b_{kind}.nii.gz")
        assert after.shape == before.shape
        assert (after.affine == before.affine).all()
        assert (after.header.get_sform() == before.affine).all()
        assert nib.aff2axcodes(after.affine) == nib.aff2axcodes(before.affine)
        if kind == "seg":
            assert (after.get_fdata() == before.get_fdata()).all()
            continue
        assert (after.get_data_dtype(), after.dataobj.slope, after.dataobj.inter) == STORED[stored]
        wanted, brain = corrected(tmp_path / "source", "a b", kind, [2])
        assert_returned(out / f"a b_{kind}.nii.gz", wanted, brain, cohort.record("a b").intensity[kind])
        assert json.loads((out / f"a b_{kind}.json").read_text())["source"] == "the patient's own scan"


def test_a_brats_2015_patient_returns_as_nifti(tmp_path: Path, write_case) -> None:
    write_case(tmp_path / "source", "brats_2013_pat0001_1", size=14, layout="brats2015")
    cohort = cohort_of(tmp_path / "source", tmp_path / "c.zarr")
    (subject,) = cohort.subjects
    out = restored(cohort, subject, tmp_path / "out", "modality=t2")
    wanted, brain = corrected(tmp_path / "source", subject, "t2", [2])
    assert_returned(out / f"{subject}_t2.nii.gz", wanted, brain, cohort.record(subject).intensity["t2"])
    assert nib.load(out / f"{subject}_t2.nii.gz").affine.tolist() == cohort.record(subject).original_affine
    assert len(list(out.iterdir())) == 2


def test_voxels_outside_the_crop_are_0(tmp_path: Path) -> None:
    scans(tmp_path / "source", "a", AFFINES["LPS"])
    cohort = cohort_of(tmp_path / "source", tmp_path / "c.zarr", "recipe.crop=[72,180,180]")
    assert cohort.record("a").brain_voxels_lost > 0
    out = restored(cohort, "a", tmp_path / "out", "modality=t1")
    wanted, brain = corrected(tmp_path / "source", "a", "t1", [2])
    start = SHAPE[0] - cohort.record("a").crop_offset[2] - 6  # x runs the other way in an LPS file
    brain[:start], brain[start + 6 :] = False, False
    assert_returned(out / "a_t1.nii.gz", wanted, brain, cohort.record("a").intensity["t1"])


def test_a_resampled_patient_returns_to_the_scans_grid_within_the_coarser_grids_accuracy(tmp_path: Path, phantoms: Path) -> None:
    case = discover(phantoms).cases[0]
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / case.name).symlink_to(case.files["t1"].parent)
    cohort = cohort_of(tmp_path / "source", tmp_path / "c.zarr", "recipe.spacing=6", "recipe.crop=[240,240,240]")
    out = restored(cohort, case.name, tmp_path / "out")
    before, after = nib.load(case.files["t1"]), nib.load(out / f"{case.name}_t1.nii.gz")
    assert after.shape == before.shape
    assert (after.affine == before.affine).all()
    wanted, brain = corrected(tmp_path / "source", case.name, "t1", [2])
    both = brain & (after.get_fdata() != 0)
    assert both.sum() > 0.95 * brain.sum()
    error = np.sqrt(((after.get_fdata() - wanted)[both] ** 2).mean()) / wanted[both].std()
    assert error < 0.6  # of the brain's standard deviation: 5 mm voxels read through a 6 mm grid
    labels, seg = nib.load(case.files["seg"]).get_fdata(), nib.load(out / f"{case.name}_seg.nii.gz").get_fdata()
    assert 2 * ((labels > 0) & (seg > 0)).sum() / ((labels > 0).sum() + (seg > 0).sum()) > 0.7  # Dice


@pytest.fixture
def lacking(tmp_path: Path) -> Cohort:
    """Three subjects, of which `c` has no flair."""
    for seed, name in enumerate("abc"):
        files = scans(tmp_path / "source", name, AFFINES["LPS"], seed=seed)
    files["flair"].unlink()
    return cohort_of(tmp_path / "source", tmp_path / "c.zarr", "require=[t1]")


def test_a_contrast_that_was_not_scanned_gets_the_cohorts_units_and_a_note(lacking: Cohort, tmp_path: Path) -> None:
    image = lacking.image("c")[0]
    np.save(tmp_path / "made.npy", np.where(image == BACKGROUND, BACKGROUND, 1.5))
    out = restored(lacking, "c", tmp_path / "out", f"array={tmp_path / 'made.npy'}", "modality=flair")
    made = nib.load(out / "c_flair.nii.gz")
    own = [lacking.record(s).intensity["flair"] for s in "ab"]
    wanted = np.median([i["mean"] for i in own]) + 1.5 * np.median([i["std"] for i in own])
    assert made.get_data_dtype() == np.float32
    assert made.shape == SHAPE
    assert np.unique(made.get_fdata()) == pytest.approx([0, wanted], rel=1e-6)
    sidecar = json.loads((out / "c_flair.json").read_text())
    assert sidecar["source"] == "the median of 2 training subjects: this patient has no flair scan"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["subject=z"], "z is not in the manifest"),
        (["subject=c", "modality=flair"], "c has t1, t1c, t2; give array= to restore another"),
        (["subject=a", "modality=t3"], "choose from t1, t1c, t2, flair"),
        (["subject=a", "array=short.npy"], "needs modality="),
        (["subject=a", "array=none.npy", "modality=t1"], r"none\.npy cannot be read"),
        (["subject=a", "array=short.npy", "modality=t1"], r"shape \[2, 3, 4\] is not on the stored grid"),
        (["subject=a", "array=flat.npy", "modality=t1"], r"flat\.npy must hold finite numbers of shape \(z, y, x\)"),
        (["subject=a", "array=nan.npy", "modality=t1"], r"nan\.npy must hold finite numbers"),
        (["subject=a", "array=text.npy", "modality=t1"], r"text\.npy must hold finite numbers"),
        (["subject=a", "out=file/out"], "cannot write to out=file/out: Not a directory"),
    ],
)
def test_a_mistake_is_one_sentence(
    lacking: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("short.npy", np.zeros((2, 3, 4)))
    np.save("flat.npy", np.zeros((3, 4)))
    np.save("nan.npy", np.full((2, 3, 4), np.nan))
    np.save("text.npy", np.full((2, 3, 4), "a"))
    Path("file").touch()
    with pytest.raises((SettingError, StoreError, UserError), match=sentence) as error:
        restore.main([f"store={lacking.path}", "out=out", *words])
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("out/*.nii.gz"))


def test_the_command_as_a_user_runs_it(lacking: Cohort, tmp_path: Path, run) -> None:
    done = run("preprocess.restore", f"store={lacking.path}", "subject=c", f"out={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{tmp_path / 'out'}/c_{kind}.nii.gz" for kind in ("t1", "t1c", "t2", "seg")]
    refused = run("preprocess.restore", f"store={lacking.path}", "subject=c")
    assert (refused.returncode, refused.stderr.count("\n"), "setting out is missing" in refused.stderr) == (2, 1, True)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real scans are not at {REAL}")
@pytest.mark.parametrize(("subject", "modality", "word"), [("TCGA-DU-7294", "flair", "flair"), ("LJMS-07", "t1c", "t1ce")])
def test_a_real_patient_returns(tmp_path: Path, subject: str, modality: str, word: str) -> None:
    path = REAL / subject / f"{subject}_{word}.nii.gz"
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / path.name).symlink_to(path)
    cohort = cohort_of(tmp_path / "source", tmp_path / "c.zarr", "recipe.crop=[240,240,240]", f"require=[{modality}]")
    out = restored(cohort, subject, tmp_path / "out")
    before, after = nib.load(path), nib.load(out / f"{subject}_{modality}.nii.gz")
    assert (after.shape, after.get_data_dtype()) == (before.shape, before.get_data_dtype())
    assert (after.affine == before.affine).all()
    wanted, brain = corrected(tmp_path / "source", subject, modality, [2])
    assert_returned(out / f"{subject}_{modality}.nii.gz", wanted, brain, cohort.record(subject).intensity[modality])

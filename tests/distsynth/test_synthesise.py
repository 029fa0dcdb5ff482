"""Synthesis from a patient's files: what is written, where, on which grid, and what is refused."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from patients import UNET, WORDS, call, files_in, fitting, folder_of, report, some_of
from workbench import trainer_of, untrained_run

import distsynth
from distsynth.config import compose, load
from distsynth.evaluation.scoring import Patient
from distsynth.methods import registry
from distsynth.run_directory import CONFIGS, RunDirectory
from distsynth.synthesis import models as sources
from distsynth.training import checkpoint
from distsynth.training.model import restore
from preprocess import to_zarr
from preprocess.cohort import BACKGROUND, Cohort
from preprocess.geometry import uncrop
from preprocess.restore import intensities, place_of
from preprocess.shared.errors import SettingError, StoreError, UserError

SLOW = ("cyclegan_small", "stargan_small", "unified_gan_small", "unit_small")
SMALL = sorted(path.stem for path in (CONFIGS / "method").glob("*_small.yaml") if not path.stem.startswith("segment"))


@pytest.fixture(scope="module")
def run(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """T1 and T2 to T1c and FLAIR, untrained: its images are noise, but noise that must be the same everywhere."""
    return untrained_run(tmp_path_factory.mktemp("runs") / "mimo", "variant=mimo", *UNET, f"data.store={store}").path


@pytest.fixture(scope="module")
def patient(phantoms: Path, store: Path) -> Path:
    """The folder of a test patient whose brain fits in the crop."""
    return folder_of(phantoms, fitting(store, "test"))


# -- the image ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", [pytest.param(p, marks=[pytest.mark.full] * (p in SLOW)) for p in SMALL])
def test_the_evaluations_volume_comes_out(preset: str, store: Path, phantoms: Path, tmp_path: Path) -> None:
    kinds = registry.method(preset.removesuffix("_small")).kinds
    variant = next(v for v in ("mimo", "simo", "siso") if v in kinds)
    run = untrained_run(tmp_path / "run", f"variant={variant}", f"method={preset}", f"data.store={store}")
    cohort, subject, config = Cohort.open(store), fitting(store, "test"), load(run.config)
    model = restore(config, checkpoint.load(run.checkpoints / "best.pt"))
    record, evaluated = cohort.record(subject), Patient(config, cohort, subject, model)
    assert call(f"source={folder_of(phantoms, subject)}", f"out={tmp_path / 'out'}", f"run={run.path}", "outputs=all") == 0
    assert report(tmp_path / "out")[subject]["notes"] == []  # a test patient is held out
    for output, made in zip(config.variant.outputs, evaluated.made, strict=True):
        image = nib.load(tmp_path / "out" / f"{subject}_{output}_synth.nii.gz")
        units = model.trained_on.units[output]
        whole = uncrop(np.where(evaluated.brain, made, BACKGROUND), record.crop_offset, record.canonical_shape, BACKGROUND)
        expected = place_of(record).to_patient(intensities(whole, units["mean"], units["std"]), is_map=False)
        np.testing.assert_allclose(image.get_fdata(), expected, atol=1e-4 * units["std"])
        assert np.std(expected[expected != 0]) > 0.05 * units["std"]


def test_shape_affine_and_header_are_the_scans_for_nibabel_and_itk(patient: Path, run: Path, tmp_path: Path) -> None:
    case, place = some_of(patient, tmp_path / "in", "t1", "t2"), tmp_path / "out"
    for kind in ("t1", "t2"):  # qform and sform of different codes, a patient's name, a unit of time, other axes
        path = case / f"{patient.name}_{kind}.nii.gz"
        scan = nib.load(path)
        turned = nib.as_closest_canonical(scan).as_reoriented(nib.orientations.axcodes2ornt(("A", "S", "L")))
        turned.header["db_name"], turned.header["descrip"] = b"Jane Doe", b"Jane Doe, Main Street"
        turned.set_qform(turned.affine, 1)
        turned.set_sform(turned.affine, 4)
        turned.header.set_xyzt_units("mm", "sec")
        nib.save(turned, path)
    assert call(f"source={case}", f"out={place}", f"run={run}") == 0
    one, other = (nib.load(p) for p in (case / f"{patient.name}_t1.nii.gz", place / f"{patient.name}_flair_synth.nii.gz"))
    assert nib.aff2axcodes(other.affine) == nib.aff2axcodes(one.affine) != ("L", "P", "S")
    for field in ("qform_code", "sform_code", "quatern_b", "qoffset_x", "srow_x", "pixdim", "dim", "xyzt_units"):
        np.testing.assert_array_equal(one.header[field], other.header[field])
    np.testing.assert_array_equal(one.affine, other.affine)
    one_itk, other_itk = (sitk.ReadImage(str(path)) for path in (one.get_filename(), other.get_filename()))
    for ask in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(one_itk, ask)() == getattr(other_itk, ask)()
    assert other.header["descrip"].item().startswith(b"SYNTHETIC flair from t1+t2")
    assert b"Jane" not in gzip.decompress(Path(other.get_filename()).read_bytes())
    np.testing.assert_array_equal(one.get_fdata() != 0, other.get_fdata() != 0)  # the brain, all of it


def test_orientation_changes_nothing_but_the_order_of_the_voxels(patient: Path, run: Path, tmp_path: Path) -> None:
    plain, turned = (some_of(patient, tmp_path / name, "t1", "t2") for name in ("plain", "turned"))
    for path in turned.iterdir():
        nib.save(nib.load(path).as_reoriented(nib.orientations.axcodes2ornt(("S", "R", "P"))), path)
    for case in (plain, turned):
        assert call(f"source={case}", f"out={case.parent / 'out'}", f"run={run}", "outputs=[flair]") == 0
    images = [
        nib.as_closest_canonical(nib.load(tmp_path / name / "out" / f"{patient.name}_flair_synth.nii.gz"))
        for name in ("plain", "turned")
    ]
    np.testing.assert_allclose(images[0].get_fdata(), images[1].get_fdata(), atol=1e-3)


@pytest.mark.parametrize("voxels", [(0.9, 0.9, 5.0), (2.0, 7.0, 3.0)])
def test_other_voxels_are_resampled_and_back(voxels: Sequence[float], patient: Path, run: Path, tmp_path: Path) -> None:
    """Oblique slices, thinner and thicker than the training's 5 mm."""
    case = some_of(patient, tmp_path / "in", "t1", "t2")
    turn = sitk.Euler3DTransform()
    turn.SetRotation(0.2, -0.15, 0.1)
    for path in case.iterdir():
        nib.save(on_oblique_grid(path, voxels, turn), path)
    assert call(f"source={case}", f"out={tmp_path / 'out'}", f"run={run}") == 0
    scan, made = nib.load(case / f"{patient.name}_t1.nii.gz"), nib.load(tmp_path / "out" / f"{patient.name}_t1c_synth.nii.gz")
    assert (scan.shape, scan.affine.tolist()) == (made.shape, made.affine.tolist())
    brain = scan.get_fdata() != 0
    assert abs((made.get_fdata() != 0).sum() / brain.sum() - 1) < 0.02  # T2's voxels on the border count too
    side = json.loads((tmp_path / "out" / f"{patient.name}_t1c_synth.json").read_text())
    assert side["Resampled"] is True


def on_oblique_grid(path: Path, voxels: Sequence[float], turn: sitk.Transform) -> Any:
    """A scan on a grid with other voxels whose axes are turned."""
    scan = sitk.ReadImage(str(path))
    wanted = sitk.Image(
        [int(n * s / v) + 12 for n, s, v in zip(scan.GetSize(), scan.GetSpacing(), voxels, strict=True)], sitk.sitkFloat32
    )
    wanted.SetSpacing([float(v) for v in voxels])
    wanted.SetDirection(turn.GetMatrix())
    middle = np.array(scan.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in scan.GetSize()]))
    wanted.SetOrigin([0.0, 0.0, 0.0])
    ours = np.array(wanted.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in wanted.GetSize()]))
    wanted.SetOrigin([float(v) for v in middle - ours])
    moved = sitk.Resample(scan, wanted, sitk.Transform(), sitk.sitkLinear, 0.0)
    array = sitk.GetArrayFromImage(moved).T
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(wanted.GetDirection(), (3, 3)) * np.array(voxels)
    affine[:3, 3] = wanted.GetOrigin()
    return nib.Nifti1Image(np.where(array > 20, array, 0).astype(np.float32), np.diag([-1, -1, 1, 1]) @ affine)


def test_a_brain_larger_than_the_crop_keeps_all_its_voxels(phantoms: Path, patient: Path, tmp_path: Path) -> None:
    """And a network that copies gives a copy: the seams of the crops are not seen."""
    store = tmp_path / "small.zarr"
    to_zarr.main([f"source={phantoms}", f"store={store}", "recipe.n4.enabled=false", "recipe.crop=[90,100,80]", "workers=1"])
    run = untrained_run(tmp_path / "run", "variant=siso", *UNET, f"data.store={store}")
    model = sources.load(run.path)
    copy = lambda given, brain: given * brain + brain - 1  # noqa: E731
    model.model.method.synthesise = copy
    made = model.synthesise(t1=patient / f"{patient.name}_t1.nii.gz")["t2"].get_fdata()
    brain = nib.load(patient / f"{patient.name}_t1.nii.gz").get_fdata() != 0
    np.testing.assert_array_equal(made != 0, brain)
    scan = nib.load(patient / f"{patient.name}_t1.nii.gz").get_fdata()[brain]
    low, high = np.percentile(scan, [5, 95])
    middle = (scan > low) & (scan < high)  # what neither clip nor map cuts
    slope, offset = np.polyfit(scan[middle], made[brain][middle], 1)
    assert np.abs(made[brain][middle] - slope * scan[middle] - offset).max() < 0.02 * (high - low) * slope


def test_flips_are_averaged(patient: Path, store: Path, tmp_path: Path) -> None:
    """A network that adds something to the left half only: after averaging, both halves have half of it."""
    run = untrained_run(tmp_path / "run", "variant=siso", *UNET, f"data.store={store}")
    model, scan = distsynth.load(run.path), patient / f"{patient.name}_t1.nii.gz"

    def lopsided(given: torch.Tensor, brain: torch.Tensor) -> torch.Tensor:
        half = torch.zeros_like(given)
        half[..., : given.shape[-1] // 2] = 0.2
        return given * 0.5 + half

    model.model.method.synthesise = lopsided  # type: ignore[method-assign]
    once, mean = (model.synthesise(t1=scan, flip=flip)["t2"].get_fdata() for flip in (False, True))
    brain = nib.load(scan).get_fdata() != 0
    added = 0.2 / 2 * (model.model.mapping.high["t2"] - model.model.mapping.low["t2"]) * model.trained_on.units["t2"]["std"]
    difference = np.abs((once - mean)[brain])
    np.testing.assert_allclose(difference, added / 2, rtol=1e-3)


# -- names and marks --------------------------------------------------------------------------------------------------------


def test_the_sidecar_tells_what_it_is_and_what_made_it(patient: Path, run: Path, tmp_path: Path) -> None:
    case = some_of(patient, tmp_path / "in", "t1", "t2")
    assert call("-i", case, "-o", tmp_path / "out", f"run={run}", "--device", "cpu") == 0
    side = json.loads((tmp_path / "out" / f"{patient.name}_flair_synth.json").read_text())
    assert side["Synthetic"] is True
    assert "research use only" in side["Notice"]
    assert side["SynthesisedFrom"] == ["t1", "t2"]
    assert side["Sources"] == [f"{patient.name}_{kind}.nii.gz" for kind in ("t1", "t2")]
    model = distsynth.load(run)
    assert side["Model"]["Digest"] == model.digest
    assert side["Model"]["Recipe"] == Cohort.open(load(RunDirectory(run).config).data.store).recipe
    assert side["Units"]["mean"] == model.trained_on.units["flair"]["mean"]
    assert "training subjects" in side["Units"]["source"]
    assert side["SeenInTraining"] is False
    assert (tmp_path / "out" / f"{patient.name}_t1c+flair_synth.png").read_bytes()[:4] == b"\x89PNG"


def test_a_patient_of_the_training_is_told_of(
    store: Path, phantoms: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = Cohort.open(store).split("gan")[0]
    case = some_of(folder_of(phantoms, name), tmp_path / "in", "t1", "t2")
    for path in case.iterdir():  # packed again: other bytes, the same voxels
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 1))
    assert call(f"source={folder_of(phantoms, name)}", f"out={tmp_path / 'out'}", f"run={run}", "outputs=all") == 0
    assert "not a held-out result" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / f"{name}_flair_synth.json").read_text())["SeenInTraining"] is True


def test_bids_derivatives(patient: Path, run: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for subject, session in (("sub-01", ""), ("sub-02", "ses-a")):
        anat = raw.joinpath(subject, *([session] if session else []), "anat")
        anat.mkdir(parents=True)
        for kind, suffix in (("t1", "T1w"), ("t2", "T2w")):
            name = "_".join(filter(None, (subject, session, suffix)))
            shutil.copy(patient / f"{patient.name}_{kind}.nii.gz", anat / f"{name}.nii.gz")
    assert call(f"source={raw}", f"out={raw}", f"run={run}") == 0
    base = raw / "derivatives" / "distsynth"
    made = {str(p.relative_to(base)) for p in base.rglob("*.nii.gz")}
    assert made == {
        "sub-01/anat/sub-01_ce-gadolinium_desc-synth_T1w.nii.gz", "sub-01/anat/sub-01_desc-synth_FLAIR.nii.gz",
        "sub-02/ses-a/anat/sub-02_ses-a_ce-gadolinium_desc-synth_T1w.nii.gz",
        "sub-02/ses-a/anat/sub-02_ses-a_desc-synth_FLAIR.nii.gz",
    }  # fmt: skip
    description = json.loads((base / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"] == "distsynth"
    assert (base / description["DatasetLinks"]["raw"]).resolve() == raw.resolve()
    side = json.loads((base / "sub-02/ses-a/anat/sub-02_ses-a_desc-synth_FLAIR.json").read_text())
    assert side["Sources"][0] == "bids:raw:sub-02/ses-a/anat/sub-02_ses-a_T1w.nii.gz"
    assert call(f"source={raw}", f"out={raw}", f"run={run}", "continue=true") == 0  # its own files are not taken for scans
    assert report(base)["sub-01"]["status"] == "kept"


def test_plain_names_for_segmenters(patient: Path, run: Path, tmp_path: Path) -> None:
    case = some_of(patient, tmp_path / "in", "t1", "t2")
    assert call(f"source={case.parent}", f"out={case.parent}", f"run={run}", "names=plain") == 0
    assert {p.name for p in case.glob("*.nii.gz")} == {f"{patient.name}_{k}.nii.gz" for k in ("t1", "t1ce", "t2", "flair")}
    assert call(f"source={case.parent}", f"out={case.parent}", f"run={run}", "names=plain", "continue=true") == 0
    assert report(case.parent)[patient.name]["status"] == "kept"
    with pytest.raises(UserError, match="is a synthesised image, as its header says"):
        to_zarr.main([f"source={case.parent}", f"store={tmp_path / 'c.zarr'}", "workers=1"])


def test_named_files(patient: Path, run: Path, tmp_path: Path) -> None:
    files = [f"{kind}={patient / f'{patient.name}_{kind}.nii.gz'}" for kind in ("t1", "t2")]
    assert call(*files, f"out={tmp_path / 'a'}", f"run={run}") == 0
    assert call(*files, f"out={tmp_path / 'b'}", f"run={run}", "name=1_2") == 0
    assert call(f"source={some_of(patient, tmp_path / 'in', 't1', 't2')}", f"out={tmp_path / 'c'}", f"run={run}") == 0
    flair = "flair_synth.nii.gz"
    made = [f"a/{patient.name}_{flair}", f"b/1_2_{flair}", f"c/{patient.name}_{flair}"]
    images = [(tmp_path / file).read_bytes() for file in made]
    assert images[0] == images[1] == images[2]


# -- which model, and which contrasts -------------------------------------------------------------------------------------------


def test_a_sweeps_best_on_val_is_taken_for_each_output(store: Path, patient: Path, tmp_path: Path) -> None:
    psnr = {"a": {"t1c": 20.0, "flair": 15.0}, "b": {"t1c": 19.0, "flair": 18.0}}
    for seed, (name, values) in enumerate(psnr.items()):
        run = untrained_run(
            tmp_path / "sweep" / name, "variant=mimo", *UNET, f"data.store={store}", f"seed={seed}", f"train.lr={seed + 1}e-3"
        )
        scored(run, values)
    case = some_of(patient, tmp_path / "in", "t1", "t2")
    assert call(f"source={case}", f"out={tmp_path / 'out'}", f"run={tmp_path / 'sweep'}") == 0
    chosen = {
        o: json.loads((tmp_path / "out" / f"{patient.name}_{o}_synth.json").read_text())["Model"]["Run"] for o in ("t1c", "flair")
    }
    assert chosen == {"t1c": "a", "flair": "b"}
    with pytest.raises(SettingError, match="is a sweep: give one of its runs"):
        distsynth.load(tmp_path / "sweep")


def test_a_sweeps_runs_may_have_different_recipes(phantoms: Path, patient: Path, tmp_path: Path) -> None:
    """One resamples onto T1's grid and one onto T2's: each output gets the grid of its own run."""
    psnr = {"t1": {"t1c": 20.0, "flair": 15.0}, "t2": {"t1c": 19.0, "flair": 18.0}}
    for grid, values in psnr.items():
        cohort = tmp_path / f"{grid}.zarr"
        to_zarr.main([f"source={phantoms}", f"store={cohort}", "recipe.n4.enabled=false", f"resample={grid}", "workers=1"])
        scored(untrained_run(tmp_path / "sweep" / grid, "variant=mimo", *UNET, f"data.store={cohort}"), values)
    case = some_of(patient, tmp_path / "in", "t1", "t2")
    path = case / f"{patient.name}_t2.nii.gz"
    nib.save(nib.load(path).slicer[2:-2], path)
    assert call(f"source={case}", f"out={tmp_path / 'out'}", f"run={tmp_path / 'sweep'}") == 0
    for output, grid in (("t1c", "t1"), ("flair", "t2")):
        scan = nib.load(case / f"{patient.name}_{grid}.nii.gz")
        made = nib.load(tmp_path / "out" / f"{patient.name}_{output}_synth.nii.gz")
        assert (scan.shape, scan.affine.tolist()) == (made.shape, made.affine.tolist())
        assert np.corrcoef(scan.get_fdata().ravel() != 0, made.get_fdata().ravel() != 0)[0, 1] > 0.95


def scored(run: RunDirectory, psnr: dict[str, float]) -> None:
    """Give a run scores on one val patient."""
    scores = {o: {"brain": {"synthesised": {"psnr": {"mean": v, "std": 0.0, "n": 1}}}} for o, v in psnr.items()}
    content = {"cohorts": {"val": {"subjects": ["x"], "scores": scores}}, "rows": [], "beaten_against": [], "images": True}
    run.scores.parent.mkdir()
    run.scores.write_text(json.dumps(content))


def test_the_parents_patients_are_remembered(store: Path, phantoms: Path, tmp_path: Path) -> None:
    """A run whose weights began as another run's has seen its patients too."""
    parent = untrained_run(tmp_path / "parent", "variant=mimo", *UNET, f"data.store={store}")
    other = tmp_path / "other.zarr"
    to_zarr.main([f"source={phantoms}", f"store={other}", "recipe.n4.enabled=false", "split.seed=5", "workers=1"])
    config = compose(["variant=mimo", *UNET, f"data.store={other}", f"train.init_from={parent.path}"])
    child = trainer_of(config, RunDirectory(tmp_path / "child")).model.trained_on
    known = distsynth.load(parent.path).trained_on
    assert child is not None
    assert set(known.scans) < set(child.scans)
    assert known.units != child.units


@pytest.mark.parametrize(
    ("preset", "there", "inputs"),
    [("mmgan_small", ("t2",), ["t2"]), ("mmgan_small", ("t1", "t2", "flair"), ["t1", "t2", "flair"]), ("stargan_small", ("t1", "flair"), ["t1"]),
     ("unified_gan_small", ("t1c", "flair"), ["t1c"])],
)  # fmt: skip
def test_any_to_any_methods_take_whatever_is_there(
    preset: str, there: tuple[str, ...], inputs: list[str], store: Path, patient: Path, tmp_path: Path
) -> None:
    variant, more = ("mimo", []) if preset.startswith("mm") else ("simo", ["method.directions=all"] * preset.startswith("uni"))
    run = untrained_run(tmp_path / "run", f"variant={variant}", f"method={preset}", *more, f"data.store={store}")
    case = some_of(patient, tmp_path / "in", *there)
    assert call(f"source={case}", f"out={tmp_path / 'out'}", f"run={run.path}") == 0
    missing = {"t1", "t1c", "t2", "flair"} - set(there)
    assert set(report(tmp_path / "out")[patient.name]["outputs"]) == missing
    for output in missing:
        assert json.loads((tmp_path / "out" / f"{patient.name}_{output}_synth.json").read_text())["SynthesisedFrom"] == inputs


def test_nothing_is_missing(patient: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(f"source={patient}", f"out={tmp_path}", f"run={run}") == 0
    assert "outputs=all" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.nii.gz"))


# -- Python -------------------------------------------------------------------------------------------------------------------


def test_the_same_image_from_python(patient: Path, run: Path, tmp_path: Path) -> None:
    case = some_of(patient, tmp_path / "in", "t1", "t2")
    assert call(f"source={case}", f"out={tmp_path / 'out'}", f"run={run}") == 0
    written = nib.load(tmp_path / "out" / f"{patient.name}_flair_synth.nii.gz")
    model = distsynth.load(run)
    paths = {kind: case / f"{patient.name}_{kind}.nii.gz" for kind in ("t1", "t2")}
    loaded = {kind: nib.load(path) for kind, path in paths.items()}
    arrays = {kind: image.get_fdata() for kind, image in loaded.items()}
    for images in (model.synthesise(**paths), model.synthesise(**loaded), model.synthesise(t1=str(paths["t1"]), t2=loaded["t2"])):
        assert set(images) == {"t1c", "flair"}
        np.testing.assert_array_equal(images["flair"].get_fdata(), written.get_fdata())
        np.testing.assert_array_equal(images["flair"].affine, written.affine)
    made = model.synthesise(**arrays, affine=loaded["t1"].affine, outputs=["flair"])
    np.testing.assert_array_equal(made["flair"], written.get_fdata())
    assert distsynth.Cohort is Cohort


@pytest.mark.parametrize(
    ("scans", "words", "sentence"),
    [
        (("t1",), {}, "makes T1c and FLAIR from T1 and T2, and there is only T1"),
        (("t1", "t2"), {"outputs": ["t2"]}, "makes T1c and FLAIR, not T2"),
        (("t1", "t2", "t1c", "flair"), {}, "nothing is missing"),
        (("t1", "t2"), {"pd": "x"}, "pd= is not known"),
        (("t1",), {"t2": "absent.nii"}, "t2=absent.nii does not exist"),
        (("t1",), {"t2": np.zeros((4, 4, 4))}, "t2 has no affine: give affine= with arrays"),
        (("t1",), {"t2": np.zeros((4, 4, 4)), "affine": np.eye(3)}, "the affine of t2 must be a 4 x 4 matrix"),
        (("t1",), {"t2": np.zeros((4, 4)), "affine": np.eye(4)}, "t2 has shape"),
        (("t1",), {"t2": np.zeros((4, 4, 4), complex), "affine": np.eye(4)}, "t2 holds complex128"),
        (("t1", "t2"), {"outputs": "pd"}, "outputs=pd must be missing, all, or contrasts"),
        (("t1", "t2"), {"outputs": 3}, "outputs=3 must be"),
        (("t1", "t2"), {"resample": "flair"}, "resample='flair' is none of the scans"),
        ((), {"mask": "m.nii"}, "no scan is given"),
        (("t1",), {"t2": 7}, "t2 is a int: give a path"),
    ],
)
def test_python_says_what_is_wrong(
    scans: tuple[str, ...], words: dict[str, Any], sentence: str, patient: Path, run: Path
) -> None:
    given = {kind: patient / f"{patient.name}_{WORDS[kind]}.nii.gz" for kind in scans}
    with pytest.raises(SettingError, match=sentence):
        distsynth.load(run).synthesise(**(given | words))


# -- what goes wrong ------------------------------------------------------------------------------------------------------------


def other_grid(case: Path, name: str) -> None:
    path = case / f"{name}_t2.nii.gz"
    scan = nib.load(path)
    nib.save(nib.Nifti1Image(scan.get_fdata()[2:].astype(np.float32), scan.affine), path)


def skull(case: Path, name: str) -> None:
    for kind in ("t1", "t2"):
        path = case / f"{name}_{kind}.nii.gz"
        scan = nib.load(path)
        air = np.random.default_rng(0).integers(1, 50, scan.shape)
        nib.save(nib.Nifti1Image((scan.get_fdata() + air).astype(np.float32), scan.affine), path)


def of_t2(change: Callable[[Path], object]) -> Callable[[Path, str], object]:
    """What changes a case's T2 file."""
    return lambda case, name: change(case / f"{name}_t2.nii.gz")


BROKEN = {
    "too few": (of_t2(lambda t2: t2.unlink()), "makes T1c from T1 and T2, and there is only T1"),
    "other grid": (other_grid, r"register them \(coregister=true does\), or if they show the same place set resample=t1"),
    "skull": (skull, r"make a brain mask with `mri_synthstrip -i .*_t1.nii.gz -m .*_mask.nii.gz`, or with `hd-bet "),
    "no NIfTI": (of_t2(lambda t2: t2.write_bytes(b"hello")), "_t2.nii.gz is not a NIfTI file"),
    "a pipe": (of_t2(lambda t2: (t2.unlink(), os.mkfifo(t2))), "_t2.nii.gz is not a plain file"),
    "a link to nothing": (of_t2(lambda t2: (t2.unlink(), t2.symlink_to("/nowhere"))), "_t2.nii.gz is a link to nothing"),
    "cut off": (of_t2(lambda t2: t2.write_bytes(t2.read_bytes()[:5000])), "copy it again"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_bad_patient_is_set_aside_and_the_others_go_on(
    kind: str, store: Path, phantoms: Path, patient: Path, run: Path, tmp_path: Path
) -> None:
    bad = some_of(folder_of(phantoms, Cohort.open(store).split("gan")[0]), tmp_path / "in", "t1", "t2")
    some_of(patient, tmp_path / "in", "t1", "t2")
    change, sentence = BROKEN[kind]
    change(bad, bad.name)
    assert call(f"source={tmp_path / 'in'}", f"out={tmp_path / 'out'}", f"run={run}") == 1
    outcomes = report(tmp_path / "out")
    assert outcomes[patient.name]["status"] == "synthesised"
    assert outcomes[bad.name]["status"] == "set aside"
    assert re.search(sentence, outcomes[bad.name]["why"]), outcomes[bad.name]["why"]
    assert not list((tmp_path / "out").glob(f"{bad.name}*"))


def test_a_mask_of_a_stripper_lets_a_skull_in(patient: Path, run: Path, tmp_path: Path) -> None:
    case = some_of(patient, tmp_path / "in", "t1", "t2")
    scan = nib.load(case / f"{patient.name}_t1.nii.gz")
    brain = nib.Nifti1Image((scan.get_fdata() != 0).astype(np.uint8), scan.affine)
    skull(case, patient.name)
    nib.save(brain, case / f"{patient.name}_mask.nii.gz")
    assert call(f"source={case}", f"out={tmp_path / 'out'}", f"run={run}") == 0
    made = nib.load(tmp_path / "out" / f"{patient.name}_flair_synth.nii.gz").get_fdata()
    np.testing.assert_array_equal(made != 0, brain.get_fdata() != 0)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["run=nowhere"], "run=nowhere does not exist"),
        (["out=o"], "setting run is missing"),
        (["outputs=[pd]"], "outputs=pd must be missing, all, or contrasts"),
        (["outputs=t2"], "outputs=t2: run=.* makes t1c, flair"),
        (["device=cuda:99"], "device=cuda:99: this machine has"),
        (["device=tpu"], "choose auto, cpu, cuda or cuda:N"),
        (["part=0/3"], "part=0/3 must be K/N"),
        (["t1=x.nii.gz"], "are both given"),
        (["--gpu=1"], "--gpu is not known"),
        (["resample=pd"], "resample=pd must be empty or one of"),
        (["layout=dicom"], "layout=dicom is not known"),
        (["tta=all"], "tta"),
        (["threads=100000"], "threads=100000: this process may use"),
    ],
)
def test_settings_are_refused_before_any_work(words: list[str], sentence: str, patient: Path, run: Path, tmp_path: Path) -> None:
    given = {"source": str(patient), "out": str(tmp_path / "out"), "run": str(run)}
    if words[0].startswith("out="):
        del given["run"]
    given |= {key: value for key, _, value in (word.partition("=") for word in words if not word.startswith("-"))}
    with pytest.raises(UserError, match=sentence):
        call(*(f"{key}={value}" for key, value in given.items()), *(word for word in words if word.startswith("-")))
    assert not (tmp_path / "out").exists()


def test_scans_that_are_no_scans(patient: Path, run: Path, tmp_path: Path) -> None:
    """The same file twice, a synthesised image, and a folder that only holds such."""
    files = {kind: patient / f"{patient.name}_{kind}.nii.gz" for kind in ("t1", "t2")}
    with pytest.raises(UserError, match="t1 and t2 are the same file"):
        call(f"t1={files['t1']}", f"t2={files['t1']}", f"out={tmp_path / 'o'}", f"run={run}")
    assert call(*(f"{kind}={path}" for kind, path in files.items()), f"out={tmp_path}", f"run={run}", "names=plain") == 0
    made = tmp_path / patient.name / f"{patient.name}_flair.nii.gz"
    with pytest.raises(SettingError, match="is a synthesised image, as its header says"):
        call(f"t1={files['t1']}", f"t2={made}", f"out={tmp_path / 'o'}", f"run={run}")
    with pytest.raises(UserError, match="has no scan that is not itself synthesised"):
        call(f"source={tmp_path / patient.name}", f"out={tmp_path / 'o'}", f"run={run}")
    for scan in (made, nib.load(made)):
        with pytest.raises(SettingError, match="is a synthesised image"):
            distsynth.load(run).synthesise(t1=files["t1"], t2=scan)


def test_a_patients_folder_within_a_bids_dataset(patient: Path, run: Path, tmp_path: Path) -> None:
    """Sources name the dataset; images of another dataset do not go into the same derivatives."""
    for dataset in ("raw", "other"):
        anat = tmp_path / dataset / "sub-01" / "anat"
        anat.mkdir(parents=True)
        for kind, suffix in (("t1", "T1w"), ("t2", "T2w")):
            shutil.copy(patient / f"{patient.name}_{kind}.nii.gz", anat / f"sub-01_{suffix}.nii.gz")
    out = tmp_path / "derivatives" / "synthetic"
    assert call(f"source={tmp_path / 'raw' / 'sub-01'}", f"out={out}", f"run={run}") == 0
    side = json.loads((out / "sub-01/anat/sub-01_desc-synth_FLAIR.json").read_text())
    assert side["Sources"][0] == "bids:raw:sub-01/anat/sub-01_T1w.nii.gz"
    with pytest.raises(StoreError, match="is of images from another dataset"):
        call(f"source={tmp_path / 'other'}", f"out={out}", f"run={run}", "continue=true")


def test_no_scans_are_given(run: Path, tmp_path: Path) -> None:
    for words, sentence in (
        ([], "no scans are given"),
        (["mask=m.nii"], "mask= alone is no scan"),
        (["t1=m.nii"], "t1=m.nii does not exist"),
    ):
        with pytest.raises(SettingError, match=sentence):
            call(*words, f"out={tmp_path}", f"run={run}")


def test_a_checkpoint_of_a_newer_version(run: Path, patient: Path, tmp_path: Path) -> None:
    newer = tmp_path / "newer"
    shutil.copytree(run, newer)
    state = torch.load(newer / "checkpoints" / "best.pt", weights_only=True)
    torch.save({**state, "format": 99}, newer / "checkpoints" / "best.pt")
    with pytest.raises(StoreError, match="has format 99 and this version of distsynth reads up to"):
        call(f"source={patient}", f"out={tmp_path / 'o'}", f"run={newer}")
    torch.save({**state, "method": {}}, newer / "checkpoints" / "best.pt")
    with pytest.raises(StoreError, match="does not fit this version of distsynth"):
        call(f"source={patient}", f"out={tmp_path / 'p'}", f"run={newer}")


def test_a_run_of_version_0_1_takes_the_units_from_its_cohort(patient: Path, run: Path, store: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(run, old)
    state = torch.load(old / "checkpoints" / "best.pt", weights_only=True)
    checkpoint.save({k: v for k, v in state.items() if k not in ("format", "trained_on")}, old / "checkpoints" / "best.pt")
    assert distsynth.load(old).digest == distsynth.load(run).digest
    (old / "config.yaml").write_text((old / "config.yaml").read_text().replace(str(store), str(tmp_path / "gone.zarr")))
    with pytest.raises(StoreError, match=r"left the units of the outputs in the cohort, and cohort .*gone.zarr does not exist"):
        distsynth.load(old)


# -- again, and after a kill -----------------------------------------------------------------------------------------------------


def test_what_is_done_is_kept_and_what_is_half_done_is_made_again(patient: Path, run: Path, tmp_path: Path) -> None:
    case, out = some_of(patient, tmp_path / "in", "t1", "t2"), tmp_path / "out"
    words = [f"source={case}", f"out={out}", f"run={run}"]
    assert call(*words) == 0
    whole = files_in(out)
    with pytest.raises(UserError, match="exists: continue=true keeps what is done"):
        call(*words)
    stamp = (out / f"{patient.name}_t1c_synth.nii.gz").stat().st_mtime_ns
    assert call(*words, "continue=true") == 0
    assert (out / f"{patient.name}_t1c_synth.nii.gz").stat().st_mtime_ns == stamp
    image, side = out / f"{patient.name}_flair_synth.nii.gz", out / f"{patient.name}_flair_synth.json"
    for harm in (
        side.unlink,
        image.unlink,
        (out / f"{patient.name}_t1c+flair_synth.png").unlink,
        lambda: image.write_bytes(image.read_bytes()[:-7]),
        lambda: (side.unlink(), image.with_name(image.name + ".partial").write_bytes(b"x")),
    ):
        harm()
        assert call(*words, "continue=true") == 0
        now = files_in(out)
        assert {name: content for name, content in now.items() if name != "report.json"} == {
            name: content for name, content in whole.items() if name != "report.json"
        }


def test_files_that_are_not_this_calls_are_never_overwritten(patient: Path, run: Path, store: Path, tmp_path: Path) -> None:
    case, out = some_of(patient, tmp_path / "in", "t1", "t2"), tmp_path / "out"
    words = [f"source={case}", f"out={out}"]
    assert call(*words, f"run={run}") == 0
    before = files_in(out)
    other = untrained_run(tmp_path / "other", "variant=mimo", *UNET, f"data.store={store}", "seed=5")
    for more in ([f"run={other.path}"], [f"run={run}", "tta=flip"]):
        with pytest.raises(UserError, match="was made by another model, of other scans or with other options"):
            call(*words, *more, "continue=true")
    shutil.copy(case / f"{patient.name}_t1.nii.gz", out / f"{patient.name}_flair_synth.nii.gz")
    (out / f"{patient.name}_flair_synth.json").unlink()
    with pytest.raises(UserError, match="exists and is not synthesised"):
        call(*words, f"run={run}", "continue=true")
    after = files_in(out)
    assert after[f"{patient.name}_t1c_synth.nii.gz"] == before[f"{patient.name}_t1c_synth.nii.gz"]


def test_what_stands_in_the_way_is_never_replaced(patient: Path, run: Path, tmp_path: Path) -> None:
    """A user's sidecar, picture and report, files or folders; and an acquired contrast that would get a twin."""
    case = some_of(patient, tmp_path / "in", "t1", "t2")
    for number, name in enumerate((f"{patient.name}_flair_synth.json", f"{patient.name}_t1c+flair_synth.png", "report.json") * 2):
        out = tmp_path / f"out{number}"
        out.mkdir()
        if number < 3:
            (out / name).write_text('{"EchoTime": 0.1}')
        else:
            (out / name).mkdir()
        before = files_in(out)
        with pytest.raises(UserError, match=f"{re.escape(name)} exists and is "):
            call(f"source={case}", f"out={out}", f"run={run}", "continue=true")
        assert {file: content for file, content in files_in(out).items() if file in before} == before
        assert not list(out.glob("*.nii.gz"))
    whole = some_of(patient, tmp_path / "whole", "t1", "t2", "flair")
    flair = whole / f"{patient.name}_flair.nii.gz"
    nib.save(nib.load(flair), whole / f"{patient.name}_flair.nii")
    flair.unlink()
    with pytest.raises(UserError, match=r"names=plain would put .*_flair.nii.gz beside the acquired .*_flair.nii"):
        call(f"source={whole.parent}", f"out={whole.parent}", f"run={run}", "names=plain", "outputs=[flair]")


def test_a_contrast_of_a_part_of_the_head(patient: Path, run: Path, tmp_path: Path) -> None:
    """Said where a little is missing, set aside where most of the brain is."""
    for kept, sentence in ((0.75, "share only"), (0.2, "leave out the one that covers a part")):
        case, out = some_of(patient, tmp_path / f"in{kept}", "t1", "t2"), tmp_path / f"out{kept}"
        path = case / f"{patient.name}_t2.nii.gz"
        scan = nib.load(path)
        nib.save(scan.slicer[:, :, : int(kept * scan.shape[2])], path)
        if kept > 0.5:
            assert call(f"source={case}", f"out={out}", f"run={run}", "resample=t1") == 0
            assert sentence in report(out)[patient.name]["notes"][0]
        else:
            with pytest.raises(UserError, match=sentence):
                call(f"source={case}", f"out={out}", f"run={run}", "resample=t1")


def test_a_changed_configuration_or_damaged_run_is_refused(patient: Path, run: Path, tmp_path: Path) -> None:
    swapped = "outputs:\n  - flair\n  - t1c"
    for number, (name, change, sentence) in enumerate(
        (
            (
                "config.yaml",
                lambda text: text.replace("outputs:\n  - t1c\n  - flair", swapped),
                "is not the one that the checkpoint",
            ),
            ("run.json", lambda text: "xx", "run.json is damaged"),
            ("run.json", lambda text: "[]", "run.json is damaged"),
            ("evaluation/scores.json", lambda text: "{}", "scores.json is damaged: write it again"),
        )
    ):
        other = tmp_path / str(number)
        shutil.copytree(run, other)
        file = other / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(change(file.read_text() if file.exists() else ""))
        with pytest.raises(UserError, match=sentence):
            distsynth.load(other)


def test_parts_share_the_patients(store: Path, phantoms: Path, run: Path, tmp_path: Path) -> None:
    names = sorted(Cohort.open(store).subjects)[:3]
    for name in names:
        some_of(folder_of(phantoms, name), tmp_path / "in", "t1", "t2")
    for part in ("1/2", "2/2"):
        assert call(f"source={tmp_path / 'in'}", f"out={tmp_path / 'out'}", f"run={run}", f"part={part}") == 0
    assert {p.name for p in (tmp_path / "out").glob("*flair_synth.nii.gz")} == {f"{name}_flair_synth.nii.gz" for name in names}
    assert {p.name for p in (tmp_path / "out").glob("*.json")} >= {"report-1-of-2.json", "report-2-of-2.json"}
    assert not list((tmp_path / "out").glob(".*"))


def test_a_full_disk_is_one_sentence(patient: Path, run: Path, small_disk: Path, tmp_path: Path) -> None:
    case = some_of(patient, tmp_path / "in", "t1", "t2")
    (small_disk / "filler").write_bytes(b"0" * 550_000)
    with pytest.raises(StoreError, match=r"no space left for out=.*continue=true"):
        call(f"source={case}", f"out={small_disk / 'out'}", f"run={run}")
    assert not list(small_disk.rglob("*.partial"))
    (small_disk / "filler").unlink()
    assert call(f"source={case}", f"out={small_disk / 'out'}", f"run={run}", "continue=true") == 0
    assert call(f"source={case}", f"out={tmp_path / 'out'}", f"run={run}") == 0
    assert {k: v for k, v in files_in(small_disk / "out").items() if "report" not in k} == {
        k: v for k, v in files_in(tmp_path / "out").items() if "report" not in k
    }


def test_a_folder_that_cannot_be_written_is_one_sentence(patient: Path, run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write to out="):
        call(f"source={patient}", f"out={tmp_path / 'file' / 'out'}", f"run={run}", "outputs=all")


def test_contrasts_that_lie_apart_are_brought_together(store: Path, patient: Path, tmp_path: Path) -> None:
    """T2 turned by 3 degrees and moved by 4 mm, through a network that copies it; and the same in to_zarr."""
    apart = some_of(patient, tmp_path / "apart", "t1", "t2")
    files = {kind: apart / f"{patient.name}_{kind}.nii.gz" for kind in ("t1", "t2")}
    scan = sitk.ReadImage(str(files["t2"]), sitk.sitkFloat32)
    move = sitk.Euler3DTransform(scan.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in scan.GetSize()]))
    move.SetRotation(0.03, -0.03, 0.03)
    move.SetTranslation([2.3, -2.3, 2.3])
    moved = sitk.Resample(scan, scan, move, sitk.sitkLinear, 0.0)
    sitk.WriteImage(moved, str(files["t2"]))
    there_and_back = sitk.GetArrayFromImage(sitk.Resample(moved, scan, move.GetInverse(), sitk.sitkLinear, 0.0)).T
    run = untrained_run(tmp_path / "run", "variant={name: back, inputs: [t2], outputs: [t1]}", *UNET, f"data.store={store}")
    model = distsynth.load(run.path)
    model.model.method.synthesise = lambda given, brain: given * brain + brain - 1  # type: ignore[method-assign]
    truth = nib.load(patient / f"{patient.name}_t2.nii.gz").get_fdata()
    alike = []
    for coregister in (False, True):
        made = model.synthesise(**files, outputs=["t1"], coregister=coregister, checks="warn")["t1"].get_fdata()
        inside = (made != 0) & (truth != 0)
        alike.append(np.corrcoef(made[inside], truth[inside])[0, 1])
    best = np.corrcoef(there_and_back[truth != 0], truth[truth != 0])[0, 1]  # what two interpolations leave, at 5 mm
    assert alike[1] > best - 0.03 > alike[0] + 0.1
    cohort = tmp_path / "c.zarr"
    words = ["coregister=true", "checks=warn", "require=[t1,t2]", "recipe.n4.enabled=false", "workers=1", "split.test=1"]
    assert to_zarr.main([f"source={apart}", f"store={cohort}", *words]) == 0
    assert Cohort.open(cohort).recipe["coregister"] is True
    moved = Cohort.open(cohort).record(patient.name).source["t2"]["moved"]
    millimetres, degrees = map(float, re.findall(r"[\d.]+", moved))
    assert (millimetres, degrees) == (pytest.approx(4, abs=1.5), pytest.approx(3, abs=1))


def test_a_decathlon_file_gives_what_its_contrasts_in_files_of_their_own_give(patient: Path, run: Path, tmp_path: Path) -> None:
    plain = some_of(patient, tmp_path / "plain", "t1", "t2")
    scans = [nib.load(plain / f"{patient.name}_{kind}.nii.gz") for kind in ("t2", "t1")]
    msd = tmp_path / "msd" / "imagesTs"
    msd.mkdir(parents=True)
    stack = np.stack([scan.get_fdata() for scan in scans], -1)
    nib.save(nib.Nifti1Image(stack.astype(scans[0].get_data_dtype()), scans[0].affine), msd / f"{patient.name}.nii.gz")
    (tmp_path / "msd" / "dataset.json").write_text('{"modality": {"0": "T2w", "1": "T1w"}}')
    for case in (plain, msd.parent):
        assert call(f"source={case}", f"out={case.with_name(f'{case.name} out')}", f"run={run}") == 0
    for output in ("t1c", "flair"):
        name = f"{patient.name}_{output}_synth.nii.gz"
        images = [nib.load(folder.with_name(f"{folder.name} out") / name) for folder in (plain, msd.parent)]
        np.testing.assert_array_equal(*(image.get_fdata() for image in images))
        assert images[0].shape == images[1].shape
    again = (f"source={msd.parent}", f"out={tmp_path / 'msd out'}", f"run={run}", "continue=true")
    assert call(*again) == 0
    assert report(tmp_path / "msd out")[patient.name]["status"] == "kept"


def test_a_decathlon_file_without_dataset_json_is_read_in_an_assumed_order_and_that_is_reported(
    patient: Path, run: Path, tmp_path: Path
) -> None:
    images = tmp_path / "msd" / "imagesTs"
    images.mkdir(parents=True)
    scans = [nib.load(patient / f"{patient.name}_{kind}.nii.gz") for kind in ("flair", "t1", "t1ce", "t2")]
    stack = np.stack([np.asarray(scan.dataobj) for scan in scans], -1).astype(scans[0].get_data_dtype())
    nib.save(nib.Nifti1Image(stack, scans[0].affine), images / f"{patient.name}.nii.gz")
    assert call(f"source={images.parent}", f"out={tmp_path / 'out'}", f"run={run}", "outputs=all") == 0
    assert "there is no dataset.json beside imagesTs" in str(report(tmp_path / "out"))

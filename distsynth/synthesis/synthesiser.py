"""A trained model with all that it needs to synthesise a patient whom it has never seen, far from the cohort that it was trained on."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from distsynth.config import Config
from distsynth.data.trained_on import TrainedOn
from distsynth.synthesis.outcome import listed_outputs
from distsynth.synthesis.patient import Patient
from distsynth.synthesis.tasks import Tasks, listed
from distsynth.training.model import Model
from preprocess.cohort.files import json_digest
from preprocess.recipe import Recipe
from preprocess.restore import like, median_of
from preprocess.shared.errors import CaseError, SettingError
from preprocess.source import images as source
from preprocess.source.doubts import Checks
from preprocess.source.images import Image, load
from preprocess.source.layouts import MODALITIES

Array = npt.NDArray[Any]
NAME = "patient"  # in messages, where no file names the patient


@dataclass(frozen=True)
class Made:
    """One synthesised contrast."""

    volume: npt.NDArray[np.float32]  # (x, y, z) intensities on the patient's own grid
    inputs: list[str]  # the contrasts that it was made from
    units: dict[str, Any]  # mean and std of its intensities in the brain, and where they come from


@dataclass(frozen=True)
class Synthesiser:
    """A model, the recipe that its inputs need, the units of its outputs, and how well it did."""

    name: str  # of the run
    config: Config
    model: Model  # of the variant that it was trained for
    recipe: Recipe
    trained_on: TrainedOn
    card: dict[str, Any]  # by output: its scores after the training and how they were computed; empty where there are none
    one_at_a_time: Lock = field(default_factory=Lock, repr=False, compare=False)  # networks are switched from task to task

    @cached_property
    def digest(self) -> str:
        """The sha256 of everything that a synthesised image depends on: weights, settings, recipe, map and units."""
        digest = hashlib.sha256()
        for name, tensor in sorted(weights(self.model).items()):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
        known = [asdict(self.config.method), asdict(self.config.variant), self.config.data.clip, self.recipe.stored()]
        rest = json_digest(
            [*known, asdict(self.model.mapping), list(self.model.size), self.trained_on.units, self.trained_on.spacing]
        )
        digest.update(rest.encode())
        return digest.hexdigest()

    @property
    def tasks(self) -> Tasks:
        return Tasks.of(self.name, self.config)

    def make(self, patient: Patient, outputs: Sequence[str], flip: bool = False) -> dict[str, Made]:
        """The outputs of a patient whose contrasts suffice (see `Tasks.task`). Raises CaseError if a scan cannot be used."""
        task = self.tasks.task(patient.scans.modalities, outputs)
        assert task is not None
        with self.one_at_a_time:
            corner, z_scores = patient.synthesise(self.model.serving(task), self.config.data.clip, flip)
        made = {}
        for output in outputs:
            units = self.units(output)
            volume = patient.to_patient(corner, z_scores[task.outputs.index(output)], units["mean"], units["std"])
            made[output] = Made(volume, task.inputs, units)
        return made

    def units(self, output: str) -> dict[str, Any]:
        """Mean and standard deviation of an output's intensities in the brain, and where they come from."""
        known = self.trained_on.units[output]
        return {"mean": known["mean"], "std": known["std"], "source": f"{median_of(known['subjects'])}, not this patient"}

    def patient(
        self, name: str, images: Mapping[str, Image], resample: str = "", coregister: bool = False, checks: Checks = "refuse"
    ) -> Patient:
        """A patient as this model's training would have seen it. Raises CaseError."""
        return Patient(name, images, self.recipe, self.trained_on.spacing, resample, coregister, checks)

    def synthesise(
        self,
        *,
        outputs: str | Sequence[str] = "missing",
        affine: Array | None = None,
        coregister: bool = False,
        resample: str = "",
        flip: bool = False,
        checks: Checks = "refuse",
        **scans: Any,
    ) -> dict[str, Any]:
        """The missing contrasts of one patient, or `outputs="all"` or a list of them, by contrast: `model.synthesise(t1="t1.nii.gz", t2=image)`.

        Scans are paths, nibabel images, or (x, y, z) arrays with their `affine` (voxels to mm, RAS); `mask=` gives a brain mask, which scans
        with a skull need. Returns nibabel images on the grid of the first scan, or of the contrast `resample`; arrays where all scans are arrays.
        `coregister` brings the scans onto each other first; `flip` also averages over the mirrored brain; `checks="warn"`
        uses scans that are known to be wrong all the same. What is odd about the scans is a warning.

        Raises SettingError for an unknown contrast or too few of them, CaseError for a scan that cannot be used.
        """
        given = {kind: scan for kind, scan in scans.items() if scan is not None}
        if unknown := [kind for kind in given if kind not in (*MODALITIES, "mask")]:
            raise SettingError(f"{unknown[0]}= is not known: give scans as {', '.join(MODALITIES)}, and mask")
        there = [kind for kind in MODALITIES if kind in given]
        if resample and resample not in there:
            raise SettingError(f"resample={resample!r} is none of the scans: choose one of {', '.join(there)}")
        chosen = listed_outputs(outputs)
        trained = set(self.tasks.trained.outputs) if chosen == "all" else set()
        missing = [m for m in self.tasks.outputs if m not in there or m in trained]
        wanted = chosen if isinstance(chosen, list) else missing
        if not wanted:
            raise SettingError(f"nothing is missing: {listed(there)} are given; name what to make with outputs=")
        if self.tasks.task(there, wanted) is None:
            raise SettingError(self.tasks.needs(there, wanted))
        images = {kind: as_image(kind, scan, affine) for kind, scan in given.items()}
        patient = self.patient(NAME, images, resample, coregister, checks)
        for note in patient.notes:
            warnings.warn(note, stacklevel=2)
        made = self.make(patient, wanted, flip)
        if all(isinstance(scan, np.ndarray) for scan in given.values()):
            return {output: each.volume for output, each in made.items()}
        return {output: like(each.volume, patient.image, self.description(output, each)) for output, each in made.items()}

    def description(self, output: str, made: Made) -> str:
        """For the image's header; at most 79 characters count."""
        sources = "+".join(made.inputs)
        return f"{source.SYNTHETIC} {output} from {sources}, distsynth model {self.digest[:12]}, research use only"

    def to(self, device: torch.device) -> Synthesiser:
        """The same, on a device."""
        self.model.method.to(device)
        return self


def weights(model: Model) -> dict[str, torch.Tensor]:
    """The tensors that the method is rebuilt from, on the CPU; not the image pools, which hold synthesised training patients."""
    state = model.method.state_dict()
    return {name: value.detach().cpu() for name, value in state.items() if not name.endswith("_extra_state")}


def as_image(kind: str, scan: Any, affine: Array | None) -> Image:
    """A path, a nibabel image or an array as an image. Raises CaseError or SettingError."""
    from pathlib import Path

    import nibabel as nib

    if isinstance(scan, str | Path):
        path = Path(scan)
        if not path.is_file():
            raise SettingError(f"{kind}={path} {'is a folder' if path.is_dir() else 'does not exist'}: give a NIfTI or .mha file")
        if source.is_synthetic(path):
            raise SettingError(f"{kind}={path} is a synthesised image, as its header says: give an acquired scan")
        return load(NAME, path)
    if isinstance(scan, np.ndarray):
        image = Image(numbers(kind, scan), matrix(kind, affine), scan.dtype.name, [1.0, 0.0], kind)
    elif isinstance(scan, nib.Nifti1Image):
        if scan.header["descrip"].item().startswith(source.SYNTHETIC.encode()):
            raise SettingError(f"{kind} is a synthesised image, as its header says: give an acquired scan")
        array = numbers(kind, np.asanyarray(scan.dataobj))
        image = Image(array, matrix(kind, scan.affine), scan.get_data_dtype().name, [1.0, 0.0], kind, scan.header)
    else:
        raise SettingError(f"{kind} is a {type(scan).__name__}: give a path, a nibabel NIfTI image or an array")
    source.check(NAME, image)
    return image


def numbers(kind: str, array: Array) -> npt.NDArray[np.float32]:
    """An array as three axes of intensities. Raises SettingError for another one."""
    if array.dtype.kind not in "iufb":
        raise SettingError(f"{kind} holds {array.dtype.name}: give whole or floating-point numbers")
    try:
        return array.astype(np.float32).reshape(source.three_axes(array.shape))
    except CaseError as error:
        raise SettingError(f"{kind} {error}") from error


def matrix(kind: str, affine: Any) -> npt.NDArray[np.float64]:
    """An affine from voxels to mm. Raises SettingError for what is none."""
    if affine is None:
        raise SettingError(f"{kind} has no affine: give affine= with arrays, the 4 x 4 matrix from voxels to mm")
    try:
        known = np.asarray(affine, np.float64)
    except (TypeError, ValueError):
        known = np.zeros(0)
    if known.shape != (4, 4) or not np.array_equal(known[3], [0, 0, 0, 1]):
        raise SettingError(f"the affine of {kind} must be a 4 x 4 matrix from voxels to mm, whose last row is 0, 0, 0, 1")
    return known

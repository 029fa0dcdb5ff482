"""Returns arrays of a cohort (stored grid, z-scores) to the patient's own grid, orientation, voxel type and intensity units.

    python -m preprocess.restore store=data/brats.zarr subject=BraTS19_X_1 out=restored                       its stored contrasts
    python -m preprocess.restore store=data/brats.zarr subject=BraTS19_X_1 out=restored array=made.npy modality=flair

Writes SUBJECT_MODALITY.nii.gz and, beside each, a .json that names the source of its units. The bias field stays removed.
Voxels outside the stored crop, and outside the brain, are 0.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
import numpy.typing as npt

from preprocess.cohort import BACKGROUND, Cohort, Record
from preprocess.cohort.files import is_store, store_above
from preprocess.geometry import Place, uncrop
from preprocess.shared.errors import SettingError, StoreError, UserError
from preprocess.shared.files import write_atomically, write_json
from preprocess.shared.settings import command, parse, required, setting
from preprocess.source.grids import same_grid
from preprocess.source.images import Image
from preprocess.source.layouts import MODALITIES

Array = npt.NDArray[Any]


@dataclass
class Units:
    """What turns z-scores of a modality into one patient's intensities."""

    mean: float
    std: float
    dtype: str  # of the file's voxels
    slope: float
    intercept: float
    source: str  # where mean and std come from, for people


def units_of(cohort: Cohort, subject: str, modality: str) -> Units:
    """The patient's own units or, for a contrast that the patient lacks, the cohort's typical ones. Raises StoreError if none of its subjects has
    the contrast."""
    record = cohort.record(subject)
    if modality in record.intensity:
        own = record.intensity[modality]
        slope, intercept = record.scaling[modality]
        return Units(own["mean"], own["std"], record.dtypes[modality], slope, intercept, "the patient's own scan")
    known = typical(cohort)
    if modality not in known:
        raise StoreError(f"no training subject of {cohort.path} has {modality}: the units of its intensities are unknown")
    mean, std, subjects = (known[modality][name] for name in ("mean", "std", "subjects"))
    return Units(mean, std, "float32", 1.0, 0.0, f"{median_of(subjects)}: this patient has no {modality} scan")


def typical(cohort: Cohort) -> dict[str, dict[str, float]]:
    """By contrast the mean and the standard deviation of its intensities in the brain: medians over so many training `subjects`, or over all
    subjects if none is for training."""
    training = {*cohort.split("gan"), *cohort.split("segmentor")} or set(cohort.subjects)
    records = [cohort.record(subject).intensity for subject in sorted(training)]
    by_modality = {m: [record[m] for record in records if m in record] for m in cohort.modalities}
    return {
        m: {name: float(np.median([each[name] for each in known])) for name in ("mean", "std")} | {"subjects": len(known)}
        for m, known in by_modality.items()
        if known
    }


def median_of(subjects: float) -> str:
    """Where units come from, for people."""
    return f"the median of {subjects:.0f} training subjects"


def restore(z_scores: Array, record: Record, units: Units) -> Any:
    """(z, y, x) z-scores on the record's stored grid, background -9, as a nibabel image on the patient's grid.

    Affine and shape equal the scan's to the last bit. If `recipe.spacing` resampled the scan, intensities are interpolated linearly from
    the coarser grid. Raises StoreError if the array's shape is not the record's.
    """
    check_shape(z_scores, record)
    values = intensities(uncrop(z_scores, record.crop_offset, record.canonical_shape, BACKGROUND), units.mean, units.std)
    values = place_of(record).to_patient(values, is_map=False)
    dtype = np.dtype(units.dtype)
    stored = (values - units.intercept) / units.slope
    if dtype.kind in "iu":
        stored = np.clip(np.round(stored), np.iinfo(dtype).min, np.iinfo(dtype).max)
    image = nifti(stored.astype(dtype), record)
    image.header.set_slope_inter(units.slope, units.intercept)
    return image


def intensities(z_scores: Array, mean: float, std: float) -> npt.NDArray[np.float32]:
    """z-scores, background -9, as intensities, background 0."""
    values = z_scores.astype(np.float32) * np.float32(std) + np.float32(mean)
    return np.where(z_scores != BACKGROUND, values, np.float32(0))


def restore_labels(labels: Array, record: Record) -> Any:
    """(z, y, x) labels on the stored grid as a nibabel image on the patient's grid; each voxel takes the nearest label.

    Raises StoreError if the array's shape is not the record's.
    """
    check_shape(labels, record)
    whole = uncrop(labels, record.crop_offset, record.canonical_shape, 0)
    return nifti(place_of(record).to_patient(whole, is_map=True).astype(np.uint8), record)


def place_of(record: Record) -> Place:
    """Where the grid of a record's crop lies in the patient's scan."""
    step = np.eye(4)
    step[:3, 3] = [-o for o in reversed(record.crop_offset)]
    affine = np.array(record.affine) @ step
    return Place(np.array(record.original_affine), record.original_shape, affine, record.canonical_shape)


def check_shape(array: Array, record: Record) -> None:
    if list(array.shape) != record.shape:
        raise StoreError(f"{record.subject}: an array of shape {list(array.shape)} is not on the stored grid {record.shape}")


def nifti(array: Array, record: Record) -> Any:
    """(x, y, z) voxels with the scan's affine, which NIfTI holds in float32, as the scan's own header does unless it has a quaternion."""
    import nibabel as nib

    image = nib.Nifti1Image(array, np.array(record.original_affine), dtype=array.dtype)
    place(image)
    return image


def place(image: Any) -> None:
    """Write an image's affine into its header: as sform, and as qform where a quaternion can hold it, which has no shear."""
    image.set_sform(image.affine, 1)
    image.set_qform(image.affine, 1)
    shape = image.shape[:3]
    if not same_grid(shape, image.get_qform(), shape, image.affine):
        image.set_qform(None, 0)
    image.header.set_xyzt_units("mm")


GEOMETRY = (
    "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y",
    "srow_z", "xyzt_units", "dim_info",
)  # fmt: skip


def like(volume: Array, scan: Image, description: str) -> Any:
    """(x, y, z) voxels as a nibabel image with the geometry of a scan's own header: affine, qform and sform with their codes, units. Nothing
    else of that header is taken over: it may name the patient."""
    import nibabel as nib

    kind = nib.Nifti2Image if isinstance(scan.header, nib.Nifti2Header) else nib.Nifti1Image
    image = kind(volume, scan.affine, dtype=volume.dtype)
    if scan.header is None:
        place(image)
    else:
        for field in GEOMETRY:
            image.header[field] = scan.header[field]
        image.header["pixdim"][:4] = scan.header["pixdim"][:4]
    image.header["descrip"] = description.encode("ascii", "replace")[:79]
    return image


@dataclass
class Settings:
    POSITIONAL: ClassVar = ("store",)
    store: str = required("the cohort")
    subject: str = required("the subject's name in the cohort")
    out: str = required("the folder to write to")
    array: str = setting(
        "", "an .npy file of (z, y, x) z-scores on the stored grid, to restore in place of the stored contrasts; needs modality="
    )
    modality: str = setting("", "the only contrast to restore (empty: all that are stored, and the segmentation)")

    def __post_init__(self) -> None:
        if self.modality not in ("", *MODALITIES):
            raise SettingError(f"modality={self.modality} is not known: choose from {', '.join(MODALITIES)}")
        if self.array and not self.modality:
            raise SettingError(f"array={self.array} needs modality=, the contrast that the array holds")


def main(words: Sequence[str]) -> int:
    settings = parse(Settings, words)
    cohort = Cohort.open(settings.store)
    record = cohort.record(settings.subject)
    volumes = {settings.modality: read_npy(settings.array)} if settings.array else stored(cohort, settings)
    out = Path(settings.out)
    if is_store(out) or store_above(out):
        raise SettingError(f"out={out} lies inside a cohort: give a folder beside it")
    try:
        out.mkdir(parents=True, exist_ok=True)
        for modality, volume in volumes.items():
            units = units_of(cohort, settings.subject, modality)
            write(
                out / f"{settings.subject}_{modality}", restore(volume, record, units), {"recipe": cohort.recipe, **vars(units)}
            )
        if record.has_labels and not settings.modality:
            write(
                out / f"{settings.subject}_seg",
                restore_labels(cohort.labels(settings.subject), record),
                {"recipe": cohort.recipe},
            )
    except OSError as error:
        raise UserError(f"cannot write to out={out}: {error.strerror}") from error
    return 0


def stored(cohort: Cohort, settings: Settings) -> dict[str, Array]:
    """The stored contrasts to restore. Raises SettingError if the subject lacks the one that modality= names."""
    record = cohort.record(settings.subject)
    if settings.modality and settings.modality not in record.modalities:
        raise SettingError(
            f"modality={settings.modality}: {settings.subject} has {', '.join(record.modalities)}; give array= to restore another"
        )
    volumes = dict(zip(record.modalities, cohort.image(settings.subject), strict=True))
    return {settings.modality: volumes[settings.modality]} if settings.modality else volumes


def read_npy(path: str) -> Array:
    """Raises SettingError if the file does not hold (z, y, x) numbers."""
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise SettingError(f"array={path} cannot be read ({str(error).splitlines()[0]}): give an .npy file") from error
    if not isinstance(array, np.ndarray) or array.ndim != 3 or array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise SettingError(f"array={path} must hold finite numbers of shape (z, y, x)")
    return array


def write(path: Path, image: Any, sidecar: dict[str, Any]) -> None:
    """Write PATH.nii.gz and PATH.json."""
    write_nifti(path.with_name(f"{path.name}.nii.gz"), image)
    write_json(path.with_name(f"{path.name}.json"), sidecar, sort_keys=True)
    print(f"{path}.nii.gz")


def write_nifti(path: Path, image: Any) -> None:
    """Write a nibabel image atomically as .nii.gz; equal images give equal bytes. Raises OSError."""

    def pack(file: IO[bytes]) -> None:
        with gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as packed:  # no clock time
            image.to_stream(packed)

    write_atomically(path, pack)


if __name__ == "__main__":
    command(main, __doc__, Settings)

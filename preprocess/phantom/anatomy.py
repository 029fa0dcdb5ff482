"""One subject's brain: the MNI152 tissue maps, deformed, with its own folds, vessels and choroid plexus.

The maps are averages of 152 people, so cortex and sulci are blurred in them. Their probabilities are raised to a power, so that voxels are
nearly pure, and random folds of a few millimetres decide where grey matter ends and a sulcus begins.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from preprocess.phantom.fields import Grid, Volume, smooth_field, step
from preprocess.shared.errors import UserError


@dataclass
class Anatomy:
    """Tissue fractions on a grid."""

    tissue: dict[str, Volume]  # (x, y, z), summing to 1 inside the brain
    brain: npt.NDArray[np.bool_]


@cache
def templates() -> tuple[Volume, npt.NDArray[Any]]:
    """(3, x, y, z) grey, white and CSF probabilities of MNI152 at 1 mm, and the affine's offset in mm. Raises UserError."""
    try:
        from nilearn import datasets
    except ImportError as error:
        raise UserError("the phantom's anatomy needs nilearn: pip install 'nilearn>=0.11'") from error
    grey_image = datasets.load_mni152_gm_template(resolution=1)
    grey = grey_image.get_fdata(dtype=np.float32)
    white = datasets.load_mni152_wm_template(resolution=1).get_fdata(dtype=np.float32)
    brain = datasets.load_mni152_brain_mask(resolution=1).get_fdata(dtype=np.float32)
    grey, white = grey / grey.max(), white / white.max()
    csf = np.clip(brain - grey - white, 0, 1)
    return np.stack([grey, white, csf]), grey_image.affine[:3, 3]


def anatomy(rng: np.random.Generator, grid: Grid, push: Volume) -> Anatomy:
    """One subject's brain; `push` (3, x, y, z) mm is the tumour's mass effect."""
    mni = bend(rng, grid, push)
    grey, white, csf = read_maps(mni)
    tissue = fold(rng, grid, grey, white, csf, mni)
    # Skull stripping leaves a thin, uneven layer of CSF around the cortex.
    rim = 0.36 + 0.06 * smooth_field(rng, 18, grid)
    brain = largest_part(((grey + white + 0.5 * csf) > rim) & (grey + white + csf > 0.5))
    add_vessels(rng, grid, tissue, mni)
    return Anatomy(tissue, brain)


def read_maps(mni: tuple[Volume, Volume, Volume]) -> list[Volume]:
    """Grey, white and CSF probabilities at MNI coordinates, 0 well outside the head."""
    from scipy.ndimage import map_coordinates

    maps, offset = templates()
    x, y, z = mni
    head = (x / 80) ** 2 + ((y + 17) / 100) ** 2 + ((z - 6) / 86) ** 2 < 1
    index = np.stack([coordinate[head] - o for coordinate, o in zip(mni, offset, strict=True)])
    read = []
    for one in maps:
        volume = np.zeros(head.shape, np.float32)
        volume[head] = map_coordinates(one, index, order=1)
        read.append(volume)
    return read


def bend(rng: np.random.Generator, grid: Grid, push: Volume) -> tuple[Volume, Volume, Volume]:
    """MNI coordinates of every voxel: the subject's size, tilt and smooth deformation, then the tumour's push."""
    size = rng.normal(0.89, 0.03) * (1 + rng.normal(0, 0.025, 3))  # the MNI brain is larger than average
    angle = np.deg2rad(rng.normal(0, 3, 3))
    turn = rotation(angle)
    x, y, z = grid.mesh()
    moved = []
    for axis, shift in enumerate((0.0, -17.0, 17.0)):  # the centre of the MNI brain
        straight = turn[axis, 0] * x + turn[axis, 1] * y + turn[axis, 2] * z
        wobble = 3.0 * smooth_field(rng, 38, grid) + 1.5 * smooth_field(rng, 17, grid)
        moved.append(np.asarray((straight - push[axis]) / size[axis] + shift + wobble, np.float32))
    return moved[0], moved[1], moved[2]


def rotation(angles: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    (ca, cb, cc), (sa, sb, sc) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, ca, -sa], [0, sa, ca]])
    about_y = np.array([[cb, 0, sb], [0, 1, 0], [-sb, 0, cb]])
    about_z = np.array([[cc, -sc, 0], [sc, cc, 0], [0, 0, 1]])
    product: npt.NDArray[np.float64] = about_x @ about_y @ about_z
    return product


def fold(
    rng: np.random.Generator, grid: Grid, grey: Volume, white: Volume, csf: Volume, mni: tuple[Volume, Volume, Volume]
) -> dict[str, Volume]:
    """Nearly pure tissues: probabilities to a power, with random folds of the cortex where the maps are blurred.

    Sulci are the sheets where a smooth random field crosses zero: CSF on the sheet, 3 mm of cortex on both sides, then white matter.
    """
    power = rng.uniform(3.0, 4.0)
    deep = deepness(mni)
    cortical = (1 - 0.9 * deep) * np.clip((0.93 - white) / 0.35, 0, 1)  # deep nuclei and ventricles differ little between people
    sheet = sheet_distance(smooth_field(rng, 8.5, grid) + 0.3 * smooth_field(rng, 5.0, grid), grid)
    atrophy, ventricles = rng.normal(0.0, 1.0), rng.normal(0.3, 0.7)
    width = np.clip(0.95 + 0.25 * atrophy + 0.35 * smooth_field(rng, 20, grid) - 0.7 * white, 0.1, 1.8)  # mm, wider outside
    sulcus, ribbon = step((width - sheet) / 0.35), step((width + 2.7 - sheet) / 0.35)
    logits = [
        power * np.log(grey + 1e-3) + cortical * 4.0 * ribbon,
        power * np.log(white + 2e-3) + cortical * (7.5 - 11.0 * ribbon),
        power * np.log(csf + 0.05) + cortical * (19.0 * sulcus - 2.0 + 0.5 * atrophy) + deep * ventricles,
    ]
    top = np.maximum.reduce(logits)
    weights = [np.exp(logit - top) for logit in logits]
    total = np.add.reduce(weights)
    grey, white, csf = (weight / total for weight in weights)
    nuclei = grey * deep
    return {"white": white, "grey": grey - nuclei, "deep_grey": nuclei, "csf": csf}


def sheet_distance(field: Volume, grid: Grid) -> Volume:
    """Approximate distance in mm of each voxel from where the field crosses zero."""
    steepness = sum(slope**2 for slope in np.gradient(field, *(float(axis[1] - axis[0]) for axis in grid.axes)))
    return np.asarray(np.abs(field) / np.sqrt(steepness + 1e-4), np.float32)


def deepness(mni: tuple[Volume, Volume, Volume]) -> Volume:
    """1 around thalamus, basal ganglia and ventricles, 0 in the cortex."""
    x, y, z = mni
    distance = (x / 36) ** 2 + ((y + 8) / 48) ** 2 + ((z - 8) / 27) ** 2
    return step(8 * (0.9 - distance))


def add_vessels(rng: np.random.Generator, grid: Grid, tissue: dict[str, Volume], mni: tuple[Volume, Volume, Volume]) -> None:
    """Add vessels (thin curves where two random fields are both zero, mostly in CSF) and choroid plexus (in the ventricles)."""
    first, second = smooth_field(rng, 13, grid), smooth_field(rng, 13, grid)
    tube = np.exp(-(first**2 + second**2) / 0.022)
    outside = 1 - deepness(mni)
    vessel = np.clip(1.3 * tube, 0, 1) * (outside * (0.85 * tissue["csf"] + 0.22 * tissue["grey"]) + 0.1 * tissue["white"])
    x, y, z = mni
    body = np.exp(-(((np.abs(x) - 19) / 9) ** 2) - ((y + 30) / 16) ** 2 - ((z - 8) / 9) ** 2)
    choroid = np.clip(body * (0.8 + 0.5 * smooth_field(rng, 4, grid)), 0, 1) * tissue["csf"]
    sinus = np.exp(-((x / 4.0) ** 2)) * np.clip((-(y + 55) / 20), 0, 1) * tissue["csf"] * 0.7
    vessel = np.maximum(vessel, sinus)
    keep = np.clip(1 - vessel - choroid, 0, 1)
    for name in tissue:
        tissue[name] = tissue[name] * keep
    tissue["vessel"], tissue["choroid"] = vessel, choroid


def largest_part(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The largest connected part with its holes filled, as skull stripping leaves it."""
    from scipy.ndimage import binary_fill_holes, label

    parts, _ = label(mask)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    filled: npt.NDArray[np.bool_] = binary_fill_holes(parts == sizes.argmax())
    return filled

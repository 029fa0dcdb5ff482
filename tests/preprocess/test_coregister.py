"""Co-registration brings contrasts together to within half a voxel, leaves aligned ones alone, and refuses what cannot be registered."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from preprocess.coregister import coregister
from preprocess.geometry import onto, to_canonical
from preprocess.source.images import load

REAL = Path(__file__).parents[3] / "shared" / "data" / "real"
AXIS = np.array([0.48, -0.6, 0.64])  # oblique, of length 1
SHIFT = np.array([2.4, 2.0, -2.5])  # mm; 4 mm long


@cache
def contrast(file: Path) -> tuple[np.ndarray, np.ndarray]:
    image = load("case", file)
    volume, affine, _ = to_canonical(image.array, image.affine)
    return volume, affine


def phantom(phantoms: Path, kind: str) -> tuple[np.ndarray, np.ndarray]:
    return contrast(next(phantoms.glob(f"*/Brats18_PHANTOM_000_1/*_{kind}.nii.gz")))


def brain_points(volume: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """(4, voxels) of the brain in mm."""
    voxels = np.argwhere(volume != 0)[:, ::-1]
    return np.asarray(affine @ np.vstack([voxels.T, np.ones(len(voxels))]))


def head_movement(volume: np.ndarray, affine: np.ndarray, shift: np.ndarray = SHIFT, degrees: float = 3.0) -> np.ndarray:
    """A rotation about an oblique axis through the brain's centre, and a shift."""
    angle = np.radians(degrees)
    cross = np.cross(np.eye(3), AXIS) * -1
    matrix = np.eye(4)
    matrix[:3, :3] = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    centre = brain_points(volume, affine)[:3].mean(axis=1)
    matrix[:3, 3] = centre + shift - matrix[:3, :3] @ centre
    return matrix


def farthest_error(affine: np.ndarray, true: np.ndarray, volume: np.ndarray) -> float:
    """mm between two affines, at the brain voxel where they differ most."""
    there = brain_points(volume, affine) - brain_points(volume, true)
    return float(np.linalg.norm(there[:3], axis=0).max())


@pytest.mark.parametrize("kind", ["t1ce", "t2", "flair"])
@pytest.mark.parametrize(("scale", "degrees"), [(1.0, 3.0), (-2.5, 10.0)])
def test_a_moved_contrast_is_brought_back_to_within_half_a_voxel(phantoms: Path, kind: str, scale: float, degrees: float) -> None:
    fixed, fixed_affine = phantom(phantoms, "t1")
    volume, affine = phantom(phantoms, kind)
    head = head_movement(volume, affine, scale * SHIFT, degrees)
    moving, _ = onto(volume, head @ affine, affine, volume.shape, False)
    movement = coregister(fixed, fixed_affine, moving, affine)
    assert movement is not None
    assert farthest_error(movement.affine, np.linalg.inv(head) @ affine, moving) < 2.5  # voxels of 5 mm
    assert movement.degrees == pytest.approx(degrees, abs=1.5)
    assert movement.millimetres == pytest.approx(4 * abs(scale), abs=2)


def test_thick_slices_are_registered_too(phantoms: Path) -> None:
    fixed, fixed_affine = phantom(phantoms, "t1")
    volume, affine = phantom(phantoms, "t2")
    head = head_movement(volume, affine)
    thick = affine @ np.diag([0.7, 0.7, 1.6, 1.0])  # 3.5 x 3.5 x 8 mm
    z, y, x = volume.shape
    moving, _ = onto(volume, head @ affine, thick, (int(z / 1.6), int(y / 0.7), int(x / 0.7)), False)
    movement = coregister(fixed, fixed_affine, moving, thick)
    assert movement is not None
    assert farthest_error(movement.affine, np.linalg.inv(head) @ thick, moving) < 2.5


def test_a_wrong_header_is_corrected(phantoms: Path) -> None:
    fixed, affine = phantom(phantoms, "t1")
    moving, _ = phantom(phantoms, "flair")
    head = head_movement(moving, affine, np.array([-25.0, 15.0, 10.0]))
    movement = coregister(fixed, affine, moving, head @ affine)
    assert movement is not None
    assert farthest_error(movement.affine, affine, moving) < 2.5
    assert movement.affine.shape == (4, 4)


def test_aligned_contrasts_stay_as_they_are(phantoms: Path) -> None:
    fixed, affine = phantom(phantoms, "t1")
    assert [coregister(fixed, affine, *phantom(phantoms, kind)) for kind in ("t1", "t1ce", "t2", "flair")] == [None] * 4


def test_the_same_volumes_give_the_same_bytes(phantoms: Path) -> None:
    fixed, affine = phantom(phantoms, "t1")
    moving, _ = phantom(phantoms, "t2")
    shifted = head_movement(moving, affine) @ affine
    first, second = (coregister(fixed, affine, moving, shifted) for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.affine.tobytes() == second.affine.tobytes()


def test_a_constant_or_empty_volume_is_refused(phantoms: Path) -> None:
    fixed, affine = phantom(phantoms, "t1")
    for moving in (np.zeros_like(fixed), np.where(fixed != 0, np.float32(7), 0)):
        with pytest.raises(ValueError, match="moving contrast has the same intensity everywhere"):
            coregister(fixed, affine, moving, affine)
        with pytest.raises(ValueError, match="fixed contrast has the same intensity everywhere"):
            coregister(moving, affine, fixed, affine)


def test_brains_far_apart_are_refused(phantoms: Path) -> None:
    fixed, affine = phantom(phantoms, "t1")
    moving, _ = phantom(phantoms, "t2")
    away = affine.copy()
    away[:3, 3] += 300
    with pytest.raises(ValueError, match=r"moves the brain by 5\d\d mm"):
        coregister(fixed, affine, moving, away)


def test_an_implausible_turn_is_refused(phantoms: Path) -> None:
    fixed, affine = phantom(phantoms, "t1")
    moving, _ = phantom(phantoms, "t1ce")
    with pytest.raises(ValueError, match="degrees"):
        coregister(fixed, affine, moving, head_movement(moving, affine, SHIFT, 35.0) @ affine)


@pytest.mark.skipif(not REAL.exists(), reason="needs the three real cases of shared/data/real")
def test_a_real_contrast_is_brought_back_to_within_half_a_voxel() -> None:
    case = next(REAL.glob("LJMS-19"))
    fixed, fixed_affine = contrast(case / f"{case.name}_t1.nii.gz")
    volume, affine = contrast(case / f"{case.name}_t1ce.nii.gz")
    head = head_movement(volume, affine)
    moving, _ = onto(volume, head @ affine, affine, volume.shape, False)
    movement = coregister(fixed, fixed_affine, moving, affine)
    assert movement is not None
    assert farthest_error(movement.affine, np.linalg.inv(head) @ affine, moving) < 0.5

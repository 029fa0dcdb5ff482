"""A segmentation's labels: whole numbers, and which of them count as tumour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from preprocess.shared.errors import CaseError
from preprocess.source.doubts import Doubts

NAMES = {
    "1": "necrotic core",
    "2": "oedema",
    "3": "enhancing",
    "4": "enhancing",
}  # BRATS's; enhancing is 4 until 2022 and 3 from 2023 on
SINCE_2023 = "-seg."  # in the names of BRATS's files
WHOLE = 1e-3  # how far from a whole number a label may be, which storage as scaled integers causes
EXAMPLES = 5
MOST, TOO_MUCH = 0.3, 0.6  # share of the brain
OUTSIDE, ASTRAY = 0.01, 0.5  # share of the labelled voxels that lie outside the brain


def label_name(label: str) -> str:
    """BRATS's name of a label (Baid et al. 2021, arXiv:2107.02314), or `label N`."""
    return NAMES.get(label, f"label {label}")


def label_map(name: str, file: str, volume: npt.NDArray[np.float32], step: float) -> npt.NDArray[np.uint8]:
    """(z, y, x) labels; NaN and infinity are 0. `step` is the distance between two values that the file can hold.

    Raises CaseError unless they are whole numbers from 0 to 255.
    """
    with np.errstate(invalid="ignore"):
        plain = volume.astype(np.uint8)
    if np.array_equal(plain, volume):
        return plain
    volume = np.nan_to_num(volume, nan=0.0, posinf=0.0, neginf=0.0)
    labels = np.rint(np.clip(volume, 0, 255))
    if (wrong := np.abs(volume - labels) > max(WHOLE, 0.5 * step if step < 0.5 else 0)).any():
        shown = ", ".join(f"{value:g}" for value in np.unique(volume[wrong])[:EXAMPLES])
        raise CaseError(f"{name}: {file} holds values that are not labels ({shown}): expected whole numbers from 0 to 255")
    return labels.astype(np.uint8)


def renumber(name: str, file: str, volume: npt.NDArray[np.float32], numbers: Mapping[int, int]) -> None:
    """Give the labels, in place, BRATS's `numbers`. Raises CaseError for a label that has none: the file's may be other ones than dataset.json's."""
    was = np.rint(np.nan_to_num(volume, nan=0.0, posinf=0.0, neginf=0.0))
    if unnamed := {int(label) for label in np.unique(was)} - {0, *numbers}:
        shown = ", ".join(str(label) for label in sorted(unnamed)[:EXAMPLES])
        raise CaseError(
            f"{name}: {file} holds label {shown}, which dataset.json does not name: correct dataset.json, or remove its labels"
        )
    for number, in_brats in numbers.items():
        volume[was == number] += in_brats - number  # what is no whole number stays none


def counted(labels: npt.NDArray[np.uint8], file: str, wanted: Sequence[int], doubts: Doubts) -> npt.NDArray[np.uint8]:
    """The labels that count as tumour: those `wanted`, or all above 0 if none is given; the others become 0, which is said.

    Enhancing tumour is 4 until 2022 and 3 from 2023 on: where one of the two is wanted, and the file holds only the other, the other counts.
    """
    if not wanted:
        return labels
    here = {int(label) for label in np.unique(labels)} - {0}
    kept = enhancing(set(wanted), here, SINCE_2023 in file)
    for other in sorted(kept - set(wanted)):
        doubts.say(
            "seg", f"label {other} counts in place of {7 - other}: both are enhancing tumour, {4} until 2022 and {3} from 2023 on"
        )
    if others := sorted(here - kept):
        counts = ", ".join(f"{label} ({int((labels == label).sum())} voxels)" for label in others)
        doubts.say("seg", f"{file}'s labels {counts} do not count as tumour, as labels= says")
    return np.where(np.isin(labels, sorted(kept)), labels, 0).astype(np.uint8)


def enhancing(wanted: set[int], here: set[int], since_2023: bool) -> set[int]:
    """The wanted labels in the numbers of a file that holds the labels `here`. From 2023 on 4 is no tumour but, after an operation, its cavity."""
    for one, other in ((4, 3),) if since_2023 else ((3, 4), (4, 3)):
        if one in wanted and other not in wanted and one not in here and other in here:
            return wanted - {one} | {other}
    return wanted


def check_defined(name: str, file: str, undefined: npt.NDArray[np.bool_], mask: npt.NDArray[np.bool_]) -> None:
    """Raise CaseError if labels are NaN or infinite in the brain; on another grid than the brain's `mask`, if any is."""
    same = undefined.shape == mask.shape
    if voxels := np.count_nonzero(undefined & mask if same else undefined):
        raise CaseError(f"{name}: {file} is NaN or infinite in {voxels} voxels{' of the brain' * same}: export it again")


def check_tumour(tumour: npt.NDArray[np.bool_], mask: npt.NDArray[np.bool_], file: str, doubts: Doubts) -> None:
    """Raise CaseError if the tumour, (z, y, x) as the brain's `mask`, cannot be one: over 60 % of the brain, or most of it outside the brain."""
    voxels, inside = np.count_nonzero(tumour), np.count_nonzero(tumour & mask)
    if not voxels:
        return
    if (outside := 1 - inside / voxels) > OUTSIDE:
        what = f"{outside:.0%} of {file}'s labelled voxels lie outside the brain"
        (doubts.refuse if outside > ASTRAY else doubts.say)("seg", f"{what}: is it on the scans' grid?")
    if (share := inside / np.count_nonzero(mask)) > MOST:
        what = (
            f"{file} labels {share:.0%} of the brain as tumour: labels= names the labels that count, for example labels='[1,2,4]'"
        )
        (doubts.refuse if share > TOO_MUCH else doubts.say)("seg", what)

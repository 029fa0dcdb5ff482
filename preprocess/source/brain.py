"""The brain of a case: a given mask, or where any contrast is not background; and whether it can be a brain, and is the same in all contrasts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

import numpy as np
import numpy.typing as npt

from preprocess.shared.errors import CaseError
from preprocess.source.background import BRIGHT, typical
from preprocess.source.doubts import Doubts

Mask = npt.NDArray[np.bool_]
Values = npt.NDArray[np.float32]

SMALLEST, LARGEST = 0.5, 2.5  # litres; an adult's brain has 1 to 2, a newborn's 0.35, a head 3 and more
NEWBORN = 0.3
USUAL = 2.1  # litres; brains registered to the MNI template have 1.9
NARROWEST, WIDEST = 80.0, 300.0  # mm, the sides of a brain's box
CUT = 0.25  # of the largest section that a slice at the end of the grid shows where the scan covers a part of the brain
APART, TOO_FAR_APART = 0.01, 0.1  # share of the brain by which contrasts' masks differ
NEGATIVE = 0.05  # share of the brain; raw scans have up to 0.01 of it from interpolation
# Of a contrast's typical intensity, what is dim; share of a brain that may be as dim in all contrasts. T2 shows cerebrospinal fluid brightly: where
# it is among them real scans have 0.009 of the brain below a tenth, else up to 0.015 below a fiftieth.
DIM_WITH_T2, EDGE_WITH_T2 = 0.1, 0.02
DIM, EDGE = 0.02, 0.04
SAMPLE = 27  # one voxel in as many is enough to know shares
EXAMPLES = 5
RINGING, PERCENT = 0.05, 100.0  # of the largest value, close to 0; the largest value of probabilities that are no fractions
FEW, NEARLY = 64, 0.9  # values of labels; a probability, also as 0 to 255, is close to its largest value in most of the brain


def given_mask(file: str, volume: npt.NDArray[np.float32], doubts: Doubts) -> Mask:
    """A mask file's (z, y, x) voxels as a mask: probabilities from 0.5 on, else the file's one value.

    Raises CaseError for negative values and several labels.
    """
    volume = np.nan_to_num(volume, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(volume.min()), float(volume.max())
    if low < -RINGING * high:
        doubts.refuse("mask", f"{file} holds negative values, so it is no brain mask: expected 0 outside the brain and 1 inside")
    inside = volume[volume > RINGING * high]
    values = np.unique(volume[volume > 0])
    nearly = np.count_nonzero(inside > NEARLY * high) >= 0.5 * len(inside) and (len(values) > FEW or high >= PERCENT)
    if high > 1.001 and len(values) > 1 and not nearly:
        shown = ", ".join(f"{value:g}" for value in values[:EXAMPLES]) + ", …" * (len(values) > EXAMPLES)
        what = f"{file} holds {len(values)} {'labels' if len(values) <= FEW else 'values'} ({shown}), so it is no brain mask"
        doubts.refuse("mask", f"{what}: expected 0 outside the brain and 1 inside")
        return np.asarray(volume > 0)
    return np.asarray(volume >= 0.5 * (1.0 if high <= 1.001 else high)) & (volume > 0)


def check_size(mask: Mask, spacing: Sequence[float], given: str, skull: str, doubts: Doubts) -> None:
    """Raise CaseError for a mask that cannot be a brain's: `given` is its file, or empty where the contrasts' background gives the mask; `skull` says
    how to make one. A scan that covers a part of the brain, as a slab does, is measured only across."""
    litres = float(np.count_nonzero(mask) * np.prod(spacing)) / 1e6
    what = (
        f"{given} marks {litres:.1f} litres, so it is no brain mask"
        if given
        else f"{litres:.1f} litres are not background, so this is more than a brain"
    )
    if mask.all() and not given:
        what = "no voxel is background, so this is more than a brain"
    sides = sides_of(mask, spacing)
    box, voxel = (" x ".join(f"{side:.4g}" for side in reversed(each)) for each in (sides, spacing))
    cut = [axis for axis in range(3) if is_cut(mask, axis)]
    if max(sides) > WIDEST and not cut:  # a head with its skull reaches the border
        doubts.refuse("", f"{given or 'the brain'} measures {box} mm: its header gives voxels of {voxel} mm: correct it")
        return
    if mask.all() or litres > LARGEST:
        doubts.refuse("", f"{what}: {'expected 0 outside the brain and 1 inside' if given else skull}")
        return
    if litres > USUAL:
        doubts.say("", f"a brain of {litres:.1f} litres is larger than most: was the skull removed?")
    if any(not NARROWEST <= sides[axis] <= WIDEST for axis in range(3) if axis not in cut):
        asks = f"is it a whole brain, in voxels of {voxel} mm as its header has it?"
        if all(side < NARROWEST for side in sides):
            asks = f"its header gives voxels of {voxel} mm: correct it"
        if given and litres < SMALLEST:
            asks = "is this the segmentation?"
        doubts.refuse("", f"{given or 'the brain'} measures {box} mm: {asks}")
    elif cut:
        axes = " and ".join("zyx"[axis] for axis in cut)
        doubts.say("", f"the scan covers a part of the brain: it is cut off along {axes}")
    elif given and litres < SMALLEST:
        doubts.refuse("mask", f"{given} marks {litres:.2f} litres, less than a brain has: is this the segmentation?")
    elif litres < NEWBORN:
        doubts.say(
            "",
            f"a brain of {litres:.2f} litres is smaller than a newborn's: is it whole, and are its voxels {spacing[0]:.3g} mm?",
        )


def is_cut(mask: Mask, axis: int) -> bool:
    """Whether the grid ends within the brain along an axis."""
    ends = max(np.count_nonzero(mask.take(end, axis)) for end in (0, -1))
    return bool(ends) and bool(ends > CUT * max(np.count_nonzero(section) for section in np.moveaxis(mask, axis, 0)))


def sides_of(mask: Mask, spacing: Sequence[float]) -> list[float]:
    """(z, y, x) sides in mm of the mask's box."""
    spans = [np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    return [float(span[-1] - span[0] + 1) * side for span, side in zip(spans, spacing, strict=True)]


def check_contrasts(
    values: Mapping[str, Values], files: Mapping[str, str], given: bool, registered: bool, doubts: Doubts
) -> None:
    """Raise CaseError if the contrasts do not show the same brain: over 10 % of it is background in one, or close to 0 in all, as interpolation
    leaves an edge; from 1 and 2 % on it is said. `values` are the intensities of the brain's voxels by modality.

    Where the mask is `given`, the contrasts must fill it. Those that were not `registered` have been brought onto each other.
    """
    filled = {modality: int(np.count_nonzero(each)) for modality, each in values.items()}
    whole = len(next(iter(values.values())))
    odd = min(filled, key=lambda modality: filled[modality]) if given else furthest(filled)
    common = filled[odd] if given else np.count_nonzero(reduce(np.logical_and, [each != 0 for each in values.values()]))
    with_t2 = "t2" in values
    apart, edge = 1 - common / whole, dim_share(values, DIM_WITH_T2 if with_t2 else DIM)
    ratio = filled[odd] / float(np.median(list(filled.values())))
    one_differs = abs(ratio - 1) > apart / 2
    if not given and edge > max(EDGE_WITH_T2 if with_t2 else EDGE, apart if one_differs else apart / 2):
        what = f"{edge:.0%} of the brain is close to 0 in every contrast, as interpolation leaves around a brain"
        cure = "interpolate before the skull is removed, or give a brain mask"
        (doubts.refuse if max(edge, apart) > TOO_FAR_APART else doubts.say)("", f"{what}: {cure}")
        return
    if apart <= APART:
        return
    shares = ", ".join(f"{modality} {count / whole:.1%}" for modality, count in filled.items())
    if given:
        what = f"{apart:.1%} of the brain mask is background in {files[odd]}: is it this patient's, and on this grid?"
    else:
        apart_since = "lie on each other (coregister=true aligns them)" if registered else "show the same patient"
        why = f"do they {apart_since}, or were dark intensities cut off?"
        if one_differs:
            why = (
                "was its skull left, or was it interpolated after the skull was removed?"
                if ratio > 1
                else "is part of it missing?"
            )
        what = f"the contrasts' brains are {apart:.1%} apart, {files[odd]} most: {why} (they show {shares} of the brain)"
    (doubts.refuse if apart > TOO_FAR_APART else doubts.say)(odd, what)


def dim_share(values: Mapping[str, Values], dim: float = DIM) -> float:
    """The share of the brain that is close to 0 in every contrast: below `dim` of what is typical in it."""
    samples = [np.abs(each[::SAMPLE]) for each in values.values()]
    return float(np.logical_and.reduce([sample < dim * typical(sample[sample > 0]) for sample in samples]).mean())


def furthest(counts: Mapping[str, int]) -> str:
    """The modality whose count is furthest from the median."""
    middle = float(np.median(list(counts.values())))
    return max(counts, key=lambda modality: abs(counts[modality] - middle))


def check_intensities(values: Mapping[str, Values], files: Mapping[str, str], doubts: Doubts) -> None:
    """Say if many of the brain's intensities, by modality, are negative. Raises CaseError if all of a modality's are equal."""
    negative = {}
    for modality, brain in values.items():
        if np.ptp(brain) == 0:
            raise CaseError(f"{doubts.case}: {files[modality]} has the same intensity everywhere in the brain")
        sample = brain[::SAMPLE]
        below = sample < -BRIGHT * typical(np.abs(sample))  # interpolation leaves some closer to 0
        if (share := float(below.mean())) > NEGATIVE:
            negative[modality] = share
    if negative:
        shares = ", ".join(f"{modality} {share:.0%}" for modality, share in negative.items())
        what = f"many intensities in the brain are negative, as if already normalised ({shares}): bias correction cannot work on them"
        doubts.say("", f"{what}; take the scans as they were, or recipe.n4.enabled=false")

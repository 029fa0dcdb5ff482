"""What is odd about a subject, as its record shows: to_zarr prints it, explore lists it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from preprocess.cohort.record import Record

LOST = 0.01  # share of the brain, or of the tumour, outside the crop that is worth a warning
CEILINGS = (32767, 65535, -32768)  # limits of int16 and uint16: an overflow, or a marker left by an export
FAR = 50  # standard deviations above the brain's mean: the most in the real scans we checked is 18
OUTSIDE = 0.002  # share of the brain: twelve times the most in those scans, a twentieth of the voxels on a brain's surface
KNOWN_LABELS = {"1", "2", "3", "4"}


@dataclass(frozen=True)
class Flag:
    """One odd property of a subject or case."""

    subject: str
    contrast: str  # or "seg", or empty if it concerns the whole subject
    what: str
    number: str


def oddities(record: Record) -> Iterator[Flag]:
    """What to_zarr noted while it read the files, and odd intensities and labels."""
    yield from (Flag(record.subject, kind, sentence, "") for kind, sentence in record.noted)
    yield from odd_intensities(record)
    yield from odd_labels(record)


def odd_intensities(record: Record) -> Iterator[Flag]:
    """Maxima, masks and slices that a scanner does not produce."""
    for modality in record.modalities:
        quality, typical = record.quality[modality], record.intensity[modality]
        maximum = quality["maximum"]
        far = (maximum - typical["mean"]) / typical["std"]
        if ends := [end for end in (quality["minimum"], maximum) if end in CEILINGS]:
            yield Flag(record.subject, modality, "an intensity is at the limit of 16 bits", f"{ends[0]:.0f}")
        elif far > FAR:
            what = f"maximum of {maximum:.5g}, in standard deviations above the mean"
            yield Flag(record.subject, modality, what, f"{far:.0f}")
        if quality["outside"] > OUTSIDE and not any("brain" in sentence and "apart" in sentence for _, sentence in record.noted):
            what = "share of the brain that is 0 here but not in other contrasts: the masks differ"
            yield Flag(record.subject, modality, what, f"{quality['outside']:.1%}")
        if quality["constant_slices"]:
            yield Flag(
                record.subject,
                modality,
                "axial slices where all of the brain has the same intensity",
                f"{quality['constant_slices']:.0f}",
            )


def odd_labels(record: Record) -> Iterator[Flag]:
    """A segmentation that is empty, or has unknown labels."""
    if not record.has_labels:
        return
    if not record.label_voxels:
        yield Flag(record.subject, "seg", "the segmentation is empty", "0 ml")
    if unknown := sorted(set(record.label_voxels) - KNOWN_LABELS, key=int):
        yield Flag(record.subject, "seg", "labels that BRATS does not have", ", ".join(unknown))

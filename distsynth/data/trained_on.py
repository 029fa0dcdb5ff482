"""What a model remembers of the patients it was trained on, so that it can be used where their cohort is not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from preprocess.cohort import Cohort
from preprocess.restore import typical

DIGITS = 16  # of a sha256, enough to recognise a scan


@dataclass(frozen=True)
class TrainedOn:
    """The units, grid and scans of a model's training patients; no image and no name of theirs."""

    units: dict[str, dict[str, float]]  # see `preprocess.restore.typical`
    spacing: list[float]  # (z, y, x) mm of the stored voxels
    scans: list[str]  # digests of the files and of the stored contrasts that chose the weights, val patients included

    @classmethod
    def of(cls, cohort: Cohort) -> TrainedOn:
        """Of the subjects that a training takes. Raises StoreError if a record is damaged."""
        seen = [cohort.record(s) for split in ("segmentor", "gan", "val") for s in cohort.split(split)]
        first = (seen or list(cohort.records.values()))[0]
        digests = {digest for record in seen for digest in record.content.values()}
        digests |= {record.source[modality]["sha256"] for record in seen for modality in record.modalities}
        return cls(typical(cohort), list(first.spacing), sorted(digest[:DIGITS] for digest in digests))

    def and_scans(self, others: Iterable[str]) -> TrainedOn:
        """The same, with the scans that the weights had seen before this training."""
        return replace(self, scans=sorted({*self.scans, *others}))

    def includes(self, digest: str) -> bool:
        """Whether a scan with this sha256, of its file or of its stored z-scores, is among them."""
        return digest[:DIGITS] in self.scans

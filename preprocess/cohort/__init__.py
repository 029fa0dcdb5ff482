"""The cohort: a Zarr store of preprocessed subjects. Only this package knows its layout.

    COHORT.zarr/zarr.json                    Zarr v3 group; attributes: schema, recipe, modalities
    COHORT.zarr/subjects/NAME/               an OME-Zarr 0.5 image, as napari and others open it
        image                                (modality, z, y, x) float16 or float32 z-scores, unclipped, background exactly -9;
                                             the contrasts that the subject has, in the order of its record
        labels/seg/0                         (z, y, x) uint8, BRATS labels
    COHORT.zarr/records/NAME.json            commits the subject: its record, and the sha256 of its arrays and metadata
    COHORT.zarr/manifest.json                what training reads: recipe, modalities, folds, committed subjects with their sha256
    COHORT.zarr/rejected.json                cases set aside, with the reason

A subject is written to COHORT.zarr.partial, read back, moved into the store by a rename and then committed by its record, so that a
kill at any moment leaves only complete subjects. Each array is one shard file with crc32c checksums: without them a flipped bit is read
without an error. A missing or empty shard file is read as the fill value, so whole arrays are also checked against the sha256 in the
manifest. Nothing contains a clock time, so equal input gives equal bytes. The time of a record's file is that of the source's (see `origin`).

    python -m preprocess.cohort info|tree|verify COHORT.zarr
"""

from preprocess.cohort.reader import Cohort
from preprocess.cohort.record import Record
from preprocess.cohort.writer import CohortWriter
from preprocess.intensity import BACKGROUND

__all__ = ["BACKGROUND", "Cohort", "CohortWriter", "Record"]

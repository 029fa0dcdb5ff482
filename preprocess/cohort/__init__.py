"""The cohort: a Zarr store of preprocessed subjects. This package alone knows its layout.

    COHORT.zarr/zarr.json                    Zarr v3 group; attributes: schema, recipe, modalities
    COHORT.zarr/subjects/NAME/               an OME-Zarr 0.5 image, as napari and others open it
        image                                (modality, z, y, x) float16 or float32 z-scores, unclipped, background exactly -9;
                                             the contrasts that the subject has, in the order of its record
        labels/seg/0                         (z, y, x) uint8, BRATS labels
    COHORT.zarr/records/NAME.json            commits the subject: its record and the sha256 of its arrays and metadata
    COHORT.zarr/manifest.json                what training reads: recipe, modalities, folds, committed subjects with their sha256
    COHORT.zarr/rejected.json                cases set aside, with the reason

A subject is staged in COHORT.zarr.partial, read back, renamed into the store and then committed by its record, so that a kill
at any moment leaves only whole subjects. Each array is one shard file behind crc32c: without it a flipped bit reads back silently
wrong. An absent or empty shard file reads as the fill value, so whole arrays are also held against the sha256 in the manifest.
No clock times, so equal input gives equal bytes.

    python -m preprocess.cohort info|tree|verify COHORT.zarr
"""

from preprocess.cohort.files import differences
from preprocess.cohort.reader import Cohort
from preprocess.cohort.record import Record
from preprocess.cohort.writer import CohortWriter
from preprocess.intensity import BACKGROUND

__all__ = ["BACKGROUND", "Cohort", "CohortWriter", "Record", "differences"]

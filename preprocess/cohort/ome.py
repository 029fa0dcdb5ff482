"""OME-Zarr 0.5 metadata (https://ngff.openmicroscopy.org/0.5), so that ordinary viewers open a subject: scale, names, display windows.

It cannot hold an affine; that is in the record.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from preprocess.cohort.record import Record

SPACE = [{"name": name, "type": "space", "unit": "millimeter"} for name in "zyx"]


def image_attributes(record: Record) -> dict[str, Any]:
    """The subject group's attributes."""
    axes = [{"name": "c", "type": "channel"}, *SPACE]
    omero = {"channels": [channel(record, modality) for modality in record.modalities]}
    return {
        "ome": {
            "version": "0.5",
            "multiscales": [multiscale(record.subject, axes, "image", [1, *record.spacing])],
            "omero": omero,
        }
    }


def labels_attributes() -> dict[str, Any]:
    """The attributes of the group that holds the label images."""
    return {"ome": {"version": "0.5", "labels": ["seg"]}}


def seg_attributes(record: Record) -> dict[str, Any]:
    """The label image's attributes; its image lies two groups up."""
    label = {"version": "0.5", "source": {"image": "../../"}}
    return {"ome": {"version": "0.5", "multiscales": [multiscale("seg", SPACE, "0", record.spacing)], "image-label": label}}


def multiscale(name: str, axes: Sequence[dict[str, str]], path: str, scale: Sequence[float]) -> dict[str, Any]:
    """An image of one resolution."""
    dataset = {"path": path, "coordinateTransformations": [{"type": "scale", "scale": [float(s) for s in scale]}]}
    return {"name": name, "axes": list(axes), "datasets": [dataset]}


def channel(record: Record, modality: str) -> dict[str, Any]:
    """A channel's name, and its clip bounds as the window that a viewer shows."""
    bounds = record.intensity[modality]
    low, high = bounds["clip_low"], bounds["clip_high"]
    window = {"min": low, "max": high, "start": low, "end": high}
    return {"label": modality, "color": "FFFFFF", "active": modality == record.modalities[0], "window": window}

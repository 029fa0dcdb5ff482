"""Consolidated metadata: a group's zarr.json holds the metadata of all groups and arrays in it, as zarr-python and xarray read it
(https://github.com/zarr-developers/zarr-specs/pull/309). So they read one file, and do not look at files of ours and warn of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from preprocess.cohort.files import read_json
from preprocess.shared.files import write_json

KEY = "consolidated_metadata"
ZARR = "zarr.json"


def consolidate(group: Path, nodes: Iterable[Path]) -> None:
    """Put the metadata of `nodes`, folders below the group, into the group's zarr.json. Raises StoreError for metadata that cannot be read."""
    metadata = {node.relative_to(group).as_posix(): read_json(node / ZARR) for node in sorted(nodes)}
    for each in metadata.values():
        each.pop(KEY, None)
    write_json(group / ZARR, read_json(group / ZARR) | {KEY: {"kind": "inline", "must_understand": False, "metadata": metadata}})


def nodes_below(group: Path) -> list[Path]:
    """The folders of the groups and arrays in a group."""
    return [path.parent for path in group.rglob(ZARR) if path.parent != group]

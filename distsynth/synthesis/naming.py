"""The names of synthesised files: BIDS derivatives for BIDS, else NAME_flair_synth.nii.gz, or the names that segmenters expect."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

BIDS = {"t1": "desc-synth_T1w", "t1c": "ce-gadolinium_desc-synth_T1w", "t2": "desc-synth_T2w", "flair": "desc-synth_FLAIR"}
PLAIN = {"t1": "_t1", "t1c": "_t1ce", "t2": "_t2", "flair": "_flair"}
PLAIN_2023 = {"t1": "-t1n", "t1c": "-t1c", "t2": "-t2w", "flair": "-t2f"}


@dataclass(frozen=True)
class Naming:
    """Where the files of a call lie."""

    out: Path
    layout: str  # that the patients were read in
    kind: Literal["synth", "plain"]

    @property
    def bids(self) -> bool:
        return self.layout == "bids" and self.kind == "synth"

    @property
    def root(self) -> Path:
        """The folder of the patients: for BIDS a derivative dataset, `out` itself if it is one of `derivatives/`."""
        nested = self.bids and self.out.absolute().parent.name != "derivatives"
        return self.out / "derivatives" / "distsynth" if nested else self.out

    def image(self, patient: str, output: str) -> Path:
        """The path of a synthesised contrast."""
        if self.bids:
            return self.root.joinpath(*patient.split("_"), "anat", f"{patient}_{BIDS[output]}.nii.gz")
        if self.kind == "plain":
            words = PLAIN_2023 if self.layout == "brats2023" else PLAIN
            return self.root / patient / f"{patient}{words[output]}.nii.gz"
        return self.root / f"{patient}_{output}_synth.nii.gz"

    def sidecar(self, patient: str, output: str) -> Path:
        image = self.image(patient, output)
        return image.with_name(image.name.removesuffix(".nii.gz") + ".json")

    def picture(self, patient: str, outputs: Sequence[str]) -> Path:
        """The path of the quick look at these outputs."""
        which = "+".join(outputs)
        if self.bids:
            return self.root / patient.split("_")[0] / "figures" / f"{patient}_desc-synth_{which}.png"
        return self.root / f"{patient}_{which}_synth.png"

    def source(self, path: Path, dataset: Path) -> str:
        """A scan as the sidecar names it: in BIDS by a URI relative to the raw `dataset`, else by its file name."""
        if self.bids and path.absolute().is_relative_to(dataset.absolute()):
            return f"bids:raw:{path.absolute().relative_to(dataset.absolute()).as_posix()}"
        return path.name

    def dataset_description(self, dataset: Path) -> dict[str, Any]:
        """The content of BIDS's dataset_description.json."""
        return {
            "Name": "Synthesised MRI contrasts",
            "BIDSVersion": "1.10.0",
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "distsynth", "Version": version("distsynth")}],
            "DatasetLinks": {"raw": os.path.relpath(dataset.absolute(), self.root.absolute())},
        }


def dataset_of(source: Path) -> Path:
    """The BIDS dataset that a folder belongs to, else the folder: that with a dataset_description.json, or that which holds the subject's."""
    for folder in (source, *source.absolute().parents):
        if (folder / "dataset_description.json").is_file():
            return folder
        if folder.absolute().name.startswith("sub-"):
            return folder.absolute().parent
    return source

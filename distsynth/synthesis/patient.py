"""A patient as a model sees it: scans taken through the recipe of the training, and what the model makes of them back on the patient's grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from distsynth.data.cohorts import clip_inside
from distsynth.data.trained_on import TrainedOn
from distsynth.modalities import Modality
from distsynth.synthesis.tiles import Corner, blended
from distsynth.training.model import Model
from preprocess.cohort.arrays import array_digest
from preprocess.geometry import Place, spacing_of, uncrop
from preprocess.intensity import BACKGROUND, Statistics
from preprocess.recipe import Placed, Recipe, Stopwatch
from preprocess.restore import intensities
from preprocess.source.doubts import Checks
from preprocess.source.images import Image
from preprocess.source.layouts import MODALITIES
from preprocess.source.scans import Scans, assemble

Volume = npt.NDArray[np.float32]
SAME = 0.02  # relative difference of voxel sizes that are not resampled


class Patient:
    """A patient's scans, as the recipe of a training makes them. What is asked for twice is made once."""

    def __init__(
        self,
        name: str,
        images: Mapping[str, Image],
        recipe: Recipe,
        spacing: Sequence[float],
        resample: str = "",
        coregister: bool = False,
        checks: Checks = "refuse",
    ) -> None:
        """`images` by kind, contrasts and perhaps a `mask`; `spacing` (z, y, x) mm of the training's voxels, to which others are resampled.

        Raises CaseError if the images cannot be used.
        """
        self.name, self.recipe = name, recipe
        first = next(kind for kind in MODALITIES if kind in images)
        wanted = resample or (recipe.resample if recipe.resample in images else first if recipe.resample else "")
        reading = replace(recipe.reading(checks), resample=wanted, registered=not (coregister or recipe.coregister))
        self.scans: Scans = assemble(name, images, reading)
        self.grid = wanted or first
        self.image = images[self.grid]
        self.files = {kind: image.file for kind, image in images.items()}
        scanned = spacing_of(self.scans.affine)
        other = not np.allclose(scanned, spacing, rtol=SAME, atol=0)
        self.resampled = bool(recipe.spacing) or other
        self.coarser = any(theirs > 1.2 * ours for theirs, ours in zip(spacing, scanned, strict=True))
        self.spacing = spacing
        self.placed = Placed(name, self.scans, recipe, recipe.spacing or (list(spacing) if other else 0))
        self.standardised: dict[str, tuple[npt.NDArray[np.float32], Statistics]] = {}

    @cached_property
    def place(self) -> Place:
        """Where the processed grid lies in the patient's scan."""
        original = self.scans.original
        shape = list(self.placed.mask.shape)
        return Place(np.array(original["original_affine"]), original["original_shape"], self.placed.affine, shape)

    def z_scores(self, modality: str) -> tuple[npt.NDArray[np.float32], Statistics]:
        """(z, y, x) in the box around the brain, rounded to the type that the recipe stores. Raises CaseError naming the file."""
        if modality not in self.standardised:
            channel = self.scans.modalities.index(modality)
            file = f"{self.name}: {self.files[modality]}"
            corrected, stats = self.placed.standardise(file, channel, Stopwatch())
            self.standardised[modality] = self.placed.z_scores(corrected, stats), stats
        return self.standardised[modality]

    def digest(self, modality: str) -> str:
        """The sha256 of what a cohort with this recipe would store of the contrast."""
        return array_digest(self.placed.crop(self.z_scores(modality)[0]))

    def sources(self, modalities: Sequence[str], clip: bool) -> Volume:
        """(modality, z, y, x) z-scores in the box around the brain, clipped as the training clipped them."""
        stack = []
        for modality in modalities:
            z, stats = self.z_scores(modality)
            channel = z.astype(np.float32)
            if clip:
                clip_inside(channel, stats.record())
            stack.append(channel)
        return np.stack(stack)

    def synthesise(self, model: Model, clip: bool, flip: bool = False) -> tuple[Corner, Volume]:
        """The outputs of the model's variant as (outputs, z, y, x) z-scores, and the first voxel of them on the processed grid; meaningless
        outside the brain. With `flip` the mean with what the model makes of the mirrored brain."""
        sources, brain = self.sources(model.variant.inputs, clip), self.placed.mask

        def make(corner: Corner, shape: Corner) -> Volume:
            given = self.placed.part(sources, corner, shape)
            inside = given[0] != BACKGROUND
            made: Volume = model.synthesise(given, inside)
            if flip:
                mirrored = model.synthesise(given[..., ::-1].copy(), inside[..., ::-1].copy())
                made = np.float32(0.5) * (made + mirrored[..., ::-1])
            return made

        return blended(brain, self.placed.offset, self.placed.shape, make)

    def to_patient(self, corner: Corner, z_scores: Volume, mean: float, std: float) -> npt.NDArray[np.float32]:
        """(z, y, x) z-scores that begin at `corner` of the processed grid -> (x, y, z) intensities on the patient's own grid, 0 outside the brain.
        No brain voxel becomes 0, which other tools take for background."""
        brain = self.placed.mask
        whole = uncrop(z_scores, corner, brain.shape, 0)
        whole[~brain] = BACKGROUND
        values = intensities(whole, mean, std)
        values[brain & (values == 0)] = std * 1e-6
        return self.place.to_patient(values, is_map=False, brain=self.scans.mask).astype(np.float32, copy=False)

    @property
    def notes(self) -> Iterator[str]:
        """What a user should know of the scans, a sentence each."""
        for modality, movement in self.scans.moved.items():
            yield f"{Modality(modality).title} was moved by {movement}"
        if self.coarser:
            size = " x ".join(f"{mm:.3g}" for mm in reversed(self.spacing))
            yield f"the model was trained on voxels of {size} mm: finer detail is not made"
        yield from (sentence for _, sentence in self.scans.noted)

    def seen_by(self, trained_on: TrainedOn, files: Mapping[str, str], modalities: Sequence[str]) -> bool:
        """Whether the training saw one of these contrasts, by the sha256 of its file or of its z-scores."""
        digests = [files[m] for m in modalities if m in files] + [self.digest(m) for m in modalities]
        return any(trained_on.includes(digest) for digest in digests)

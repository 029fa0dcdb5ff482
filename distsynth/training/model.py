"""A method with what it needs to turn a patient's z-scores into z-scores: the intensity map and the padded size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from distsynth.config import Config
from distsynth.data.batch import Batch
from distsynth.data.cohorts import enough
from distsynth.data.feed import Feed
from distsynth.data.intensity_map import IntensityMap
from distsynth.data.patches import PatchFeed
from distsynth.data.randomness import sample_keys
from distsynth.data.shared_memory import Share
from distsynth.data.slices import SliceFeed, as_batch, centre, pad, padded_size, with_masks
from distsynth.data.trained_on import TrainedOn
from distsynth.methods import registry
from distsynth.methods.contract import Method
from distsynth.modalities import Variant
from distsynth.settings import DataSettings
from preprocess.cohort import Cohort
from preprocess.shared.errors import StoreError
from preprocess.shared.settings import differences

Volume = npt.NDArray[np.float32]
FORMAT = 2  # of what `Model.state_dict` stores; version 0.1 stored the first


@dataclass(frozen=True)
class Model:
    """What a checkpoint holds, ready to be used."""

    method: Method
    variant: Variant
    mapping: IntensityMap
    size: tuple[int, int]  # H, W that the networks see
    held: Sequence[Sequence[str]] = ()  # the sets of contrasts that training patients come in
    trained_on: TrainedOn | None = None  # None in a checkpoint of version 0.1

    def patient(self, image: Volume, labels: npt.NDArray[np.uint8]) -> Batch:
        """(modality, z, y, x) z-scores, inputs then outputs, and labels (z, y, x) as the stack of all axial slices, padded."""
        inputs = len(self.variant.inputs)
        sources = self.mapping.to_network(image[:inputs], self.variant.inputs)
        truth = self.mapping.to_network(image[inputs:], self.variant.outputs, saturate=False)
        values = np.concatenate([sources, truth])
        stack = pad(with_masks(image, labels, values).astype(np.float32), self.size)
        return as_batch(stack, inputs, sample_keys(np.arange(len(stack)), 0))

    def synthesise(self, sources: Volume, brain: npt.NDArray[np.bool_]) -> Volume:
        """(inputs, z, y, x) z-scores and the brain (z, y, x) -> (outputs, z, y, x) z-scores; meaningless outside the brain."""
        there = np.flatnonzero(brain.any(axis=(1, 2)))  # slices without brain cost as much as others
        whole = np.zeros((len(self.variant.outputs), *brain.shape), np.float32)
        self.method.eval()
        for part in [slice(None)] if self.method.patch else self.parts(there):
            whole[:, part] = self.made_of(sources[:, part], brain[part])
        return whole

    def parts(self, slices: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
        """The slices in groups that go through the network together: small ones on a CPU, where larger ones only take more memory."""
        size = 16 if next(self.method.parameters()).device.type == "cuda" else 2
        return (slices[first : first + size] for first in range(0, len(slices), size))

    def made_of(self, sources: Volume, brain: npt.NDArray[np.bool_]) -> Volume:
        """`synthesise` for slices that go through the network together."""
        values = self.mapping.to_network(sources, self.variant.inputs)
        stack = pad(np.concatenate([values, np.repeat(brain[None], 2, axis=0)]).swapaxes(0, 1).astype(np.float32), self.size)
        given = torch.from_numpy(stack).to(next(self.method.parameters()).device)
        with torch.no_grad():
            made = self.method.synthesise_volume(given[:, :-2], given[:, -2:-1]).cpu().numpy()
        return self.mapping.to_z(made[(..., *centre(brain.shape[1:], self.size))].swapaxes(0, 1), self.variant.outputs)

    def feed(self, cohort: Cohort, subjects: Sequence[str], settings: DataSettings, share: Share) -> Feed:
        """The feed of some subjects as the method wants it, slices or patches; `share` is `World.share`. Raises what `SliceFeed` and `PatchFeed`
        raise."""
        kind, common = self.method, (cohort, subjects, self.variant, self.mapping, settings)
        if kind.patch:
            return PatchFeed(*common, kind.patch, kind.patches, share)
        return SliceFeed(*common, self.size, share, kind.paired, kind.incomplete)

    def refuse_larger(self, cohort: Cohort, subjects: Sequence[str]) -> None:
        """Raise StoreError if slices of one of another cohort's subjects are larger than the networks' size."""
        for subject in subjects:
            height, width = cohort.record(subject).shape[-2:]
            if height > self.size[0] or width > self.size[1]:
                raise StoreError(
                    f"slices of {height}x{width} of cohort {cohort.path} do not fit the networks' {self.size[0]}x{self.size[1]}: "
                    "make it with the training cohort's recipe"
                )

    def state_dict(self) -> dict[str, Any]:
        """What `restore` needs."""
        own = {"mapping": asdict(self.mapping), "size": list(self.size), "held": [list(contrasts) for contrasts in self.held]}
        known = {"trained_on": asdict(self.trained_on)} if self.trained_on else {}
        return {"method": self.method.state_dict(), "format": FORMAT, **own, **known}

    def after(self, state: dict[str, Any]) -> Model:
        """The same model, whose weights come from a checkpoint: they have seen what that was trained on."""
        seen = state.get("trained_on", {}).get("scans", [])
        return replace(self, trained_on=self.trained_on and self.trained_on.and_scans(seen))

    def serving(self, variant: Variant) -> Model:
        """The same networks for another variant. Raises SettingError if they cannot."""
        if variant != self.method.variant:
            registry.check_serves(self.method, variant)
            self.method.serve(variant)
        return replace(self, variant=variant)


def build(config: Config, cohort: Cohort, mapping: IntensityMap) -> Model:
    """The untrained model of a configuration for the slices of a cohort. Raises StoreError if their sizes differ."""
    kind = registry.method(config.method.name)
    shapes = {tuple(cohort.record(subject).shape[-2:]) for subject in cohort.subjects}
    if len(shapes) > 1:
        raise StoreError(
            f"cohort {cohort.path} holds slices of different sizes ({sorted(shapes)}): make it with recipe.spacing= set"
        )
    size = networks_size(config, shapes.pop())
    held = contrasts_held(cohort, cohort.split("gan"), config.variant)
    settings = kind.settled(config.method, held)
    method = kind(settings, config.variant, size, config.seed)
    return Model(method, config.variant, mapping, size, held, TrainedOn.of(cohort))


def networks_size(config: Config, shape: Sequence[int]) -> tuple[int, int]:
    """The H x W that the networks of a configuration see, for slices of h x w."""
    size = padded_size(shape, registry.method(config.method.name).stride(config.method, (shape[0], shape[1])))
    return (max(size), max(size)) if config.data.rotate else size  # a rotation by 90 degrees needs a square


def trained_here(cohort: Cohort, own: Config, state: dict[str, Any]) -> bool:
    """Whether the run `own`, whose checkpoint `state` is, was trained on this cohort's store, in its fold, as that is split now."""
    taken = enough(cohort.whole, own.variant, registry.method(own.method.name).incomplete)
    return bool(state["made_from"]["store"] == taken.digest[:12])


def contrasts_held(cohort: Cohort, subjects: Sequence[str], variant: Variant) -> list[list[str]]:
    """The sets of the variant's contrasts that subjects come in, the largest first. Raises StoreError if one is in none."""
    records = [cohort.record(subject) for subject in subjects]
    sets = {tuple(name for name in variant.modalities if name in record.modalities) for record in records}
    if lacking := [name for name in variant.modalities if sets and not any(name in held for held in sets)]:
        raise StoreError(
            f"no training patient of cohort {cohort.path} has {', '.join(lacking)}, which variant {variant.name} needs: choose another variant"
        )
    return [list(held) for held in sorted(sets, key=lambda held: (-len(held), [variant.modalities.index(name) for name in held]))]


def restore(config: Config, state: dict[str, Any]) -> Model:
    """The model of a best.pt (see `Model.state_dict`), or of an exported model, which has no image pools. Raises StoreError if a newer version
    wrote it."""
    if state.get("format", 1) > FORMAT:
        raise StoreError(
            f"the model has format {state['format']} and this version of distsynth reads up to {FORMAT}: install a newer distsynth"
        )
    if changed := differences(trained_with(state), {"variant": asdict(config.variant)}) if trained_with(state) else []:
        raise StoreError(
            f"the configuration is not the one that the checkpoint was trained with ({changed[0]}): restore config.yaml"
        )
    size = (state["size"][0], state["size"][1])
    kind, held = registry.method(config.method.name), state.get("held", [])
    method = kind(kind.settled(config.method, held), config.variant, size, config.seed)
    pools = {name: value for name, value in method.state_dict().items() if name.endswith("_extra_state")}
    method.load_state_dict(pools | state["method"])
    trained_on = TrainedOn(**state["trained_on"]) if "trained_on" in state else None
    return Model(method, config.variant, IntensityMap(**state["mapping"]), size, held, trained_on)


def trained_with(state: dict[str, Any]) -> dict[str, Any]:
    """The variant that a checkpoint was trained with; an exported model does not say."""
    return {"variant": state["made_from"]["variant"]} if "variant" in state.get("made_from", {}) else {}

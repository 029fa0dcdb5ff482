"""The frozen judge: how much of the tumour a segmentor, trained once on real images, finds in synthesised ones (`evaluate.judge=RUN`).

The run may be of any method with TC-MGAN's segmentor: `segment`, or `tcmgan`, whose segmentor has also seen synthesised images. Its best
checkpoint is used unchanged. The Dice on the real images is reported next to that on the synthesised ones, which says little without it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from distsynth import config as configuration
from distsynth.config import Config
from distsynth.data.slices import pad
from distsynth.methods import registry
from distsynth.methods.segment import TumourFinder
from distsynth.run_directory import RunDirectory
from distsynth.training import checkpoint
from distsynth.training.model import Model, Volume, restore, trained_here
from preprocess.cohort import Cohort
from preprocess.shared.errors import SettingError


class Judge:
    """A run's segmentor, frozen."""

    def __init__(self, model: Model, device: torch.device) -> None:
        assert isinstance(model.method, TumourFinder)
        self.model, self.method, self.device = model, model.method.to(device).eval(), device

    @classmethod
    def of(cls, config: Config, cohort: Cohort, device: torch.device | None = None) -> Judge | None:
        """The judge that `evaluate.judge` names, if it names one. Raises UserError if the run has no segmentor or no best checkpoint, its
        segmentor was not trained on these contrasts, or not on the run's `cohort` as it is split."""
        if not config.evaluate.judge:
            return None
        run = RunDirectory(config.evaluate.judge)
        named = f"evaluate.judge={run.path}"
        own = configuration.load(run.config)
        if not registry.method(config.method.name).images:
            raise SettingError(f"{named} cannot be used: method {config.method.name} makes no images to judge")
        kind = registry.method(own.method.name)
        if not issubclass(kind, TumourFinder):
            raise SettingError(
                f"{named} is a run of method {own.method.name}, which has no segmentor: give a run of segment or tcmgan"
            )
        if lacking := [name for name in config.variant.outputs if name not in own.variant.outputs]:
            raise SettingError(
                f"{named} was trained on {', '.join(own.variant.outputs)} and not on {', '.join(lacking)}: "
                "give a run whose variant has them as outputs"
            )
        state = checkpoint.load(run.checkpoints / "best.pt")
        if not trained_here(cohort, own, state):
            raise SettingError(
                f"{named} was not trained on {config.data.store} as it is split here, and may have seen the patients "
                "it would judge: give a run of the same fold and split"
            )
        return cls(restore(own, state), device or torch.device("cpu"))

    def dice(
        self, images: Volume, names: Sequence[str], brain: npt.NDArray[np.bool_], tumour: npt.NDArray[np.bool_]
    ) -> dict[str, float]:
        """Dice of the whole tumour, segmented in each of (modality, z, y, x) z-scores; brain and tumour are (z, y, x)."""
        values = np.where(brain, self.model.mapping.to_network(images, names), -1)
        stack = np.concatenate([values, brain[None], tumour[None]]).swapaxes(0, 1).astype(np.float16)  # as the feed shows them
        padded = torch.from_numpy(pad(stack.astype(np.float32), self.model.size)).to(self.device)
        return {name: self.method.dice(padded[:, i : i + 1], name, padded[:, -1:]) for i, name in enumerate(names)}

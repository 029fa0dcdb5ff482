"""Score a finished run's best checkpoint again, for example on another cohort.

    python -m distsynth.evaluate run=runs/lr/simo_lr-0.0002
    python -m distsynth.evaluate run=runs/lr/simo_lr-0.0002 data.external.mine=data/mine.zarr
    python -m distsynth.evaluate run=runs/lr/simo_lr-0.0002 evaluate.judge=runs/segmentor

Training ends with the same evaluation; this repeats it with other settings of `data.external.*`, `data.store` (a cohort that has moved) or
`evaluate.*`, and leaves scores and figures in the run directory.
"""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import OmegaConf

from distsynth import config as configuration
from distsynth.config import Config
from distsynth.evaluation.evaluate import evaluate, flat
from distsynth.run_directory import RunDirectory
from distsynth.training.distributed import World, choose_device
from preprocess.errors import SettingError
from preprocess.settings import command, dotlist

CHANGEABLE = ("data.store", "data.external.", "evaluate.")


def main(words: Sequence[str]) -> int:
    path = [word.partition("=")[2] for word in words if word.startswith("run=")]
    others = [word for word in words if not word.startswith("run=")]
    if len(path) != 1:
        raise SettingError("give the run directory once: run=runs/SWEEP/RUN")
    for word in others:
        if not word.startswith(CHANGEABLE):
            raise SettingError(
                f"{word.partition('=')[0]} is the run's own: only data.store, data.external.NAME and evaluate.* may differ"
            )
    run = RunDirectory(path[0])
    config = load_with(run, others)
    with run.lock():
        scores = evaluate(config, run, World(0, 1, 0, choose_device("auto", 0)))
    for name, value in flat(scores).items():
        print(f"{name:<48} {value:.4f}")
    print(f"written: {run.scores} and {run.figures}")
    return 0


def load_with(run: RunDirectory, words: Sequence[str]) -> Config:
    """The run's config with `words` laid over it. Raises SettingError."""
    run.read_identity()
    tree = OmegaConf.merge(configuration.read_yaml(run.config), dotlist(words))
    return configuration.with_absolute_paths(configuration.typed(tree))  # type: ignore[arg-type]


if __name__ == "__main__":
    command(main, __doc__)

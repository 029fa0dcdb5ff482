"""Fine-tuning, as the report does: `train.init_from` gives the first weights, `train.freeze` names those that are not trained."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from distsynth import config as configuration
from distsynth.config import Config
from distsynth.methods.contract import Method
from distsynth.run_directory import RunDirectory, similar
from distsynth.settings import TrainSettings
from distsynth.training import checkpoint
from distsynth.training.model import trained_here
from preprocess.cohort import Cohort
from preprocess.shared.errors import SettingError, StoreError


def begin_from(method: Method, config: Config, cohort: Cohort) -> str:
    """Load and freeze weights as the settings say; returns a sentence that reports it. Raises SettingError if a setting matches no weight, an
    objective would have nothing left to train, or the weights may have seen the test patients; StoreError if the run has no best checkpoint."""
    report = []
    if config.train.init_from:
        report = [load_weights(method, config.train.init_from, config.train.init_partial), *refuse_known(config, cohort)]
    if config.train.freeze:
        report.append(freeze(method, config.train))
    return "; ".join(report)


def load_weights(method: Method, run: str, partial: bool = True) -> str:
    """Load those weights of a run's best checkpoint whose name and shape this method has. Raises SettingError if that is none of them or, unless
    `partial`, less than half: it is most likely the run of another method or width."""
    best = RunDirectory(run).checkpoints / "best.pt"
    if not best.is_file():
        hint = similar(Path(run).absolute(), "train.init_from=") or "give the folder of a run that has been validated once"
        raise StoreError(f"train.init_from={run}: {best} is not a readable checkpoint, it does not exist: {hint}")
    given, own = checkpoint.load(best)["method"], method.state_dict()
    fitting = {name: value for name, value in given.items() if name in own and own[name].shape == value.shape}
    if not fitting:
        raise SettingError(f"train.init_from={run}: none of its {len(given)} weights has a name and shape of this method's")
    others = sorted({name.split(".")[0] for name in own.keys() - fitting.keys()})
    taken, wanted = (sum(value.numel() for value in weights.values() if torch.is_tensor(value)) for weights in (fitting, own))
    if 2 * taken < wanted and not partial:
        raise SettingError(
            f"train.init_from={run} gives only {taken:,} of this method's {wanted:,} weights, and none or not all of {', '.join(others)}: "
            "give a run of the same method and widths, or train.init_partial=true to start the others new"
        )
    method.load_state_dict(fitting, strict=False)
    rest = f", the others, of {', '.join(others)}, start from new weights" if others else ""
    return f"{len(fitting)} of {len(own)} weights from {run}{rest}"


def refuse_known(config: Config, cohort: Cohort) -> list[str]:
    """Raise SettingError if the run was trained on this cohort in another fold or split: its weights may have seen patients that are held out
    here. For a run of another cohort, which cannot be checked, returns a warning."""
    run = RunDirectory(config.train.init_from)
    own, state = configuration.load(run.config), checkpoint.load(run.checkpoints / "best.pt")
    folds = range(len(cohort.manifest["folds"]))
    known = [fold for fold in folds if trained_here(cohort.in_fold(fold), own, state)]
    if cohort.fold in known:
        return []
    if known or Path(own.data.store).resolve() == Path(config.data.store).resolve():
        raise SettingError(
            f"train.init_from={config.train.init_from} was trained on fold {own.data.fold} of {own.data.store}, or before it was split again, "
            "and may have seen patients that are held out here: give a run of the same fold and split"
        )
    return [f"warning: it was trained on {own.data.store}: if patients of that are held out here, the scores mean nothing"]


def freeze(method: Method, train: TrainSettings) -> str:
    """Stop training the parameters whose names are, or begin with, one of `train.freeze`."""
    names, frozen = train.freeze, 0
    for start in names:
        chosen = [p for name, p in method.named_parameters() if name == start or name.startswith(start + ".")]
        if not chosen:
            parts = sorted({".".join(name.split(".")[:2]) for name, _ in method.named_parameters()})
            raise SettingError(f"train.freeze names {start!r}, which matches no weight: choose from {', '.join(parts)}")
        for parameter in chosen:
            frozen += parameter.requires_grad
            parameter.requires_grad_(False)
    for name in {name: None for stage in method.stages(train) for name in stage.objectives}:
        if not any(p.requires_grad for p in method.objectives()[name].network.parameters()):
            raise SettingError(f"train.freeze={names} leaves {name} nothing to train: freeze less")
    return f"{frozen} weights are frozen"


def train_but_frozen(method: Method) -> None:
    """Set training mode, except for batch norms whose weights are frozen: their statistics are frozen too."""
    method.train()
    for part in method.modules():
        if isinstance(part, _BatchNorm) and not any(p.requires_grad for p in part.parameters()):
            part.eval()

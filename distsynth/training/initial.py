"""Where a run's first weights come from, and which of them stay as they are (the report's fine-tuning): `train.init_from`, `train.freeze`."""

from __future__ import annotations

from torch.nn.modules.batchnorm import _BatchNorm

from distsynth.methods.method import Method
from distsynth.run_directory import RunDirectory
from distsynth.training import checkpoint
from distsynth.training.settings import TrainSettings
from preprocess.errors import SettingError


def begin_from(method: Method, train: TrainSettings) -> str:
    """Load and freeze as the settings say, and return a sentence on it. Raises SettingError if a setting fits nothing, or an objective
    would have nothing left to train; StoreError if the run has no best checkpoint."""
    said = [take_over(method, train.init_from)] if train.init_from else []
    if train.freeze:
        said.append(freeze(method, train.freeze))
    return "; ".join(said)


def take_over(method: Method, run: str) -> str:
    """Take the weights of a run's best checkpoint that have a place here."""
    given = checkpoint.load(RunDirectory(run).checkpoints / "best.pt")["method"]
    own = method.state_dict()
    fitting = {name: value for name, value in given.items() if name in own and own[name].shape == value.shape}
    if not fitting:
        raise SettingError(f"train.init_from={run}: none of its {len(given)} weights has a name and shape of this method's")
    method.load_state_dict(fitting, strict=False)
    others = sorted({name.split(".")[0] for name in own.keys() - fitting.keys()})
    rest = f", the others, of {', '.join(others)}, begin anew" if others else ""
    return f"{len(fitting)} of {len(own)} weights from {run}{rest}"


def freeze(method: Method, names: list[str]) -> str:
    """Stop training the parameters whose names are, or begin with, one of `names`."""
    frozen = 0
    for start in names:
        found = [p for name, p in method.named_parameters() if name == start or name.startswith(start + ".")]
        if not found:
            parts = sorted({".".join(name.split(".")[:2]) for name, _ in method.named_parameters()})
            raise SettingError(f"train.freeze names {start!r}, which no weight does: there are {', '.join(parts)}")
        for parameter in found:
            frozen += parameter.requires_grad
            parameter.requires_grad_(False)
    for name, objective in method.objectives().items():
        if not any(p.requires_grad for p in objective.network.parameters()):
            raise SettingError(f"train.freeze={names} leaves {name} nothing to train: freeze less")
    return f"{frozen} weights are frozen"


def train_but_frozen(method: Method) -> None:
    """Training mode, but for batch norms whose weights are frozen: their statistics stay as they are too."""
    method.train()
    for part in method.modules():
        if isinstance(part, _BatchNorm) and not any(p.requires_grad for p in part.parameters()):
            part.eval()

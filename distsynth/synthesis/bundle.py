"""An exported model: a zip, or the folder of one, laid out as a MONAI bundle, that holds all a `Synthesiser` needs and no code and no pickle.

configs/model.json          what distsynth reads: recipe, map, units, scores, and the sha256 of every other file
configs/config.yaml         the run's configuration, without paths of the machine that it was trained on
configs/metadata.json       what the MONAI bundle specification requires
configs/inference.json      for `python -m monai.bundle run`
models/model.safetensors    the weights; no image pools, which hold synthesised images of training patients
docs/README.md, LICENSE     the model card, and the terms
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml  # type: ignore[import-untyped]
from omegaconf import DictConfig, OmegaConf
from safetensors import torch as safetensors

from distsynth import config as configuration
from distsynth.config import Config
from distsynth.methods import registry
from distsynth.synthesis import model_card
from distsynth.synthesis.archive import AGAIN, FORMAT, TOP, pack, refuse_newer, unpack
from distsynth.synthesis.synthesiser import Synthesiser, weights
from distsynth.training import model
from distsynth.training.model import restore
from preprocess.cohort.files import json_digest
from preprocess.recipe import Recipe
from preprocess.shared.errors import StoreError, UserError
from preprocess.shared.files import json_text, write_atomically
from preprocess.shared.words import refuse_interpolation

MODEL, CONFIG, WEIGHTS = "configs/model.json", "configs/config.yaml", "models/model.safetensors"
MEMBERS = (MODEL, CONFIG, "configs/inference.json", "configs/metadata.json", WEIGHTS, "docs/README.md", "LICENSE")
WIDEST = 4096  # pixels of a slice

State = dict[str, Any]


def write(synthesiser: Synthesiser, path: Path, licence: str = "") -> None:
    """Write the model as a zip; `licence` are the terms of its weights. Raises StoreError if `path` exists, OSError if it cannot be written."""
    if path.exists():
        raise StoreError(f"out={path} exists: give another out=")
    top = path.stem if TOP.fullmatch(path.stem) else "model"
    write_atomically(path, pack(top, content(synthesiser, licence)))


def content(made: Synthesiser, licence: str) -> dict[str, bytes]:
    """The members of the archive."""
    config = without_paths(made.config)
    texts = {
        "LICENSE": model_card.licence(licence),
        CONFIG: configuration.to_yaml(config),
        "configs/inference.json": json_text(model_card.inference()),
        "configs/metadata.json": json_text(model_card.metadata(made, licence)),
        "docs/README.md": model_card.readme(made, licence),
    }
    files = {name: text.encode() for name, text in texts.items()} | {WEIGHTS: safetensors.save(contiguous(made))}
    known = {
        "format": FORMAT,
        "distsynth": version("distsynth"),
        "name": made.name,
        "digest": made.digest,
        "licence": licence,
        "model": {**state_of(made), "format": model.FORMAT},
        "recipe": made.recipe.stored(),
        "card": made.card,
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    files[MODEL] = json_text({**known, "sha256": json_digest(known)}).encode()
    return {name: files[name] for name in MEMBERS}


def contiguous(made: Synthesiser) -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous() for name, tensor in weights(made.model).items()}


def state_of(made: Synthesiser) -> State:
    """What `restore` needs, without the weights."""
    own = made.model
    held = [list(contrasts) for contrasts in own.held]
    return {"mapping": asdict(own.mapping), "size": list(own.size), "held": held, "trained_on": asdict(made.trained_on)}


def without_paths(config: Config) -> Config:
    """The configuration without the paths of the machine that it was trained on."""
    return replace(
        config,
        data=replace(config.data, store="", external={}),
        train=replace(config.train, init_from=""),
        evaluate=replace(config.evaluate, judge=""),
    )


# -- reading it ----------------------------------------------------------------------------------------------------------


def read(path: Path) -> Synthesiser:
    """The model of an exported zip, or of the folder of one, on the CPU. Unpickles nothing, runs nothing and unpacks nothing to the disk.

    Raises StoreError if it is damaged, incomplete, of a newer version, or holds anything else.
    """
    members = unpack(path, MEMBERS)
    known = checked(path, members)
    try:
        return built(known, members[CONFIG].decode(), safetensors.load(members[WEIGHTS]))
    except StoreError as error:
        raise StoreError(f"{path}: {error}") from error
    except Exception as error:  # of another version, or made by other means
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StoreError(
            f"{path} does not fit this version of distsynth ({why}): use the version that exported it, {known.get('distsynth')}"
        ) from error


def checked(path: Path, members: Mapping[str, bytes]) -> dict[str, Any]:
    """The content of model.json. Raises StoreError if it, or a file whose sha256 it holds, is not as it was written."""
    try:
        known = json.loads(members[MODEL], parse_constant=no_number)
        seal = known.pop("sha256")
        refuse_newer(path, int(known["format"]))
        files = dict(known["files"])
        same = json_digest(known) == seal
    except UserError:
        raise
    except Exception as error:
        raise StoreError(f"{path}: {MODEL} is damaged: {AGAIN}") from error
    if not same or files.keys() != set(MEMBERS) - {MODEL}:
        raise StoreError(f"{path}: {MODEL} has changed since it was exported: {AGAIN}")
    for name, digest in files.items():
        if hashlib.sha256(members[name]).hexdigest() != digest:
            raise StoreError(f"{path}: {name} has changed since it was exported: {AGAIN}")
    return dict(known)


def no_number(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def built(known: Mapping[str, Any], text: str, tensors: dict[str, torch.Tensor]) -> Synthesiser:
    """Raises StoreError, or whatever a content that no export writes leads to."""
    config, state = configuration.typed(plain(text)), {**known["model"], "method": tensors}
    if max(state["size"]) > WIDEST:
        raise StoreError(f"it is for slices of {state['size']} pixels, which is implausible: {AGAIN}")
    check_fit(config, state)
    own = restore(config, state)
    assert own.trained_on is not None
    made = Synthesiser(known["name"], config, own, Recipe.of(known["recipe"]), own.trained_on, known["card"])
    units = [made.units(output) for output in made.tasks.outputs]
    if made.digest != known["digest"] or not units:
        raise StoreError(f"the model's digest is not the one of its export: {AGAIN}")
    return made


def plain(text: str) -> DictConfig:
    """The tree of a YAML text without what can expand as it is read: aliases and interpolations. Raises ValueError."""
    if "${" in text or any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
        raise ValueError(f"{CONFIG} holds an alias or an interpolation")
    tree = OmegaConf.create(text)
    if not isinstance(tree, DictConfig):
        raise ValueError(f"{CONFIG} holds no settings")
    refuse_interpolation(tree, CONFIG)  # also one that is spelt \\x24{…}
    return tree


def check_fit(config: Config, state: State) -> None:
    """Raise StoreError unless the weights are those of the configuration's networks; these take no memory yet."""
    kind = registry.method(config.method.name)
    with torch.device("meta"):
        method = kind(
            kind.settled(config.method, state["held"]), config.variant, (state["size"][0], state["size"][1]), config.seed
        )
    needed = {name: tensor for name, tensor in method.state_dict().items() if not name.endswith("_extra_state")}
    for name in sorted(needed.keys() ^ state["method"].keys()):
        raise StoreError(f"{WEIGHTS} {'lacks' if name in needed else 'has'} {name[:80]!r}, unlike the model: {AGAIN}")
    for name, tensor in state["method"].items():
        if tensor.shape != needed[name].shape or tensor.dtype != needed[name].dtype:
            raise StoreError(f"{name} in {WEIGHTS} is {list(tensor.shape)}, unlike the model: {AGAIN}")
        if not torch.isfinite(tensor).all():
            raise StoreError(f"{name} in {WEIGHTS} is not finite: the training diverged, export another run")

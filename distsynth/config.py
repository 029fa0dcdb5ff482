"""The configuration: one dataclass beside each component, assembled here, composed from `configs/` and `key=value` words.

A group file (`configs/variant/simo.yaml`) is a fragment of the whole tree, so a method's preset may also set the training
schedule it was published with. Order: dataclass defaults, `configs/train.yaml`, the groups' files, the words.
`configs/` is at the top of a checkout; a wheel installs it as `distsynth/configs/`.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from distsynth.methods import registry
from distsynth.modalities import Variant
from distsynth.run_directory import CONFIGS, similar
from distsynth.settings import DataSettings, EvaluateSettings, TrainSettings
from preprocess.shared.errors import SettingError
from preprocess.shared.files import write_atomically
from preprocess.shared.settings import complete, describe, finish, flatten, merge, required, setting, texts
from preprocess.shared.words import dotlist, refuse_interpolation

GROUPS = ("variant", "method", "data")
RENAMED = {"evaluate.floors": "evaluate.baselines", "train.insight": "train.timing"}  # since version 0.1, whose runs still load


@dataclass
class Config:
    """Everything that one run is made from; saved in its run directory, where it is enough to repeat the run."""

    variant: Variant = required("which modalities go in and which come out")
    method: Any = setting(None, "the method's own settings; method.name says which")
    data: DataSettings = setting(DataSettings, "the cohort and how it is fed")
    train: TrainSettings = setting(TrainSettings, "optimisation, precision, validation, checkpoints")
    evaluate: EvaluateSettings = setting(EvaluateSettings, "what is scored after training")
    seed: int = setting(0, "seed of initial weights, order, augmentation and sampling")

    def __post_init__(self) -> None:
        registry.check(registry.method(self.method.name), self.variant)


@dataclass
class Run:
    """What a training is given beside its settings."""

    run: str = setting("", "the run's folder, to make or to resume (empty: runs/alone/VARIANT_METHOD); its path alone is enough")


def compose(words: Sequence[str]) -> Config:
    """The checked config of one run from words such as `variant=simo method=tcmgan train.lr=1e-4`.

    Raises SettingError in one sentence for an unknown group member, an unknown key, an ill-typed or a missing value, and a
    method that does not serve the variant. Relative paths become absolute, so that the run repeats from anywhere.
    """
    return with_absolute_paths(complete(typed(layers(words, GROUPS))))


def with_absolute_paths(config: Config) -> Config:
    """The config that means the same in any working directory."""
    config.data.store = str(Path(config.data.store).absolute())
    config.data.external = {name: str(Path(path).absolute()) for name, path in config.data.external.items() if path}
    if config.train.init_from:
        config.train.init_from = str(Path(config.train.init_from).absolute())
    if config.evaluate.judge:
        config.evaluate.judge = str(Path(config.evaluate.judge).absolute())
    return config


def layers(words: Sequence[str], groups: Sequence[str], of: Any = None, ignore: Sequence[str] = ()) -> DictConfig:
    """The untyped tree from `configs/train.yaml`, the chosen group files and the other words, which are settings of the dataclass `of`.

    Keys whose head is in `ignore` (the launcher's own groups) are left out. Raises SettingError.
    """
    if not CONFIGS.is_dir():
        raise SettingError(f"{CONFIGS} does not exist: install distsynth again")
    root = read_yaml(CONFIGS / "train.yaml")
    chosen = {group: root["groups"][group] for group in groups}
    rest = []
    for word in words:
        key, _, value = word.partition("=")
        if key in groups and not value.startswith(("{", "[")):
            chosen[key] = value
        else:
            rest.append(word)
    del root["groups"]
    tree = OmegaConf.merge(root, *(fragment(group, name) for group, name in chosen.items()), overrides(rest, of))
    assert isinstance(tree, DictConfig)
    for head in ignore:
        tree.pop(head, None)
    return tree


def overrides(words: Sequence[str], of: Any = None) -> DictConfig:
    """The tree that `key=value` words set, settings of the dataclass `of`. Raises SettingError for a word that is none, or whose setting has
    another name today."""
    for word in words:
        if (key := word.partition("=")[0]) in RENAMED:
            raise SettingError(f"{key} is called {RENAMED[key]} now: give {RENAMED[key]}= in its place")
    return dotlist(words, {"variant.name", *texts(of or Config)})


def fragment(group: str, name: str) -> DictConfig:
    """The group file configs/GROUP/NAME.yaml. Raises SettingError naming the members when there is no such file."""
    path = CONFIGS / group / f"{name}.yaml"
    if not path.is_file():
        members = sorted(p.stem for p in (CONFIGS / group).glob("*.yaml"))
        near = difflib.get_close_matches(name, members, n=1)
        raise SettingError(
            f"{group}={name} is not known: {'did you mean ' + near[0] + '? ' if near else ''}choose from {', '.join(members)}"
        )
    return read_yaml(path)


def groups_help(groups: Sequence[str] = GROUPS) -> str:
    """The groups and their members, for `--help`."""
    lines = [f"  {group}={'|'.join(sorted(p.stem for p in (CONFIGS / group).glob('*.yaml')))}" for group in groups]
    return "\n\ngroups (configs/GROUP/NAME.yaml; a run's config.yaml holds every setting):\n" + "\n".join(lines)


def settings_help(words: Sequence[str]) -> str:
    """Every setting of a run with its default, for `--help`; with `method=NAME` among the words those of the method too, as its preset
    configs/method/NAME.yaml has them. Raises SettingError for a method that is not known."""
    chosen = [word for word in words if word.startswith("method=")]
    if not chosen:
        more = "method.*: see method=NAME --help; the presets configs/method/NAME.yaml change some of train.* too"
        return "\n".join(["settings (key=default):", *describe(Run), *describe(Config), more])
    tree = layers(chosen, GROUPS)
    name = OmegaConf.select(tree, "method.name")
    merged: Any = OmegaConf.to_container(merge(schema(name), tree))
    values = dict(flatten(merged)) | {"variant": "", "method": chosen[-1].partition("=")[2]}
    lines = [*describe(Run), *describe(Config, "", values), *describe(registry.method(name).Settings, "method.", values)]
    return "\n".join([f"settings with {chosen[-1]} (key=default):", *lines])


def typed(tree: DictConfig) -> Config:
    """The tree laid over the schema of its method, checked. Raises SettingError."""
    return finish(merge(schema(OmegaConf.select(tree, "method.name") or ""), tree), Config)


@cache  # a sweep composes many runs; merging copies it
def schema(method: str) -> DictConfig:
    """Every setting with its type and default. Raises SettingError if the method is not known."""
    base: DictConfig = OmegaConf.structured(Config)
    base.variant = OmegaConf.structured(Variant)
    base.method = OmegaConf.structured(registry.method(method).Settings)
    return base


def read_yaml(path: Path) -> DictConfig:
    try:
        loaded = OmegaConf.load(path)
    except Exception as error:
        raise SettingError(f"{path} is not readable YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(loaded, DictConfig):
        raise SettingError(f"{path} must hold settings (key: value)")
    refuse_interpolation(loaded, str(path))
    return loaded


def to_yaml(config: Config) -> str:
    """The resolved config as it is saved in a run directory."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def save(config: Config, path: Path) -> None:
    """Write the resolved config atomically."""
    write_atomically(path, to_yaml(config))


def load(path: Path) -> Config:
    """The config saved in a run directory. Raises SettingError if it is absent or does not fit this version."""
    return typed(saved(path))


def saved(path: Path) -> DictConfig:
    """The untyped tree of a run directory's config, with the names that its settings have today. Raises SettingError."""
    if not path.is_file():
        hint = similar(path.parent.absolute(), "") or "a run directory holds the config.yaml that a launch or a training wrote"
        raise SettingError(f"{path} is absent: {hint}")
    tree = read_yaml(path)
    for old, new in RENAMED.items():
        if (value := OmegaConf.select(tree, old)) is not None:
            OmegaConf.update(tree, new, value)
            section, _, key = old.rpartition(".")
            OmegaConf.select(tree, section).pop(key)
    return tree

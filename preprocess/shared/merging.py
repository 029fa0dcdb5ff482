"""Puts settings that words give on top of typed ones: reads empty texts and lists without brackets, and refuses what does not fit with what would."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from typing import Any

from omegaconf import DictConfig, ListConfig, Node, OmegaConf, StringNode
from omegaconf.errors import OmegaConfBaseException

from preprocess.shared.errors import SettingError

FLOAT = r"[+-]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][+-]?\d+)?"
LISTS = {int: ("whole numbers", "1,2,4"), float: ("numbers", "1,2,4"), str: ("words", "t1,t2")}  # by the type of an element


def merge(base: DictConfig, *over: DictConfig) -> DictConfig:
    """The typed config `base` with the `over` configs on top. Raises SettingError naming the key that does not fit, and what would."""
    merged = base
    for layer in over:
        try:
            listed = with_lists(base, layer)
            refuse_unknown_keys(base, listed)
            merged = OmegaConf.merge(merged, with_empty_texts(base, listed))  # type: ignore[assignment]
        except OmegaConfBaseException as error:
            refuse_list(base, re.sub(r"(\[\d+\])+$", "", str(error.full_key)))
            refuse_value_of_group(base, layer)
            where = error.full_key or "of " + ", ".join(map(str, layer))
            raise SettingError(f"setting {where}: {first_line(error)}") from error
    return merged


def with_lists(base: DictConfig, layer: DictConfig) -> DictConfig:
    """The layer in which `labels=1,2,4` and `labels=4` are lists where the setting is one. Raises SettingError for a mapping in its place."""
    filled = deepcopy(layer)
    for key in keys(layer):
        node = node_of(base, key)
        if not isinstance(node, ListConfig) or OmegaConf.is_missing(layer, key):
            continue
        value = OmegaConf.select(layer, key)
        if isinstance(value, DictConfig):
            refuse_list(base, key)
        elif not (value is None or OmegaConf.is_config(value)) and (node._metadata.element_type is not Any or "," in str(value)):
            parts = [part for part in re.split(r"[\s,;]+", str(value).strip(" ()[]")) if part]
            OmegaConf.update(
                filled,
                key,
                [float(part) if re.fullmatch(FLOAT, part) else int(part) if part.isdecimal() else part for part in parts],
            )
    return filled


def node_of(base: DictConfig, key: str) -> Node | None:
    """OmegaConf's node of a setting; None for an unknown one."""
    head, _, name = key.rpartition(".")
    with suppress(OmegaConfBaseException):
        section = OmegaConf.select(base, head) if head else base
        return section._get_node(name) if isinstance(section, DictConfig) else None
    return None


def refuse_list(base: DictConfig, key: str) -> None:
    """Raise SettingError, with an example, if the setting is a list of numbers or words."""
    node = node_of(base, key)
    if isinstance(node, ListConfig) and (kind := LISTS.get(node._metadata.element_type)):
        what, example = kind
        raise SettingError(f"{key} must be a list of {what}: write {key}={example} or {key}='[{example}]'")


def refuse_value_of_group(base: DictConfig, layer: DictConfig) -> None:
    """Raise SettingError for a value in the place of a group of settings: `names=T1post=t1c`, `recipe.n4=false`."""
    for key in keys(layer):
        if isinstance(group := node_of(base, key), DictConfig) and not OmegaConf.is_config(OmegaConf.select(layer, key)):
            some = [f"{key}.{name}=…" for name in list(group)[:2]] or [f"{key}.NAME=VALUE"]
            raise SettingError(f"{key} is a group of settings: write {', '.join(some)}")


def with_empty_texts(base: DictConfig, layer: DictConfig) -> DictConfig:
    """The layer in which `key=`, which YAML reads as null, is the empty text where the setting is text. Raises SettingError for another."""
    filled = deepcopy(layer)
    for key in keys(layer):
        if OmegaConf.is_missing(layer, key) or OmegaConf.select(layer, key) is not None:
            continue
        head, _, name = key.rpartition(".")
        section = OmegaConf.select(base, head) if head else base
        node = section._get_node(name) if isinstance(section, DictConfig) else None
        default = OmegaConf.select(base, key)
        if isinstance(node, StringNode) or (node is None and section is not None and section._metadata.element_type is str):
            OmegaConf.update(filled, key, "")
        elif default is not None:
            example = OmegaConf.to_container(default) if OmegaConf.is_config(default) else default
            shown = shlex.quote(f"{key}={str(example).lower() if isinstance(example, bool) else example}")
            raise SettingError(f"{key}= is empty: give it a value, for example {shown}")
    return filled


def refuse_unknown_keys(base: DictConfig, layer: DictConfig) -> None:
    """Raise SettingError for the first key of `layer` that the typed `base` lacks, with the most similar key that it has."""
    known = set(keys(base))
    for key in keys(layer):
        if key not in known and not is_free(base, key):
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5) or last_part_matches(key, known)
            hint = (
                f"did you mean {near[0]}?" if near else f"the settings are {', '.join(sorted(k for k in known if '.' not in k))}"
            )
            raise SettingError(f"unknown setting {key}: {hint}")


def last_part_matches(key: str, known: set[str]) -> list[str]:
    """The known key, at any depth, whose last part is most similar to `key`'s last part (`widht` gives `method.width`)."""
    tails = {k.rsplit(".", 1)[-1]: k for k in sorted(known)}
    return [tails[tail] for tail in difflib.get_close_matches(key.rsplit(".", 1)[-1], tails, n=1, cutoff=0.7)]


def keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    """Every dotted key of a nested config, including those of its sections."""
    for name in config:
        key = prefix + str(name)
        yield key
        unknown = OmegaConf.is_missing(config, name) or OmegaConf.is_interpolation(config, name)  # type: ignore[arg-type]
        if not unknown and isinstance(config[name], DictConfig):
            yield from keys(config[name], f"{key}.")


def is_free(base: DictConfig, key: str) -> bool:
    """Whether `key` lies in a section of `base` whose keys the user chooses (a plain dict or an untyped node)."""
    parts = key.split(".")
    for depth in range(len(parts)):
        node = OmegaConf.select(base, ".".join(parts[:depth])) if depth else base
        if isinstance(node, DictConfig) and OmegaConf.get_type(node) in (dict, None):
            return True
        if not isinstance(node, DictConfig) or parts[depth] not in node:
            return False
    return False


def first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]

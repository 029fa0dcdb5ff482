"""Looks up methods by name: each `distsynth/methods/NAME.py` with a `configs/method/NAME.yaml` is one. Also checks whether a method fits a
variant."""

from __future__ import annotations

import difflib
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from distsynth.modalities import Variant
from distsynth.run_directory import CONFIGS
from preprocess.shared.errors import SettingError

if TYPE_CHECKING:  # torch is only loaded with the first method class: --help stays instant
    from distsynth.methods.contract import Method


class UnservedVariant(SettingError):
    """A method does not serve a variant."""


def names() -> list[str]:
    """The names of all methods. Imports none of them."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return [path.stem for path in files if (CONFIGS / "method" / f"{path.stem}.yaml").is_file()]


def method(name: str) -> type[Method]:
    """The class of a method. Raises SettingError, naming the known ones."""
    from distsynth.methods.contract import Method

    if name not in (known := names()):
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise SettingError(f"method.name={name!r} is not known: {hint}choose from {', '.join(known)}")
    for kind in vars(import_module(f"distsynth.methods.{name}")).values():
        if isinstance(kind, type) and issubclass(kind, Method) and getattr(kind, "Settings", None) and kind.Settings.name == name:
            return kind
    raise SettingError(f"distsynth/methods/{name}.py has no Method whose Settings have name={name!r}: add one")


def check(kind: type[Method], variant: Variant) -> None:
    """Raise UnservedVariant, naming alternatives, if the method cannot be trained for the variant."""
    if variant.kind not in kind.kinds:
        able = [name for name in names() if variant.kind in method(name).kinds]
        raise UnservedVariant(
            f"method {kind.Settings.name} serves {', '.join(kind.kinds)} and variant {variant.name} is {variant.kind}: choose such a variant, "
            f"for example variant={kind.kinds[0]}, or one of the methods {', '.join(able)}"
        )


def check_serves(trained: Method, variant: Variant) -> None:
    """Raise SettingError, naming alternatives, if a trained method cannot be used for another variant than its own."""
    if not trained.any_to_any:
        able = [name for name in names() if method(name).any_to_any]
        raise SettingError(
            f"method {trained.Settings.name} only synthesises the variant it was trained for, {trained.variant.name}: "
            f"{', '.join(able[:-1])} and {able[-1]} synthesise any of the contrasts they were trained with from any others"
        )
    check(type(trained), variant)

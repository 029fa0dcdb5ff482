"""Separates a benchmark's own settings from those of the training that it measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar

from preprocess.shared.settings import parse

T = TypeVar("T")


def split_words(schema: type[T], words: Sequence[str]) -> tuple[T, list[str]]:
    """The benchmark's settings, checked, and the words of the training. Raises SettingError."""
    kind: Any = schema
    own = {field.name for field in fields(kind)}
    mine = [word for word in words if word.partition("=")[0] in own]
    return parse(schema, mine), [word for word in words if word not in mine]

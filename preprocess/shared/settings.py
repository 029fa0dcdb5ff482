"""Settings: typed dataclasses whose defaults `key=value` words override, the same way for every command of the project.

    settings = parse(Settings, ["source=brats", "n4.iterations=50"])

Each component owns a dataclass whose fields are made with `setting(default, "what it is, with its unit")`. Before any work starts, an
unknown key is refused with the most similar known one, and a value of the wrong type with the right type.
"""

from __future__ import annotations

import dataclasses
import operator
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from preprocess.shared import signals
from preprocess.shared.errors import SettingError, UserError
from preprocess.shared.merging import first_line
from preprocess.shared.merging import merge as merge
from preprocess.shared.signals import listen
from preprocess.shared.words import dotlist, positional, refuse_misspelt

T = TypeVar("T")


BOUNDS = {
    "least": (operator.ge, "at least"),
    "above": (operator.gt, "above"),
    "most": (operator.le, "at most"),
    "below": (operator.lt, "below"),
}


def setting(default: Any, doc: str, **bounds: float) -> Any:
    """A dataclass field with its documentation and the bounds of its value: `least`, `above`, `most`, `below`.

    A list or dict as default is copied for each instance, and a type is called.
    """
    metadata = {"doc": doc, "bounds": bounds}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def required(doc: str) -> Any:
    """A dataclass field without a default: the command refuses to start unless it is given."""
    return setting(MISSING, doc)


def parse(schema: type[T], words: Sequence[str]) -> T:
    """The dataclass `schema` with its defaults overridden by `key=value` words, or by bare paths for those that `schema.POSITIONAL` names.

    Raises SettingError for a word that is not `key=value`, an unknown key, a missing value or one of the wrong type.
    """
    refuse_misspelt(words)
    words = positional(words, *getattr(schema, "POSITIONAL", ()))
    return complete(finish(merge(OmegaConf.structured(schema), dotlist(words, set(texts(schema)))), schema))


def texts(schema: Any, prefix: str = "") -> Iterator[str]:
    """The dotted keys of a dataclass's settings that are text."""
    for field in dataclasses.fields(schema):
        if dataclasses.is_dataclass(field.default_factory):
            yield from texts(field.default_factory, f"{prefix}{field.name}.")
        elif field.type in ("str", str):
            yield prefix + field.name


def finish(config: DictConfig, schema: type[T]) -> T:
    """The typed config as its dataclass, whose `__post_init__` checks run here. Raises SettingError for a missing value or one out of bounds."""
    try:
        settings = OmegaConf.to_object(config)
    except MissingMandatoryValue as error:
        key = error.full_key
        raise SettingError(f"setting {key} is missing: give {key}=… ({documentation(schema, str(key))})") from error
    except OmegaConfBaseException as error:
        raise SettingError(f"setting {error.full_key}: {first_line(error)}") from error
    assert isinstance(settings, schema)
    check_bounds(settings)
    return settings


def complete(settings: T, head: str = "") -> T:
    """The settings, if none that must be given is the empty text. Raises SettingError."""
    for field in dataclasses.fields(settings):  # type: ignore[arg-type]
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            complete(value, f"{head}{field.name}.")
        elif value == "" and field.default == MISSING:
            raise SettingError(f"{head}{field.name}= is empty: give {head}{field.name}=… ({field.metadata['doc']})")
    return settings


def check_bounds(settings: Any, head: str = "") -> None:
    """Raise SettingError for the first value out of its bounds, in a dataclass or in those nested in it."""
    for field in dataclasses.fields(settings):
        value, bounds = getattr(settings, field.name), field.metadata.get("bounds", {})
        if dataclasses.is_dataclass(value):
            check_bounds(value, f"{head}{field.name}.")
        elif not all(BOUNDS[name][0](value, bound) for name, bound in bounds.items()):
            must = " and ".join(f"{BOUNDS[name][1]} {bound}" for name, bound in bounds.items())
            raise SettingError(f"{head}{field.name}={value} must be {must}")


def documentation(schema: Any, key: str) -> str:
    """The documentation of the field `key` ("a.b") of a dataclass."""
    for field in dataclasses.fields(schema):
        head, _, rest = key.partition(".")
        if field.name == head:
            inner = field.default_factory if field.default_factory is not dataclasses.MISSING else None
            if rest and dataclasses.is_dataclass(inner):
                return documentation(inner, rest)
            return str(field.metadata.get("doc", ""))
    return ""


def describe(schema: Any, prefix: str = "", values: Mapping[str, Any] | None = None) -> Iterator[str]:
    """One line per setting, `key=default  doc`, for `--help`; `values` are defaults by dotted key that take the place of the schema's."""
    values = values or {}
    for field in dataclasses.fields(schema):
        if dataclasses.is_dataclass(field.default_factory):
            yield from describe(field.default_factory, f"{prefix}{field.name}.", values)
            continue
        default = field.default
        if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        default = values.get(prefix + field.name, default)
        shown = "" if default == MISSING else str(default)
        name = prefix + field.name.removesuffix("_")  # a word of Python's, such as continue
        yield f"  {f'{name}={shown}':<42} {field.metadata.get('doc', '')}"


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a nested mapping with its dotted key: `{"n4": {"spacing": 8}}` gives `("n4.spacing", 8)`."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The settings that differ between two nested mappings: `n4.spacing: 6.0 before, 4.0 now`."""
    before, now = dict(flatten(old, prefix)), dict(flatten(new, prefix))
    return [
        f"{key}: {before.get(key)} before, {now.get(key)} now"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]


def command(
    main: Callable[[list[str]], int],
    doc: str | None,
    schema: Any = None,
    explain: Callable[[list[str]], str] | None = None,
) -> None:
    """Run `main(words)` as a command.

    `--help` prints `doc` and the settings, those of `schema` or what `explain(words)` returns. A UserError is printed as one sentence, with exit
    status 2; Ctrl-C and SIGTERM end in one too, with 130 and 143.
    """
    words = sys.argv[1:]
    listen()
    try:
        if any(word in ("-h", "--help", "help") for word in words):
            print("\n\n".join([(doc or "").strip(), *helped(words, schema, explain)]))
            raise SystemExit(0)
        status = main(words)
        sys.stdout.flush()
        raise SystemExit(status)
    except BrokenPipeError:  # the reader of our output, such as head, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, KeyboardInterrupt) or signals.received:
            number = signals.received[0] if signals.received else signal.SIGINT
            print(signals.sentence_of(number), file=sys.stderr)
            raise SystemExit(128 + number) from None
        if not isinstance(error, UserError):
            raise
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def helped(words: Sequence[str], schema: Any, explain: Callable[[list[str]], str] | None) -> Iterator[str]:
    """The settings, for `--help`."""
    if explain is not None:
        yield explain([word for word in words if word not in ("-h", "--help", "help")])
    elif schema is not None:
        yield "\n".join(["settings (key=default):", *describe(schema)])

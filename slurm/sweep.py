"""A sweep: its runs, their names and their configurations."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distsynth import config as configuration
from distsynth.config import Config, compose
from distsynth.methods.registry import UnservedVariant
from distsynth.run_directory import RunDirectory
from preprocess.shared.errors import SettingError
from preprocess.shared.settings import differences, flatten, setting
from preprocess.shared.words import dotlist


@dataclass
class SweepSettings:
    """The product of the axes; each run's directory is runs/NAME/RUN."""

    name: str = setting("single", "the sweep's name and its folder under runs")
    axes: dict[str, Any] = setting({}, "setting: list of values; nested keys join to a dotted one")

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise SettingError("sweep.name= is empty: give the sweep a name, which is its folder under runs")
        if "%" in self.name or "\\" in self.name:  # Slurm and submitit replace %j and the like in the paths of the logs
            raise SettingError(f"sweep.name={self.name} must not hold % or a backslash")
        refuse_path("sweep.name", self.name)

    @property
    def of_pairs(self) -> bool:
        """Whether it varies both method and variant."""
        return {"method", "variant"} <= dict(flatten(self.axes)).keys()


@dataclass(frozen=True)
class Run:
    """One planned run."""

    name: str
    axes: dict[str, str]
    config: Config
    directory: RunDirectory


def plan(settings: SweepSettings, words: Sequence[str], runs: Path) -> list[Run]:
    """All runs, composed and checked. `words` are the settings that they share. A sweep over methods and variants leaves out the pairs that do not
    go together.

    Raises SettingError for an axis without values, a name that is no folder's, a setting that does not fit, a run directory that holds another
    configuration, or where no method serves any of the variants.
    """
    planned = []
    refuse_double(settings, words)
    for axes in product(settings.axes):
        try:
            config = compose([*words, *(f"{key}={value}" for key, value in axes.items())])
        except UnservedVariant:
            if not settings.of_pairs:
                raise
            continue
        axes = {key: named(value) for key, value in axes.items()}
        name = run_name(axes) or f"{config.variant.name}_{config.method.name}"
        refuse_path("a run's name", name)
        run = Run(name, axes, config, RunDirectory(runs / settings.name / name))
        check_unchanged(run)
        planned.append(run)
    if not planned:
        raise SettingError(
            f"sweep {settings.name}: none of the methods of sweep.axes.method serves any variant of sweep.axes.variant"
        )
    return planned


def refuse_path(what: str, name: str) -> None:
    """Raise SettingError for a name that is not that of one folder: nothing is written outside the folder of the runs."""
    if name in (".", "..") or "/" in name or not name.isprintable() or len(name.encode()) > 200:
        raise SettingError(f"{what}={name[:60]!r} must be the name of a folder: up to 200 characters, without / and line breaks")


def left_out(settings: SweepSettings, runs: Sequence[Run]) -> dict[str, list[str]]:
    """The variants that a plan has left out, by method."""
    if not settings.of_pairs:
        return {}
    planned = {(run.axes["method"], run.axes["variant"]) for run in runs}
    absent: dict[str, list[str]] = {}
    for method, variant in dict.fromkeys((named(axes["method"]), named(axes["variant"])) for axes in product(settings.axes)):
        if (method, variant) not in planned:
            absent.setdefault(method, []).append(variant)
    return absent


def refuse_double(settings: SweepSettings, words: Sequence[str]) -> None:
    """Raise SettingError for a word that sets what the sweep varies: one of the two would be ignored silently."""
    axes = dict(flatten(settings.axes))
    for word in words:
        key, _, value = word.partition("=")
        if key in axes:
            raise SettingError(f"{key} is an axis of sweep {settings.name}: give sweep.axes.{key}='[{value}]' in place of {word}")


def product(axes: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """Every combination of the axes' values, as words; one empty combination where there are no axes."""
    flat = dict(flatten(axes))
    for key, values in flat.items():
        if not isinstance(values, list | tuple) or not values:
            raise SettingError(f"sweep.axes.{key}={values} must be a list of values, for example sweep.axes.{key}='[1e-4,2e-4]'")
    for values in itertools.product(*flat.values()):
        yield {key: shown(value) for key, value in zip(flat, values, strict=True)}


def shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def named(value: str) -> str:
    """A group's member that is written out, {name: t1_t2, ...}, by its name; any other value unchanged."""
    return str(dotlist([f"member={value}"]).member.get("name", value)) if value.startswith("{") else value


def run_name(axes: Mapping[str, str]) -> str:
    """`simo_lr-0.0002`: groups by their member, settings by their last part."""
    parts = [value if key in configuration.GROUPS else f"{key.rsplit('.', 1)[-1]}-{value}" for key, value in axes.items()]
    return "_".join(part.replace("/", "-") for part in parts)


def check_unchanged(run: Run) -> None:
    """Raise SettingError if the run's directory holds another configuration, naming the first setting that differs."""
    if not run.directory.config.is_file():
        return
    from omegaconf import OmegaConf

    before = configuration.load(run.directory.config)  # with the defaults of settings that are newer than the run
    old, new = (OmegaConf.to_container(OmegaConf.create(configuration.to_yaml(each))) for each in (before, run.config))
    assert isinstance(old, dict)
    assert isinstance(new, dict)
    if differing := differences(old, new):  # type: ignore[arg-type]
        raise SettingError(
            f"{run.directory.path} holds a run with other settings ({'; '.join(differing[:3])}): give another sweep.name="
        )

"""The settings that say how files are named: to_zarr's, explore's and synthesise's, and what a store remembers of them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from preprocess.shared.settings import setting
from preprocess.source.brats import Discovery, discover

LAYOUT = (
    "how the files are named: brats2015, brats2018, brats2023, bids, msd, pattern, or auto, all of them but the pattern "
    "(empty: as the store remembers, else auto)"
)


@dataclass
class BidsSettings:
    """Choices among the files of a BIDS dataset."""

    run: Literal["", "first", "last"] = setting(
        "", "which of run-1, run-2 … to take: first or last (empty: such cases are set aside)"
    )


@dataclass(frozen=True)
class Naming:
    """How files are named; an empty layout is `auto`."""

    layout: str
    pattern: str
    names: Mapping[str, str]
    run: str

    @classmethod
    def given(cls, settings: Any, remembered: Mapping[str, Any]) -> Naming:
        """What a command was given or, where it was given nothing, what its store remembers. Layout, pattern and names belong together."""
        own = settings.layout or settings.pattern or settings.names
        of = {} if own else remembered
        layout, pattern = of.get("layout", settings.layout).lower(), of.get("pattern", settings.pattern)
        return cls(layout, pattern, of.get("names", settings.names), settings.bids.run or remembered.get("bids.run", ""))

    def stored(self) -> dict[str, Any]:
        """What a store remembers: all that is not the default."""
        layout = "" if self.layout == "auto" or self.pattern else self.layout
        named = {"layout": layout, "pattern": self.pattern, "names": dict(self.names), "bids.run": self.run}
        return {name: value for name, value in named.items() if value}

    def discover(self, source: Path) -> Discovery:
        """The cases of a folder. Raises UserError (see `preprocess.source.brats.discover`)."""
        return discover(source, self.layout or "auto", self.pattern, self.names, self.run)

    def __str__(self) -> str:
        """As the words of a command."""
        words = [f"{name}={value}" for name, value in self.stored().items() if name != "names"]
        return shlex.join([*words, *(f"names.{word}={kind}" for word, kind in self.names.items())])

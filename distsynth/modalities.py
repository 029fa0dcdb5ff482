"""The MRI contrasts, and the variants: which contrasts are given and which are synthesised. No other module names a contrast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from preprocess.shared.errors import SettingError, StoreError
from preprocess.shared.settings import required


class Modality(StrEnum):
    """One MRI contrast. `T1C` is T1 after gadolinium. The label map is not a modality."""

    T1 = "t1"
    T1C = "t1c"
    T2 = "t2"
    FLAIR = "flair"

    @property
    def title(self) -> str:  # type: ignore[override]
        """The name in figures and tables: T1, T1c, T2, FLAIR."""
        return "T1c" if self is Modality.T1C else self.value.upper()


@dataclass
class Variant:
    """Which modalities are given and which are synthesised, e.g. `simo`: t2 -> t1, t1c, flair (the report's section on its four variants)."""

    name: str = required("the variant's name in tables and run names")
    inputs: list[str] = required("modalities that are given, e.g. '[t1,t2]'")
    outputs: list[str] = required("modalities to synthesise, e.g. '[flair]'")

    def __post_init__(self) -> None:
        known = [m.value for m in Modality]
        for side, names in (("inputs", self.inputs), ("outputs", self.outputs)):
            if not names:
                raise SettingError(f"variant.{side} is empty: name at least one of {', '.join(known)}")
            for name in names:
                if name not in known:
                    raise SettingError(f"variant.{side} names {name!r}: modalities are {', '.join(known)}")
            if len(set(names)) < len(names):
                raise SettingError(f"variant.{side}={','.join(names)} names a modality twice")
        if both := set(self.inputs) & set(self.outputs):
            raise SettingError(f"variant {self.name}: {', '.join(sorted(both))} is both an input and an output")

    @property
    def modalities(self) -> list[str]:
        """All the modalities of the variant: the inputs, then the outputs."""
        return [*self.inputs, *self.outputs]

    @property
    def kind(self) -> str:
        """`siso`, `simo`, `miso` or `mimo`: single or multiple inputs and outputs."""
        return f"{'s' if len(self.inputs) == 1 else 'm'}i{'s' if len(self.outputs) == 1 else 'm'}o"

    @property
    def title(self) -> str:
        """The name in figures and tables: `T2 -> T1, T1c, FLAIR`."""
        return f"{', '.join(Modality(m).title for m in self.inputs)} -> {', '.join(Modality(m).title for m in self.outputs)}"


def channels(stored: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """The index of each wanted modality on the image's first axis. Raises StoreError if one is missing."""
    if missing := [m for m in wanted if m not in stored]:
        raise StoreError(f"a subject has {', '.join(stored)} but no {', '.join(missing)}: choose another variant or cohort")
    return [list(stored).index(m) for m in wanted]

"""What a trained model can make of what a patient has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distsynth.config import Config
from distsynth.methods import registry
from distsynth.modalities import Modality, Variant


@dataclass(frozen=True)
class Tasks:
    """Of one run: the variant that it was trained for or, with a method that goes from any contrasts to any others, every other one."""

    run: str  # its name, for messages
    trained: Variant
    any_to_any: bool
    one_input: bool  # the method takes one contrast at a time

    @classmethod
    def of(cls, run: str, config: Config) -> Tasks:
        kind = registry.method(config.method.name)
        one_input = not any(each.startswith("m") for each in kind.kinds)
        return cls(run, config.variant, kind.makes_any(config.method), one_input)

    @property
    def outputs(self) -> list[str]:
        """The contrasts that it can make."""
        return self.trained.modalities if self.any_to_any else self.trained.outputs

    def task(self, there: Sequence[str], outputs: Sequence[str]) -> Variant | None:
        """The variant that makes the `outputs` of the contrasts that are `there`; None if they are not enough."""
        if not set(outputs) <= set(self.outputs):
            return None
        if not self.any_to_any:
            return self.trained if set(self.trained.inputs) <= set(there) else None
        given = [m for m in self.trained.modalities if m in there and m not in outputs]
        if self.one_input:
            given = given[:1]  # the one that it was trained with is the first
        if not given or (given == self.trained.inputs and set(outputs) == set(self.trained.outputs)):
            return self.trained if given else None
        return Variant("_".join(["from", *given]), given, list(outputs))

    def needs(self, there: Sequence[str], wanted: Sequence[str]) -> str:
        """One sentence on why it cannot make the wanted contrasts of those that are there."""
        if impossible := [m for m in wanted if m not in self.outputs]:
            return f"{self.run} makes {listed(self.outputs)}, not {listed(impossible)}"
        least = "at least one other contrast" if self.any_to_any else listed(self.trained.inputs)
        return f"{self.run} makes {listed(wanted)} from {least}, and {f'there is only {listed(there)}' if there else 'no scan is given'}"


def listed(names: Sequence[str]) -> str:
    """T1, T2 and FLAIR."""
    titles = [Modality(name).title for name in names]
    return " and ".join([", ".join(titles[:-1]), titles[-1]] if len(titles) > 1 else titles)

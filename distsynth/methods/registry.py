"""The methods by name: the only place that knows them all."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import TYPE_CHECKING

from preprocess.shared.errors import SettingError

if TYPE_CHECKING:  # torch is loaded with the first method asked for: --help stays instant
    from distsynth.methods.contract import Method

METHODS = {
    "tcmgan": "distsynth.methods.tcmgan:TCMGAN",
    "cyclegan": "distsynth.methods.cyclegan:CycleGAN",
    "discogan": "distsynth.methods.discogan:DiscoGAN",
    "unit": "distsynth.methods.unit:UNIT",
    "unified_gan": "distsynth.methods.unified_gan:UnifiedGAN",
    "stargan": "distsynth.methods.stargan:StarGAN",
    "mmgan": "distsynth.methods.mmgan:MMGAN",
    "pix2pix": "distsynth.methods.pix2pix:Pix2Pix",
    "unet": "distsynth.methods.unet:UNetRegression",
    "segment": "distsynth.methods.segment:Segment",
}


def method(name: str) -> type[Method]:
    """The class of a method. Raises SettingError with the known names."""
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=1)
        raise SettingError(
            f"method.name={name!r} is not known: {'did you mean ' + near[0] + '? ' if near else ''}known are {', '.join(METHODS)}"
        )
    module, _, attribute = METHODS[name].partition(":")
    found: type[Method] = getattr(import_module(module), attribute)
    return found

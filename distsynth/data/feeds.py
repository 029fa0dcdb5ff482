"""Which feed a method takes: axial slices, or 3-D patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from distsynth.data.feed import Feed, Share
from distsynth.data.intensity_map import IntensityMap
from distsynth.data.patches import PatchFeed
from distsynth.data.settings import DataSettings
from distsynth.modalities import Variant
from preprocess.cohort import Cohort

if TYPE_CHECKING:
    from distsynth.methods.method import Method


def feed_of(method: Method, cohort: Cohort, subjects: Sequence[str], variant: Variant, mapping: IntensityMap, settings: DataSettings,
            size: tuple[int, int], share: Share) -> Feed:  # fmt: skip
    """The feed of some subjects as the method wants it; for `size` and `share`, and for what is raised, see `Feed` and `PatchFeed`."""
    if method.patch:
        return PatchFeed(cohort, subjects, variant, mapping, settings, method.patch, method.patches, share)
    return Feed(cohort, subjects, variant, mapping, settings, size, share, method.paired, method.incomplete)

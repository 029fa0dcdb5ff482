"""Variants say which contrasts are given and which are synthesised."""

import pytest

from distsynth.config import compose
from distsynth.modalities import Modality, Variant, channels
from preprocess.shared.errors import SettingError, StoreError


@pytest.mark.parametrize(
    ("name", "kind", "title"),
    [
        ("siso", "siso", "T1 -> T2"),
        ("simo", "simo", "T2 -> T1, T1c, FLAIR"),
        ("simo_t1", "simo", "T1 -> T2, T1c, FLAIR"),
        ("mimo", "mimo", "T1, T2 -> T1c, FLAIR"),
        ("miso_flair", "miso", "T1, T2 -> FLAIR"),
        ("miso_t1c", "miso", "T1, T2, FLAIR -> T1c"),
    ],
)
def test_the_reports_variants(name: str, kind: str, title: str) -> None:
    variant = compose([f"variant={name}"]).variant
    assert (variant.name, variant.kind, variant.title) == (name, kind, title)


@pytest.mark.parametrize(
    ("inputs", "outputs", "sentence"),
    [
        ([], ["t1"], "variant.inputs is empty"),
        (["t1"], [], "variant.outputs is empty"),
        (["t1"], ["t3"], "'t3': modalities are t1, t1c, t2, flair"),
        (["t1", "t1"], ["t2"], "names a modality twice"),
        (["t1", "t2"], ["t2"], "t2 is both an input and an output"),
    ],
)
def test_an_inconsistent_variant_is_refused(inputs: list[str], outputs: list[str], sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        Variant("own", inputs, outputs)


def test_channels_are_looked_up_by_name() -> None:
    assert channels(["flair", "t1", "t2"], ["t2", "flair"]) == [2, 0]
    with pytest.raises(StoreError, match="no t1c"):
        channels(["t1", "t2"], ["t1c"])


def test_names_in_figures_and_tables() -> None:
    assert [m.title for m in Modality] == ["T1", "T1c", "T2", "FLAIR"]

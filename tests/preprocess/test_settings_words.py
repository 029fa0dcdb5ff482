"""The words of a command line: `key=` is empty, spaces and dashes are answered with the right word, and a bare path has its obvious meaning."""

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from preprocess import to_zarr
from preprocess.shared.errors import SettingError
from preprocess.shared.settings import parse, required, setting
from preprocess.shared.words import dotlist, positional


@dataclass
class Inner:
    file: str = setting("", "a file")
    counts: list[int] = setting([], "numbers")


@dataclass
class Settings:
    name: str = setting("auto", "a text")
    kind: Literal["one", "two"] = setting("one", "a choice")
    words: dict[str, str] = setting({}, "texts by name")
    number: int = setting(3, "a number")
    wanted: Any = setting("all", "text or list")
    inner: Inner = setting(Inner, "")
    out: str = setting("x", "an output")


@dataclass
class Needy(Settings):
    store: str = required("the store")


def test_a_key_without_a_value_is_the_empty_text() -> None:
    settings = parse(Settings, ["name=", "inner.file=", "words.a=", "out="])
    assert (settings.name, settings.inner.file, settings.words, settings.out) == ("", "", {"a": ""}, "")
    assert parse(Settings, ["name=''", 'out=""']).name == ""
    assert parse(Settings, ["name=1_2"]).name == "1_2"


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("number=", "number= is empty: give it a value, for example number=3"),
        ("kind=", "kind= is empty: give it a value, for example kind=one"),
        ("wanted=", "wanted= is empty: give it a value, for example wanted=all"),
        ("inner.counts=", r"inner.counts= is empty: give it a value, for example 'inner.counts=\[\]'"),
        ("words=", "words= is empty: give it a value"),
        ("store=", r"store= is empty: give store=… \(the store\)"),
    ],
)
def test_a_setting_that_is_no_text_needs_a_value(word: str, sentence: str) -> None:
    with pytest.raises(SettingError, match=f"^{sentence}") as caught:
        parse(Needy, [word])
    assert "\n" not in str(caught.value)


def test_every_text_of_to_zarr_can_be_empty() -> None:
    for word in ("resample=", "split=", "pattern=", "part=", "recipe.resample=", "split.file="):
        parse(to_zarr.Settings, [to_zarr.aliased(word)])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["name", "=", "x"], "no spaces around =: write name=x"),
        (["name=", "x"], "no spaces around =: write name=x"),
        (["number=1", "name=", "x", "out=y"], "no spaces around =: write name=x"),
        (["name", "=x"], "no spaces around =: write name=x"),
        (["--name", "=", "x"], "no spaces around =: write name=x"),
        (["--name=x"], "write key=value without dashes: name=x in place of --name=x"),
        (["--name", "x"], "write key=value without dashes: name=x in place of --name"),
        (["-name", "out=y"], "write key=value without dashes: name=VALUE in place of -name"),
        (["--inner-file=x"], "write key=value without dashes: inner_file=x in place of --inner-file=x"),
        (["x"], "'x' is not a setting: write key=value, for example seed=1"),
    ],
)
def test_spaces_and_dashes_are_answered_with_the_word_as_it_should_be(words: list[str], sentence: str) -> None:
    with pytest.raises(SettingError) as caught:
        dotlist(words)
    assert str(caught.value) == sentence


def test_values_that_look_like_other_words_stay() -> None:
    assert dotlist(["a=-1", "b=--x", "c=x = y", "d="]) == {"a": -1, "b": "--x", "c": "x = y", "d": None}


def test_a_bare_path_is_the_first_setting_that_has_no_value() -> None:
    assert positional(["runs/first"], "run") == ["run=runs/first"]
    assert positional(["seed=1", "runs/first"], "run") == ["seed=1", "run=runs/first"]
    assert positional(["a", "b.zarr", "x=1"], "source", "store") == ["source=a", "store=b.zarr", "x=1"]
    assert positional(["source=a", "b.zarr"], "source", "store") == ["source=a", "store=b.zarr"]
    assert positional(["runs/lr=0.001"], "run") == ["run=runs/lr=0.001"]


def test_what_is_no_path_stays_for_the_sentence() -> None:
    for words in (["run", "=", "x"], ["run=", "x"], ["run", "=x"], ["--run", "x"], ["--run=x"], ["run=y", "x"], ["a.b=c"]):
        assert positional(words, "run") == words
    assert positional(["x"]) == ["x"]


@pytest.mark.parametrize("value", ["1,2,4", "[1,2,4]", "(1,2,4)", "1, 2, 4", "1 2 4", "1;2;4", "[1, 2, 4]"])
def test_a_list_needs_no_brackets(value: str) -> None:
    assert parse(to_zarr.Settings, [to_zarr.aliased(f"labels={value}")]).recipe.labels == [1, 2, 4]
    assert parse(Settings, [f"inner.counts={value}"]).inner.counts == [1, 2, 4]


def test_one_value_is_a_list_of_one_and_a_free_setting_keeps_its_text() -> None:
    settings = parse(to_zarr.Settings, ["require=t2", "recipe.labels=4", "recipe.crop=160,160,96"])
    assert (settings.require, settings.recipe.labels, settings.recipe.crop) == (["t2"], [4], [160, 160, 96])
    assert parse(to_zarr.Settings, ["recipe.crop=brain"]).recipe.crop == "brain"
    assert parse(Settings, ["wanted=a,b"]).wanted == "a,b"


@pytest.mark.parametrize("value", ["edema", "1,b", "1.5", "1-4", "1:2", "1:2,4", "{1,2}", "[1 2 4]", "[1,x]"])
def test_what_is_no_list_of_numbers_is_refused_with_one(value: str) -> None:
    sentence = r"recipe.labels must be a list of whole numbers: write recipe.labels=1,2,4 or recipe.labels='\[1,2,4\]'"
    with pytest.raises(SettingError, match=f"^{sentence}$"):
        parse(to_zarr.Settings, [f"recipe.labels={value}"])


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("names=T1post=t1c", "names is a group of settings: write names.NAME=VALUE"),
        ("recipe.n4=false", "recipe.n4 is a group of settings: write recipe.n4.enabled=…, recipe.n4."),
    ],
)
def test_a_value_in_the_place_of_a_group_is_answered_with_its_settings(word: str, sentence: str) -> None:
    with pytest.raises(SettingError) as caught:
        parse(to_zarr.Settings, [word])
    assert str(caught.value).startswith(sentence)

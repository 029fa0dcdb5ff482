"""The words of a command line: `key=value`, a path where there is one obvious meaning, and what was meant where a word is neither."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from preprocess.shared.errors import SettingError

SECTIONS = ("cluster.", "data.", "evaluate.", "method.", "recipe.", "split.", "sweep.", "train.", "variant.")  # no paths begin so
KEY = r"-*[A-Za-z_][\w.-]*"  # the name of a setting, perhaps with dashes before it


def dotlist(words: Sequence[str], texts: Collection[str] = ()) -> DictConfig:
    """`["a.b=1", "c=[x,y]"]` as a nested config. The value of a key among `texts`, or one that is not valid YAML, such as `{case}/*.nii`, is
    taken as text: `name=1_2` is not the number 12. Raises SettingError for a word that is not `key=value`."""
    refuse_misspelt(words)
    config = OmegaConf.create()
    for word in words:
        if "=" not in word or word.startswith("="):
            raise SettingError(f"'{word}' is not a setting: write key=value, for example seed=1")
        try:
            key, _, value = word.partition("=")
            # A case may be named 007, which YAML would read as an octal number, and 1:30 as 90.
            if (key in texts and "${" not in value) or re.fullmatch(r"0\d+|\d+(:\d+)+", value):
                quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
                OmegaConf.update(config, key, value[1:-1] if quoted else value)
            else:
                config.merge_with_dotlist([word])
        except OmegaConfBaseException as error:
            raise SettingError(f"cannot read the setting {word}: {str(error).strip().splitlines()[0]}") from error
        except Exception:  # YAML's
            OmegaConf.update(config, *word.split("=", 1))
    return config


def refuse_misspelt(words: Sequence[str]) -> None:
    """Raise SettingError for a setting with spaces around its `=`, or with dashes, giving the word as it should be."""
    for before, word, after in zip(["", *words], words, [*words[1:], ""], strict=False):
        if "=" not in word and after.startswith("="):
            value = after[1:] or next(iter(words[words.index(word) + 2 :]), "")
            raise SettingError(f"no spaces around =: write {word.lstrip('-')}={value}")
        if "=" not in word and re.fullmatch(KEY + "=", before):
            raise SettingError(f"no spaces around =: write {before.lstrip('-')}{word}")
        if "=" not in word and word.startswith(SECTIONS):
            raise SettingError(f"{word} lacks its value: write {word}={after if after and '=' not in after else 'VALUE'}")
        if word.startswith("-"):
            raise SettingError(f"write key=value without dashes: {undashed(word, after)} in place of {word}")


def undashed(word: str, after: str) -> str:
    """`--key=value`, `--key` or `-key` as a setting; the word `after` it may be its value."""
    key, equals, value = word.lstrip("-").partition("=")
    follows = after if after and "=" not in after and not after.startswith("-") else "VALUE"
    return f"{key.replace('-', '_')}={value if equals else follows}"


def positional(words: Sequence[str], *names: str) -> list[str]:
    """The words with each bare path as the first setting among `names` that has no value yet: with the names run and out,
    `runs/first out=model.zip` is `run=runs/first out=model.zip`. Other words stay as they are."""
    free = [name for name in names if not any(word.startswith(f"{name}=") for word in words)]
    paths = set(bare_paths(words))
    return [f"{free.pop(0)}={word}" if place in paths and free else word for place, word in enumerate(words)]


def bare_paths(words: Sequence[str]) -> Iterator[int]:
    """The places of the words that can only be a path: without `=`, or with a slash before it, as in `runs/lr=0.001`."""
    for place, (before, word, after) in enumerate(zip(["", *words], words, [*words[1:], ""], strict=False)):
        value = before.endswith("=") or after.startswith("=") or (before.startswith("-") and "=" not in before)
        if word and not value and not word.startswith(("-", "=")) and ("=" not in word or "/" in word.partition("=")[0]):
            yield place

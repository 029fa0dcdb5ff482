"""Configuration: composed from groups and words, typed, saved, and enough to repeat a run."""

from itertools import product
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from distsynth import config as configuration
from distsynth.config import GROUPS, compose, layers, load, save
from distsynth.methods import registry
from distsynth.methods.contract import Method
from distsynth.methods.tcmgan import TCMGANSettings
from distsynth.modalities import Variant
from distsynth.run_directory import CONFIGS
from preprocess.shared.errors import SettingError

VARIANTS = sorted(p.stem for p in (CONFIGS / "variant").glob("*.yaml"))
ALL = ("siso", "simo", "miso", "mimo")
SERVED = {
    "stargan": ("siso", "simo"),
    "unified_gan": ("siso", "simo"),
    **dict.fromkeys(("cyclegan", "discogan", "unit"), ("siso",)),
}
METHODS = sorted(p.stem for p in (CONFIGS / "method").glob("*.yaml"))


@pytest.mark.parametrize(("variant", "preset"), list(product(VARIANTS, METHODS)))
def test_every_shipped_variant_and_preset_composes(variant: str, preset: str) -> None:
    """Or is refused, where the method does not serve that kind of variant."""
    words = [f"variant={variant}", f"method={preset}"]
    name, inputs, outputs = (
        OmegaConf.select(layers(words, GROUPS), key) for key in ("method.name", "variant.inputs", "variant.outputs")
    )
    kind = Variant(variant, list(inputs), list(outputs)).kind
    served = SERVED.get(name, ALL)
    if kind in served:
        compose(words)
    else:
        able = ", ".join(other for other in registry.names() if kind in SERVED.get(other, ALL))
        said = f"method {name} serves {', '.join(served)} and variant {variant} is {kind}: choose such a variant, for example variant=siso, or"
        with pytest.raises(SettingError, match=f"{said} one of the methods {able}$"):
            compose(words)


def test_words_win_over_presets_and_presets_over_defaults() -> None:
    assert compose([]).train.batch == 1
    assert compose(["method=tcmgan_authors"]).train.batch == 64
    assert compose(["method=tcmgan_authors", "train.batch=8"]).train.batch == 8


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["train.lrr=1"], r"unknown setting train.lrr: did you mean train.lr\?"),
        (["lr=1e-4"], "unknown setting lr: did you mean train.lr"),
        (["method.generator.widht=8"], "did you mean method.generator.width"),
        (["train.epochs=many"], "setting train.epochs: .*'many'"),
        (["train.precision=half"], "setting train.precision"),
        (["train.lr=-1"], "train.lr=-1.0 must be above 0"),
        (["train.epochs=0"], "train.epochs=0 must be at least 1"),
        (["variant=simoo"], "variant=simoo is not known: did you mean simo"),
        (["method=tcgan"], "method=tcgan is not known: did you mean tcmgan"),
        (["method.name=pix3pix"], "method.name='pix3pix' is not known"),
        (["data.external.test=a"], "data.external.test cannot name a cohort: val and test are splits"),
        (["data.external={../a: b}"], r"data.external.../a cannot name a cohort"),
        (["method.weights.gp=-1"], "method.weights.gp=-1.0 must be at least 0"),
        (["method.weights.gp=.nan"], "method.weights.gp=nan must be at least 0"),
        (["method.segmentor.batch=0"], "method.segmentor.batch=0 must be at least 1"),
        (["nonsense"], "'nonsense' is not a setting: write key=value"),
        (["method.critic.width=0"], "method.critic.width=0 must be at least 1"),
        (["train.schedule.epochs=[1,2]"], "schedule.epochs has 2 entries and schedule.shares 0"),
    ],
)
def test_a_bad_setting_is_one_sentence_that_names_it(words: list[str], sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence) as caught:
        compose(words)
    assert "\n" not in str(caught.value)


def test_a_method_refuses_a_variant_it_does_not_serve() -> None:
    class Single(Method):  # type: ignore[misc]
        Settings = TCMGANSettings
        kinds = ("siso",)

    registry.check(Single, compose(["variant=siso"]).variant)
    with pytest.raises(SettingError, match="serves siso and variant mimo is mimo"):
        registry.check(Single, compose(["variant=mimo"]).variant)


def test_the_saved_config_repeats_the_run_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = compose(["variant=mimo", "train.lr=3e-4", "data.store=some.zarr", "data.external.real=real.zarr"])
    save(made, tmp_path / "config.yaml")
    monkeypatch.chdir("/")
    assert load(tmp_path / "config.yaml") == made
    assert made.data.store == str(tmp_path / "some.zarr")
    assert made.data.external == {"real": str(tmp_path / "real.zarr")}
    assert configuration.to_yaml(load(tmp_path / "config.yaml")) == (tmp_path / "config.yaml").read_text()


def test_an_own_variant_needs_no_file() -> None:
    config = compose(["variant={name: mine, inputs: [flair], outputs: [t1c]}"])
    assert config.variant.title == "FLAIR -> T1c"


@pytest.mark.parametrize(
    ("word", "name"), [("evaluate.floors=false", "evaluate.baselines"), ("train.insight=false", "train.timing")]
)
def test_a_renamed_setting_is_refused_with_its_new_name(word: str, name: str) -> None:
    with pytest.raises(SettingError, match=f"is called {name} now"):
        compose([word])


def test_a_key_without_a_value_is_the_empty_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = compose(["train.init_from=", "evaluate.judge=", "data.store=s.zarr", "data.external.real=", "data.external.b=b.zarr"])
    assert (made.train.init_from, made.evaluate.judge, made.data.external) == ("", "", {"b": str(tmp_path / "b.zarr")})
    assert compose(["train.init_from=1_2"]).train.init_from == str(tmp_path / "1_2")
    for word, sentence in (
        ("data.store=", "data.store= is empty: give data.store=…"),
        ("train.epochs=", "train.epochs= is empty: give it a value, for example train.epochs=200"),
        ("train.freeze=", "train.freeze= is empty: give it a value, for example 'train.freeze="),
        ("train.schedule.name=", "train.schedule.name= is empty: give it a value, for example train.schedule.name=constant"),
        ("method=", "method= is not known: choose from"),
    ):
        with pytest.raises(SettingError) as caught:
            compose([word])
        assert str(caught.value).startswith(sentence)


def test_the_help_lists_the_settings_of_a_method_as_its_preset_has_them() -> None:
    general, own = configuration.settings_help([]), configuration.settings_help(["method=unet_small"])
    assert "  run= " in general
    assert "  train.init_from= " in general
    assert "method.width" not in general
    for line in ("  run= ", "  method.width=16 ", "  train.epochs=", "  method.norm=instance "):
        assert line in own
    preset = compose(["method=unet_small"])
    assert f"  train.lr={preset.train.lr} " in own
    with pytest.raises(SettingError, match=r"method=pix3pix is not known: did you mean pix2pix\?"):
        configuration.settings_help(["method=pix3pix"])

"""`train.init_from` and `train.freeze`: whose weights are taken over, and which stay as they are, through updates and a resume."""

import signal
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from workbench import trainer_of

from distsynth.bench.synthetic import noise
from distsynth.config import Config, compose, save
from distsynth.data.cohorts import trained_on
from distsynth.methods.contract import Method
from distsynth.methods.registry import method as registered
from distsynth.ranks.preemption import Stopped
from distsynth.ranks.world import World
from distsynth.run_directory import RunDirectory
from distsynth.training import checkpoint
from distsynth.training.engine import Engine
from distsynth.training.finetune import begin_from, train_but_frozen
from preprocess.cohort import Cohort
from preprocess.shared.errors import SettingError, StoreError

UNET = ["method=unet", "method.width=4", "method.depth=3"]
PIX2PIX = ["method=pix2pix", "method.generator.width=4", "method.generator.depth=3", "method.discriminator.width=4",
           "method.discriminator.layers=2", "train.lr=0.01"]  # fmt: skip
ALONE = World(0, 1, 0, torch.device("cpu"))


def make(*words: str) -> tuple[Method, Config]:
    config = compose(list(words))
    return registered(config.method.name)(config.method, config.variant, (32, 32), config.seed), config


@pytest.fixture
def unet(tmp_path: Path, store: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A run of `unet` on the cohort, and its best weights."""
    return run_of_unet(tmp_path / "unet", store)


def run_of_unet(path: Path, store: Path, *words: str) -> tuple[Path, dict[str, torch.Tensor]]:
    method, config = make(*UNET, f"data.store={store}", *words)
    state = {name: value + 0.01 for name, value in method.state_dict().items()}  # no bias is 0, as it is in the beginning
    made_from = {"store": trained_on(Cohort.open(store, config.data.fold), config.variant).digest[:12]}
    checkpoint.save({"method": state, "made_from": made_from}, RunDirectory(path).checkpoints / "best.pt")
    save(config, RunDirectory(path).config)
    return path, state


def test_weights_of_the_same_name_and_shape_are_taken_over(unet: tuple[Path, dict[str, torch.Tensor]], store: Path) -> None:
    run, given = unet
    method, config = make(*PIX2PIX, f"train.init_from={run}", f"data.store={store}")
    before = deepcopy(method.state_dict())
    said = begin_from(method, config, Cohort.open(store))
    assert said == f"{len(given)} of {len(before)} weights from {run}, the others, of discriminator, start from new weights"
    for name, value in method.state_dict().items():
        assert torch.equal(value, given.get(name, before[name])), name
        assert name not in given or not torch.equal(before[name], given[name])


def test_another_shape_begins_anew(unet: tuple[Path, dict[str, torch.Tensor]], store: Path) -> None:
    """Two outputs in place of three: the last layer is another."""
    run, given = unet
    two = "variant={name: two, inputs: [t2], outputs: [t1, flair]}"
    method, config = make(*UNET, two, f"train.init_from={run}", f"data.store={store}")
    before = deepcopy(method.state_dict())
    begin_from(method, config, Cohort.open(store))
    anew = {name for name, value in method.state_dict().items() if torch.equal(value, before[name])}
    assert anew == {name for name, value in given.items() if value.shape != before[name].shape} != set()


def test_less_than_half_of_the_weights_is_refused_unless_it_is_wanted(
    unet: tuple[Path, dict[str, torch.Tensor]], store: Path
) -> None:
    """The run of a narrower network gives only the last biases, and the training would start from scratch without a word."""
    wide = ["method=unet", "method.width=8", "method.depth=3", f"train.init_from={unet[0]}", f"data.store={store}"]
    method, config = make(*wide)
    before = deepcopy(method.state_dict())
    with pytest.raises(SettingError) as caught:
        begin_from(method, config, Cohort.open(store))
    everything = sum(value.numel() for value in before.values())
    assert str(caught.value) == (
        f"train.init_from={unet[0]} gives only 3 of this method's {everything:,} weights, and none or not all of generator: "
        "give a run of the same method and widths, or train.init_partial=true to start the others new"
    )
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    method, config = make(*wide, "train.init_partial=true")
    assert begin_from(method, config, Cohort.open(store)).startswith("1 of ")


def test_a_run_that_fits_nothing_or_has_no_weights_is_refused(
    unet: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path, store: Path
) -> None:
    method, config = make("method=segment", "method.width=2", f"train.init_from={unet[0]}")
    before = deepcopy(method.state_dict())
    with pytest.raises(SettingError, match=r"none of its \d+ weights has a name and shape of this method's"):
        begin_from(method, config, Cohort.open(store))
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    method, config = make(*PIX2PIX, f"train.init_from={tmp_path / 'nowhere'}")
    with pytest.raises(StoreError, match=r"nowhere/checkpoints/best\.pt is not a readable checkpoint"):
        begin_from(method, config, Cohort.open(store))


@pytest.mark.parametrize(
    "frozen", [["generator.down"], ["generator.up.0", "discriminator.body.0"], ["discriminator.body.2.weight"]]
)
def test_frozen_weights_stay_and_all_others_move(frozen: list[str], store: Path) -> None:
    """Those of the discriminator too, which the generator's loss freezes and releases at every update."""
    method, config = make(*PIX2PIX, f"train.freeze=[{','.join(frozen)}]")
    said = begin_from(method.train(), config, Cohort.open(store))
    before = deepcopy(method.state_dict())
    (stage,) = method.stages(config.train)
    engine = Engine(method, stage, config.train, ALONE)
    for seed in range(3):
        stage.update(noise(config.variant, 2, (32, 32), seed), engine)
    stayed = {name for name, value in method.state_dict().items() if torch.equal(value, before[name])}
    assert stayed == {name for name in before if any(name == start or name.startswith(start + ".") for start in frozen)} != set()
    assert said == f"{len(stayed)} weights are frozen"


def test_the_statistics_of_a_frozen_batch_norm_stay_too(store: Path) -> None:
    method, config = make(*PIX2PIX, "method.norm=batch", "train.freeze=[generator.down]")
    begin_from(method, config, Cohort.open(store))
    train_but_frozen(method)
    before = deepcopy(method.state_dict())
    (stage,) = method.stages(config.train)
    stage.update(noise(config.variant, 2, (32, 32)), Engine(method, stage, config.train, ALONE))
    moved = {
        name
        for name, value in method.state_dict().items()
        if name.endswith("running_mean") and not torch.equal(value, before[name])
    }
    assert moved == {name for name in before if name.endswith("running_mean") and not name.startswith("generator.down.")} != set()
    assert sum(name.endswith("running_mean") for name in before) > len(moved)


def test_a_name_is_not_the_beginning_of_another(store: Path) -> None:
    """generator.up.1 is frozen, generator.up.10 would not be."""
    method, config = make(*UNET, "method.depth=1", "train.freeze=[generator.u]")
    with pytest.raises(
        SettingError, match=r"names 'generator\.u', which matches no weight: choose from generator\.down, generator\.up"
    ):
        begin_from(method, config, Cohort.open(store))


def test_a_network_with_nothing_left_to_train_is_refused(store: Path) -> None:
    method, config = make(*PIX2PIX, "train.freeze=[generator.down, discriminator]")
    with pytest.raises(SettingError, match=r"train\.freeze=.* leaves discriminator nothing to train: freeze less"):
        begin_from(method, config, Cohort.open(store))


def begin_on_its_cohort(method: Method, config: Config) -> str:
    return begin_from(method, config, Cohort.open(config.data.store, config.data.fold))


def test_weights_that_may_know_held_out_patients_are_refused(
    phantoms: Path, store: Path, run: Callable[..., Any], tmp_path: Path
) -> None:
    """Those of another fold and of the cohort before it was split anew; those of another cohort are warned of."""
    folds, words = tmp_path / "folds.zarr", [*UNET, f"data.store={tmp_path / 'folds.zarr'}"]
    copytree(store, folds)

    def split(*how: str) -> None:
        assert not run("preprocess.to_zarr", f"source={phantoms}", f"store={folds}", "recipe.n4.iterations=[5]", *how).returncode

    split("split.folds=3")
    given, _ = run_of_unet(tmp_path / "run", folds, "data.fold=1")
    refused = (
        r"train\.init_from=.*run was trained on fold 1 of .*folds\.zarr, or before it was split again, and may have seen patients"
    )
    method, config = make(*words, f"train.init_from={given}", "data.fold=1")
    assert "warning" not in begin_on_its_cohort(method, config)
    method, config = make(*words, f"train.init_from={given}", "data.fold=2")
    with pytest.raises(SettingError, match=refused):
        begin_on_its_cohort(method, config)
    copytree(folds, moved := tmp_path / "moved.zarr")
    split("split.folds=3", "split.seed=5")
    method, config = make(*words, f"train.init_from={given}", "data.fold=1")
    with pytest.raises(SettingError, match=refused):
        begin_on_its_cohort(method, config)
    method, config = make(*UNET, f"data.store={moved}", f"train.init_from={given}", "data.fold=1")
    assert "warning" not in begin_on_its_cohort(method, config)
    method, config = make(*UNET, f"data.store={moved}", f"train.init_from={given}", "data.fold=0")
    with pytest.raises(SettingError, match=refused):
        begin_on_its_cohort(method, config)
    method, config = make(*UNET, f"data.store={store}", f"train.init_from={given}")
    assert f"warning: it was trained on {folds}: if patients of that are held out here" in begin_from(
        method, config, Cohort.open(config.data.store, config.data.fold)
    )


def test_a_frozen_segmentor_judges_as_it_is(store: Path) -> None:
    method, config = make("method=tcmgan", "method.generator.width=2", "method.critic.width=2", "method.segmentor.width=2",
                          "method.segmentor.epochs=0", "train.freeze=[segmentor]")  # fmt: skip
    begin_from(method, config, Cohort.open(store))
    (stage,) = method.stages(config.train)
    before = deepcopy(method.state_dict())
    engine = Engine(method, stage, config.train, ALONE)
    engine.update(noise(config.variant, 2, (32, 32)))
    assert {"g_seg", "d_loss"} <= (losses := engine.losses_since_last(1)).keys()
    assert "s_loss" not in losses
    moved = {name.split(".")[0] for name, value in method.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"generator", "critic"}
    method, config = make("method=tcmgan", "method.segmentor.width=2", "train.freeze=[segmentor]")
    with pytest.raises(SettingError, match="leaves pretraining nothing to train"):
        begin_from(method, config, Cohort.open(store))


def test_what_is_taken_over_can_be_frozen(unet: tuple[Path, dict[str, torch.Tensor]], store: Path) -> None:
    run, given = unet
    method, config = make(*PIX2PIX, f"train.init_from={run}", "train.freeze=[generator.down]", f"data.store={store}")
    assert begin_from(method, config, Cohort.open(store)).endswith("start from new weights; 5 weights are frozen")
    kept = {name for name, p in method.named_parameters() if not p.requires_grad}
    assert kept == {name for name in given if name.startswith("generator.down.")}
    assert all(torch.equal(method.state_dict()[name], given[name]) for name in kept)


def trained(run: Path, store: Path, words: list[str], stop: int = 0) -> dict[str, torch.Tensor]:
    """The weights after training, or after the update at which it is asked to stop."""
    config = compose([*words, f"data.store={store}", "train.epochs=2", "train.steps_per_epoch=4", "train.batch=2"])
    trainer = trainer_of(config, RunDirectory(run))
    agree = trainer.agree
    trainer.agree = lambda number, due: agree(signal.SIGTERM if trainer.at.total == stop else number, due)  # type: ignore[method-assign]
    try:
        trainer.fit()
    except Stopped:
        assert stop
    found = checkpoint.newest(run / "checkpoints")
    assert found is not None
    weights: dict[str, torch.Tensor] = found[0]["method"]
    return weights


def test_a_run_with_frozen_weights_that_was_stopped_ends_the_same(
    unet: tuple[Path, dict[str, torch.Tensor]], store: Path, tmp_path: Path
) -> None:
    run, given = unet
    words = [*PIX2PIX, f"train.init_from={run}", "train.freeze=[generator.down]"]
    through = trained(tmp_path / "through", store, words)
    trained(tmp_path / "stopped", store, words, stop=3)
    run.rename(run.with_name("moved"))  # a resumed run needs it no more
    stopped = trained(tmp_path / "stopped", store, words)
    assert all(torch.equal(stopped[name], value) for name, value in through.items())
    moved = {name for name, value in given.items() if not torch.equal(value, through[name])}
    assert moved == {name for name in given if not name.startswith("generator.down.")}

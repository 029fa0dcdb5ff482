"""Sweeps: their runs, checked before any of them starts."""

from pathlib import Path
from typing import Any

import pytest

from distsynth import config as configuration
from preprocess.shared.errors import SettingError
from slurm.cluster import ClusterSettings, slurm_parameters
from slurm.launch import read_words
from slurm.sweep import SweepSettings, left_out, plan, product


def test_the_shipped_sweep_is_twelve_runs(tmp_path: Path) -> None:
    launch, shared = read_words(["sweep=lr"])
    runs = plan(launch.sweep, shared, tmp_path)
    assert len(runs) == len({run.name for run in runs}) == 12
    assert {run.config.variant.name for run in runs} == {"simo", "mimo", "miso_flair", "miso_t1c"}
    assert {run.config.train.lr for run in runs} == {1e-4, 2e-4, 5e-4}
    assert {run.directory.path.parent for run in runs} == {tmp_path / "lr"}
    assert runs[0].name == "simo_lr-0.0001"


def test_the_pairs_are_every_contrast_from_every_other(tmp_path: Path) -> None:
    """Variants that are written out in the sweep go by their names."""
    launch, shared = read_words(["sweep=pairs", "method=unified_gan_small"])
    runs = plan(launch.sweep, shared, tmp_path)
    contrasts = ("t1", "t1c", "t2", "flair")
    assert {run.name for run in runs} == {f"{a}_{b}" for a in contrasts for b in contrasts if a != b}
    for run in runs:
        variant = run.config.variant
        assert run.name == variant.name == run.axes["variant"] == f"{variant.inputs[0]}_{variant.outputs[0]}"
        assert (variant.kind, run.config.method.name) == ("siso", "unified_gan")


def test_every_methods_small_preset_is_compared_on_the_variants_that_it_serves(tmp_path: Path) -> None:
    launch, shared = read_words(["sweep=methods", "data.store=x", "sweep.axes.seed=[0,1]", "sweep.axes.data.fold=[0,1,2]"])
    runs = plan(launch.sweep, shared, tmp_path)
    presets = {path.stem for path in (configuration.CONFIGS / "method").glob("*_small.yaml")}
    assert {run.axes["method"] for run in runs} == presets
    absent = left_out(launch.sweep, runs)
    assert absent["cyclegan_small"] == ["simo", "mimo", "miso_t1c"]
    assert absent["stargan_small"] == ["mimo", "miso_t1c"]
    assert "tcmgan_small" not in absent
    assert len(runs) == (4 * len(presets) - sum(map(len, absent.values()))) * 2 * 3
    assert "unit_small_siso_seed-1_fold-2" in {run.name for run in runs}
    assert {(run.config.seed, run.config.data.fold) for run in runs} == {(seed, fold) for seed in (0, 1) for fold in (0, 1, 2)}


def test_a_pair_that_does_not_go_together_is_left_out_only_of_a_sweep_over_both(tmp_path: Path) -> None:
    written_out = [{"name": "t1_t2", "inputs": ["t1"], "outputs": ["t2"]}, "mimo"]
    settings = SweepSettings(name="s", axes={"method": ["unit_small", "unet_small"], "variant": written_out})
    runs = plan(settings, [], tmp_path)
    assert [run.name for run in runs] == ["unit_small_t1_t2", "unet_small_t1_t2", "unet_small_mimo"]
    assert left_out(settings, runs) == {"unit_small": ["mimo"]}
    for axes, words in (({"method": ["unet_small", "unit_small"]}, ["variant=mimo"]), ({"variant": ["siso", "mimo"]}, ["method=unit_small"]),
                        ({}, ["method=unit_small", "variant=mimo"]),
                        ({"method": {"generator": {"width": [4, 8]}}, "variant": ["siso", "mimo"]}, ["method=unit_small"])):  # fmt: skip
        with pytest.raises(SettingError, match="method unit serves siso and variant mimo is mimo"):
            plan(SweepSettings(name="s", axes=axes), words, tmp_path)


def test_settings_need_to_suit_only_the_methods_of_the_sweep(tmp_path: Path) -> None:
    """tcmgan, the default method, has more epochs than this learning rate lasts."""
    settings = SweepSettings(name="s", axes={"method": ["unet_small"], "variant": ["siso"]})
    (run,) = plan(settings, ["train.schedule={name: linear, flat: 20, decay: 10}"], tmp_path)
    assert run.name == "unet_small_siso"


def test_words_reach_the_launcher_or_the_runs() -> None:
    launch, shared = read_words(["sweep=lr", "cluster=local", "cluster.ranks=1", "seed=3", "method=tcmgan_small", "runs=out"])
    assert (launch.sweep.name, launch.cluster.kind, launch.cluster.ranks, launch.runs) == ("lr", "local", 1, "out")
    assert shared == ["seed=3", "method=tcmgan_small"]


def test_axes_can_be_given_as_words(tmp_path: Path) -> None:
    launch, shared = read_words(["sweep.name=own", "sweep.axes.method.generator.depth=[2,3]", "sweep.axes.seed=[0,1]"])
    names = [run.name for run in plan(launch.sweep, shared, tmp_path)]
    assert names == ["depth-2_seed-0", "depth-2_seed-1", "depth-3_seed-0", "depth-3_seed-1"]


def test_no_axes_is_one_run(tmp_path: Path) -> None:
    assert [run.name for run in plan(SweepSettings(), ["variant=mimo"], tmp_path)] == ["mimo_tcmgan"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["sweep=lrr"], "sweep=lrr is not known: did you mean lr"),
        (["cluster=slrm"], "cluster=slrm is not known: did you mean slurm"),
        (["cluster.rnks=2"], r"unknown setting cluster.rnks: did you mean cluster.ranks\?"),
        (["cluster.ranks=0"], "cluster.ranks=0 must be at least 1"),
        (["cluster.gpus=4"], "cluster.gpus=4 must be 0 or 1"),
        (["cluster=local", "cluster.nodes=2"], "cluster.nodes=2 needs Slurm"),
        (["dry_run=perhaps"], "setting dry_run"),
        (["dry_run="], "dry_run= is empty: give it a value, for example dry_run=false"),
        (["sweep.name="], "sweep.name= is empty: give the sweep a name"),
        (["sweep.axes.seed="], "sweep.axes.seed=None must be a list of values"),
        (["sweep=lr", "--data.store=x"], "write key=value without dashes: data.store=x in place of --data.store=x"),
        (["sweep", "=", "lr"], "no spaces around =: write sweep=lr"),
        (["sweep.axes.train.lr=5"], r"sweep.axes.train.lr=5 must be a list of values"),
        (["sweep.axes.train.lr=[]"], r"sweep.axes.train.lr=\[\] must be a list of values"),
        (["sweep.axes.train.lrr=[1]"], r"did you mean train.lr\?"),
        (["sweep=lr", "train.epochs=many"], "setting train.epochs"),
        (["sweep=lr", "train.lr=1e-3"], r"train.lr is an axis of sweep lr: give sweep.axes.train.lr='\[1e-3\]' in place of"),
        (["sweep=lr", "variant=mimo"], "variant is an axis of sweep lr"),
        (["sweep=methods", "sweep.axes.method=[tcmgann]"], "method=tcmgann is not known: did you mean tcmgan"),
        (
            ["sweep=methods", "sweep.axes.method=[unit_small]", "sweep.axes.variant=[simo,mimo]"],
            "serves any variant of sweep.axes.variant",
        ),
        (
            ["sweep=methods", "sweep.axes.method=[unet_small,tcmgan_small]", "method.weights.gp=1"],
            "unknown setting method.weights",
        ),
        (["sweep=methods", "sweep.axes.variant=[{name: odd, inputs: [t1], outputs: [t1]}]"], "t1 is both an input and an output"),
        (["sweep=methods", "seed=5"], r"seed is an axis of sweep methods: give sweep.axes.seed='\[5\]' in place of seed=5"),
        (["sweep=methods", "data.fold=2"], r"give sweep.axes.data.fold='\[2\]' in place of data.fold=2"),
        (["sweep=methods", "sweep.axes.seed=[]"], r"sweep.axes.seed=\[\] must be a list of values"),
    ],
)
def test_a_bad_word_is_one_sentence(words: list[str], sentence: str, tmp_path: Path) -> None:
    def read_and_plan() -> None:
        launch, shared = read_words(words)
        plan(launch.sweep, shared, tmp_path)

    with pytest.raises(SettingError, match=sentence) as caught:
        read_and_plan()
    assert "\n" not in str(caught.value)


def test_a_run_directory_of_other_settings_is_not_overwritten(tmp_path: Path) -> None:
    settings = SweepSettings(name="s", axes={"seed": [0]})
    (run,) = plan(settings, [], tmp_path)
    configuration.save(run.config, run.directory.config)
    plan(settings, [], tmp_path)
    with pytest.raises(SettingError, match=r"holds a run with other settings \(.*epochs.*\): give another sweep.name="):
        plan(settings, ["train.epochs=3"], tmp_path)


def test_the_product_is_in_order_and_keeps_small_numbers_readable() -> None:
    axes: dict[str, Any] = {"variant": ["a", "b"], "train": {"lr": [1e-4, 0.5]}}
    assert [tuple(p.values()) for p in product(axes)] == [("a", "0.0001"), ("a", "0.5"), ("b", "0.0001"), ("b", "0.5")]


def test_the_settings_in_slurms_words() -> None:
    settings = ClusterSettings(kind="slurm", nodes=2, ranks=4, gpus=1, cpus=6, partition="gpu", parallel=3, extra={"qos": "low"})
    parameters = slurm_parameters(settings, "name")
    assert parameters["nodes"] == 2
    assert parameters["ntasks_per_node"] == parameters["gpus_per_node"] == 4
    assert parameters["partition"] == "gpu"
    assert parameters["array_parallelism"] == 3
    assert parameters["additional_parameters"] == {"requeue": True, "qos": "low"}
    assert "account" not in parameters
    assert parameters["mem"] == "16GB"


def test_an_empty_memory_is_the_sites_own() -> None:
    for word in ("cluster.memory=", "cluster.memory=''"):
        launch, _ = read_words([word, "cluster.extra.mem-per-cpu=4G", "cluster.partition="])
        assert launch.cluster.memory == ""
        assert "mem" not in slurm_parameters(launch.cluster, "name")


def test_a_run_of_a_version_with_fewer_settings_is_not_of_other_settings(tmp_path: Path) -> None:
    """A setting that is new has its default."""
    settings = SweepSettings(name="s", axes={"seed": [0]})
    (run,) = plan(settings, [], tmp_path)
    configuration.save(run.config, run.directory.config)
    lines = run.directory.config.read_text().splitlines(keepends=True)
    assert [line.strip() for line in lines if "init_partial" in line] == ["init_partial: false"]
    run.directory.config.write_text("".join(line for line in lines if "init_partial" not in line))
    plan(settings, [], tmp_path)


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "..", ".", " ", "", "a/b", "a\nb", "a\x1bb", "a%jb", "a\\b", "x" * 300])
def test_no_name_leads_out_of_the_folder_of_the_runs(name: str) -> None:
    with pytest.raises(SettingError, match=r"^sweep\.name=") as caught:
        SweepSettings(name=name)
    assert str(caught.value).isprintable()


def test_nor_does_a_runs_name(tmp_path: Path) -> None:
    inline = SweepSettings(name="s", axes={"variant": ["{name: .., inputs: [t1], outputs: [t2]}"]})
    for settings, words in ((inline, []), (SweepSettings(name="s"), ["variant.name=../../x"])):
        with pytest.raises(SettingError, match=r"a run's name=.* must be the name of a folder"):
            plan(settings, ["method=unet_small", *words], tmp_path)

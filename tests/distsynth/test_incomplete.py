"""Patients who lack contrasts train the methods that take them: what the feed gives, who is validated and scored, and what is said of it."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from workbench import trainer_of

from distsynth import config as configuration
from distsynth import evaluate, preflight
from distsynth.config import Config, compose
from distsynth.data.cohorts import trained_on
from distsynth.data.intensity_map import IntensityMap
from distsynth.data.slices import SliceFeed
from distsynth.evaluation.scoring import evaluate as score
from distsynth.evaluation.table import write_table
from distsynth.methods import registry
from distsynth.ranks.world import World
from distsynth.run_directory import RunDirectory
from distsynth.tracking.journal import read
from distsynth.train import prepare
from distsynth.training import checkpoint
from distsynth.training.model import build, restore
from distsynth.training.validation import scores_of
from preprocess import to_zarr
from preprocess.cohort import Cohort
from preprocess.shared.errors import SettingError, StoreError

CPU = World(0, 1, 0, torch.device("cpu"))
# Of ten patients, by place: what they lack, and where they are.
LACKING = {0: ("t2",), 1: ("t1c", "flair"), 2: ("t1c", "t2", "flair"), 6: ("t2",), 8: ("flair",)}
SPLITS = ("gan",) * 6 + ("val",) * 2 + ("test",) * 2
SUFFIX = {"t1c": "t1ce"}  # as BRATS 2018 names it
FEW = ["train.epochs=2", "train.steps_per_epoch=4", "train.batch=4", "evaluate.baselines=false", "evaluate.figures=1"]
TINY = {
    "stargan": ["method=stargan_small", "method.generator.width=4", "method.generator.blocks=1", "method.critic.width=4"],
    "mmgan": ["method=mmgan_small", "method.generator.width=4", "method.discriminator.width=4"],
}


@pytest.fixture(scope="module")
def names(phantoms: Path) -> list[str]:
    return sorted(folder.name for folder in phantoms.glob("?GG/*"))


@pytest.fixture(scope="module")
def gappy(phantoms: Path, names: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cohort of the phantoms with the gaps of LACKING."""
    return cohort_without(LACKING, phantoms, names, tmp_path_factory.mktemp("gappy"))


def cohort_without(
    lacking: dict[int, tuple[str, ...]], phantoms: Path, names: list[str], place: Path, n4: str = "enabled=false"
) -> Path:
    for case in phantoms.glob("?GG/*"):
        folder = place / "source" / case.parent.name / case.name
        folder.mkdir(parents=True)
        gone = [f"_{SUFFIX.get(name, name)}." for name in lacking.get(names.index(case.name), ())]
        for path in case.iterdir():
            if not any(end in path.name for end in gone):
                (folder / path.name).symlink_to(path)
    rows = [f"{split},{name}" for split, name in zip(SPLITS, names, strict=True)]
    (place / "split.csv").write_text("\n".join(["split,subject", *rows]))
    words = [f"recipe.n4.{n4}", "workers=1", "require=[t1]", f"split.file={place / 'split.csv'}"]
    assert to_zarr.main([f"source={place / 'source'}", f"store={place / 'c.zarr'}", *words]) == 0
    return place / "c.zarr"


def config_for(store: Path, *words: str) -> Config:
    return compose([f"data.store={store}", "variant=simo_t1", *FEW, *words])


def train(store: Path, run: Path, *words: str) -> RunDirectory:
    config, directory = config_for(store, *words), RunDirectory(run)
    prepare(directory, config)
    trainer_of(config, directory).fit()
    return directory


def left_out(config: Config) -> str:
    return preflight.check(config, 1).left_out


@pytest.fixture(scope="module", params=["stargan", "mmgan"])
def trained(request: pytest.FixtureRequest, gappy: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return train(gappy, tmp_path_factory.mktemp(request.param) / "run", *TINY[request.param])


# -- the feed ----------------------------------------------------------------------------------------------------------


def test_the_feed_says_what_each_slices_patient_has(gappy: Path, names: list[str]) -> None:
    config = config_for(gappy, "method=mmgan")
    cohort = trained_on(Cohort.open(gappy), config.variant, incomplete=True)
    taken = cohort.split("gan")
    assert taken == [names[i] for i in (0, 1, 3, 4, 5)]  # the third has one contrast alone
    mapping = IntensityMap.of(cohort, taken)
    feed = SliceFeed(cohort, taken, config.variant, mapping, config.data, (40, 40), CPU.share, incomplete=True)
    batch = next(feed.batches("synthesis", 0, 0, len(feed), range(1), 0, 1))
    present = batch.more["present"]
    assert present.shape == (len(feed), 4)
    images = torch.cat([batch.sources, batch.targets], 1)
    assert torch.equal((images > -1).flatten(2).any(2).float(), present)
    rows = {tuple(row) for row in present.tolist()}  # t1, t2, t1c, flair
    assert rows == {(1, 1, 1, 1), (1, 0, 1, 1), (1, 1, 0, 0)}
    assert ((images > -1).any(1, keepdim=True) <= (batch.brain > 0)).all()
    lacking = (present.sum(1) < 4).nonzero()[:, 0]
    assert (batch.brain[lacking].flatten(1).sum(1) > 0).all()  # the brain is that of what they have
    halves = [next(feed.batches("synthesis", 0, 0, 8, range(1, 2), rank, 2)).more["present"] for rank in (0, 1)]
    assert torch.equal(torch.cat(halves), next(feed.batches("synthesis", 0, 0, 8, range(1, 2), 0, 1)).more["present"])


def test_a_method_that_needs_all_gets_none_who_lacks_one(gappy: Path, names: list[str]) -> None:
    config = config_for(gappy, "method=tcmgan_small")
    cohort = trained_on(Cohort.open(gappy), config.variant)
    assert cohort.split("gan") == [names[i] for i in (3, 4, 5)]
    feed = SliceFeed(cohort, cohort.split("gan"), config.variant, IntensityMap.of(cohort, cohort.split("gan")), config.data, (40, 40),
                CPU.share)  # fmt: skip
    assert "present" not in next(feed.batches("joint", 0, 0, 4, range(1), 0, 1)).more


def test_what_is_said_of_those_who_lack_a_contrast(gappy: Path) -> None:
    """The launcher and the trainer print this sentence."""
    sentence = (
        f"1 of 10 subjects of {gappy} have fewer than two contrasts of variant simo_t1 and are left out; "
        "4 more lack a contrast of variant simo_t1: they are trained on what they have, and scored only where a split has no complete ones"
    )
    assert left_out(config_for(gappy, "method=mmgan")) == sentence
    (siso,) = (compose([f"data.store={gappy}", "variant=siso", "method=stargan"]),)
    assert left_out(siso) == (f"3 of 10 subjects of {gappy} have fewer than two contrasts of variant siso and are left out")
    whole = left_out(config_for(gappy, "method=unet_small"))
    assert whole == f"5 of 10 subjects of {gappy} lack a contrast of variant simo_t1 and are left out"


# -- the training ------------------------------------------------------------------------------------------------------


def test_it_trains_and_complete_patients_alone_are_scored(
    trained: RunDirectory, gappy: Path, names: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = configuration.load(trained.config)
    assert trainer_of(config, RunDirectory(tmp_path / "again")).patients("val", "validation") == [names[7]]
    assert "4 more lack a contrast" in capsys.readouterr().out
    scores = score(config, preflight.check(config, 1), trained, CPU)
    assert {name: cohort["subjects"] for name, cohort in scores["cohorts"].items()} == {"val": [names[7]], "test": [names[9]]}


def test_groups_are_found_in_the_cohort_and_come_back_with_the_checkpoint(trained: RunDirectory, gappy: Path) -> None:
    config = configuration.load(trained.config)
    state = checkpoint.load(trained.checkpoints / "best.pt")
    assert state["held"] == [["t1", "t2", "t1c", "flair"], ["t1", "t1c", "flair"], ["t1", "t2"]]
    model = restore(config, state)
    if config.method.name == "stargan":
        assert model.method.settings.groups == state["held"]
        assert model.method.critic.classifier.out_channels == 4 + 3 + 2
        assert model.method.generator.first.in_channels == 1 + 9 + 3


def test_a_contrast_that_no_training_patient_has_is_refused(phantoms: Path, names: list[str], tmp_path: Path) -> None:
    store = cohort_without(dict.fromkeys(range(6), ("flair",)), phantoms, names, tmp_path)
    config = config_for(store, "method=mmgan")
    cohort = trained_on(Cohort.open(store), config.variant, incomplete=True)
    with pytest.raises(StoreError, match=r"no training patient of cohort .* has flair, which variant simo_t1 needs"):
        build(config, cohort, IntensityMap.of(cohort, cohort.split("gan")))


def test_validation_without_a_patient_that_can_be_scored_is_refused(phantoms: Path, names: list[str], tmp_path: Path) -> None:
    store = cohort_without({6: ("t2",), 7: ("t2", "flair")}, phantoms, names, tmp_path)
    with pytest.raises(
        StoreError, match="has no patients with the inputs and an output of variant simo in split val for validation"
    ):
        train(store, tmp_path / "run", *TINY["mmgan"], "variant=simo")


# -- nobody has all ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def disjoint(phantoms: Path, names: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cohorts in one, of the recipe of `store`: every other patient has T1 and T2, the rest T1, T1c and FLAIR."""
    lacking = {place: ("t2",) if place % 2 else ("t1c", "flair") for place in range(10)}
    return cohort_without(lacking, phantoms, names, tmp_path_factory.mktemp("disjoint"), "iterations=[5]")


@pytest.mark.parametrize("kind", ["stargan", "mmgan"])
def test_where_nobody_has_all_each_is_scored_on_what_it_has(kind: str, disjoint: Path, names: list[str], tmp_path: Path) -> None:
    run = train(disjoint, tmp_path / "sweep" / "run", *TINY[kind])
    (held,) = [line["values"] for line in read(run.journal)[0] if "val/t2/brain/psnr" in line.get("values", {})][-1:]
    config = configuration.load(run.config)
    config = replace(config, data=replace(config.data, external={"all": str(disjoint)}))
    scores = score(config, preflight.check(config, 1), run, CPU)
    assert sorted(
        {(row["cohort"], row["subject"], row["modality"]) for row in scores["rows"] if row["cohort"] != "all"}
    ) == sorted(
        (split, names[place], modality)
        for split, places in (("val", (6, 7)), ("test", (8, 9)))
        for place in places
        for modality in (("t1c", "flair") if place % 2 else ("t2",))
    )
    assert len(scores["cohorts"]["all"]["subjects"]) == 10
    best = scores["cohorts"]["val"]["scores"]
    for modality in ("t2", "t1c", "flair"):  # by what the checkpoint was chosen
        assert best[modality]["brain"]["synthesised"]["psnr"]["n"] == 1
        assert held[f"val/{modality}/brain/psnr"] > 0
    assert len(list(run.figures.glob("test_*.png"))) == 1
    assert "| T1c" in write_table(run.path.parent)


def test_another_cohorts_patients_are_scored_on_what_they_have(store: Path, disjoint: Path, tmp_path: Path) -> None:
    """Of any method; what no patient of it can be scored on is refused before training."""
    words = ["method=unet_small", "method.width=4", f"data.external.other={disjoint}"]
    run = train(store, tmp_path / "run", *words, "evaluate.baselines=true")
    config = configuration.load(run.config)
    found = score(config, preflight.check(config, 1), run, CPU)["cohorts"]["other"]
    counts = {m: regions["brain"]["synthesised"]["psnr"]["n"] for m, regions in found["scores"].items()}
    assert counts == {"t2": 5, "t1c": 5, "flair": 5}
    assert {"copy", "voxelwise"} <= set(found["scores"]["t2"]["brain"])
    with pytest.raises(StoreError, match=r"no subject of cohort .* has t1, t2, flair and one of t1c"):
        train(store, tmp_path / "refused", *words, "variant=miso_t1c")


# -- other variants ----------------------------------------------------------------------------------------------------


def test_a_trained_run_is_scored_on_every_task_of_its_contrasts(
    trained: RunDirectory, capsys: pytest.CaptureFixture[str], read_files: Counter[Path]
) -> None:
    """Its cohort is read once for all of them."""
    kind = configuration.load(trained.config).method.name
    words = [f"run={trained.path}", "evaluate.baselines=false", "evaluate.figures=0"]
    assert evaluate.main(words) == 0
    own = trained.scores.read_bytes()
    read_files.clear()
    assert evaluate.main([*words, "variant=every"]) == 0
    assert set(read_files.values()) == {1}
    assert len(read_files) == 1 + 10
    found = {path.parent.name: json.loads(path.read_text()) for path in trained.evaluation.glob("*/scores.json")}
    tasks = {name: list(scores["cohorts"]["test"]["scores"]) for name, scores in found.items()}
    assert len(tasks) == {"stargan": 4, "mmgan": 14}[kind]
    assert tasks["from_flair"] == ["t1", "t1c", "t2"]
    assert "from_flair: FLAIR -> T1, T1c, T2" in capsys.readouterr().out
    assert trained.scores.read_bytes() == own
    same = found["from_t1"]["cohorts"]["test"]["scores"]["t2"]["brain"]["synthesised"]["psnr"]["mean"]
    assert same == pytest.approx(json.loads(own)["cohorts"]["test"]["scores"]["t2"]["brain"]["synthesised"]["psnr"]["mean"])


def test_one_other_variant_by_its_name_or_its_contrasts(trained: RunDirectory) -> None:
    kind = configuration.load(trained.config).method.name
    words = [f"run={trained.path}", "evaluate.baselines=false"]
    assert evaluate.main([*words, "variant=simo"]) == 0
    assert list((trained.figures / "simo").glob("*.png"))
    assert evaluate.main([*words, "variant.name=back", "variant.inputs=[t2]", "variant.outputs=[t1]"]) == 0
    assert (trained.evaluation / "back" / "scores.json").is_file()
    if kind == "mmgan":
        assert evaluate.main([*words, "variant=miso_t1c"]) == 0
    else:
        with pytest.raises(SettingError, match="method stargan serves siso, simo and variant miso_t1c is miso"):
            evaluate.main([*words, "variant=miso_t1c"])


@pytest.mark.parametrize(("words", "sentence"), [
    (["variant.inputs=[t2]", "variant.outputs=[t1]"], "variant.name=simo_t1 is taken by the run's own variant"),
    (["variant.name=a/b", "variant.outputs=[t2]"], "variant.name=a/b is taken by the run's own variant or is no folder name"),
    (["train.lr=1"], "only data.store, data.external.NAME, evaluate.* and variant can"),
    (["variant=everything"], "variant=everything is not known"),
])  # fmt: skip
def test_what_cannot_be_scored_is_refused(trained: RunDirectory, words: list[str], sentence: str) -> None:
    with pytest.raises(SettingError) as refused:
        evaluate.main([f"run={trained.path}", *words])
    assert sentence in str(refused.value)


def test_a_method_that_learns_one_task_is_refused_another(gappy: Path, tiny: tuple[str, ...], tmp_path: Path) -> None:
    words = ["method.segmentor.epochs=0"]
    config = compose([f"data.store={gappy}", *tiny, *words])
    method = build(config, Cohort.open(gappy).having(config.variant.modalities), mapping_of(gappy, config)).method
    expected = (
        "method tcmgan only synthesises the variant it was trained for, simo: mmgan, stargan and unified_gan synthesise any"
    )
    with pytest.raises(SettingError, match=expected):
        registry.check_serves(method, compose(["variant=simo_t1"]).variant)


def mapping_of(store: Path, config: Config) -> IntensityMap:
    cohort = trained_on(Cohort.open(store), config.variant)
    return IntensityMap.of(cohort, cohort.split("gan"))


# -- patients without a segmentation -----------------------------------------------------------------------------------


def test_patients_without_a_segmentation_train_no_segmentor(phantoms: Path, names: list[str], tmp_path: Path) -> None:
    """Nor a generator that is to show tumours; they are validated and scored on."""
    store = cohort_without({0: ("seg",), 3: ("seg",), 6: ("seg",)}, phantoms, names, tmp_path / "some")
    words = ["method=tcmgan_small", "method.segmentor.epochs=0", "train.epochs=1", f"data.store={store}"]
    assert left_out(config_for(store, *words)) == (
        "2 of 6 training subjects have no segmentation, from which the method learns, and are left out"
    )
    assert left_out(config_for(store, "method=unet_small")) == ""
    trainer = trainer_of(config_for(store, *words), RunDirectory(tmp_path / "run"))
    assert trainer.patients("gan", "training") == [names[i] for i in (1, 2, 4, 5)]
    assert trainer.patients("val", "validation") == [names[i] for i in (6, 7)]
    trainer.fit()
    segment = compose(["method=segment_small", "method.width=2", "variant=simo_t1", f"data.store={store}", "train.epochs=1"])
    with pytest.raises(StoreError, match=f"cohort {store} has no patients in split segmentor for stage segmentor"):
        trainer_of(segment, RunDirectory(tmp_path / "none"))
    cohort = trained_on(Cohort.open(store), segment.variant)
    model = build(segment, cohort, IntensityMap.of(cohort, cohort.split("gan")))
    (stage,) = model.method.stages(segment.train)
    found = [scores_of(model, stage, cohort, names[i], True, CPU.device) for i in (6, 7)]
    assert found[0] == {}
    assert found[1].keys() == {"t2/tumour/dice", "t1c/tumour/dice", "flair/tumour/dice"}


def test_a_cohort_without_segmentations_trains_no_tumour_method(phantoms: Path, names: list[str], tmp_path: Path) -> None:
    store = cohort_without(dict.fromkeys(range(10), ("seg",)), phantoms, names, tmp_path / "none")
    words = ["method=tcmgan_small", "method.segmentor.epochs=0"]
    with pytest.raises(StoreError, match=f"cohort {store} has no patients with a segmentation in split gan for training"):
        trainer_of(config_for(store, *words), RunDirectory(tmp_path / "run"))
    trainer_of(config_for(store, "method=unet_small"), RunDirectory(tmp_path / "unet"))

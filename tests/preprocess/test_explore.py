"""Explore: one page that contains everything, the recipe's own stages, and no name that breaks the page."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from preprocess import to_zarr
from preprocess.cohort import Cohort
from preprocess.explore.__main__ import main
from preprocess.explore.pictures import augmentations, fullest_slice
from preprocess.explore.report import brain_mm
from preprocess.explore.sample import chosen, examples, histograms, label_ml, losses
from preprocess.explore.stages import repeated, stored
from preprocess.shared.errors import SettingError, StoreError
from preprocess.source.brats import discover

ODD_NAME = 'é <b>&amp; "x" $y_1$'
FIGURES = ["augmentations", "clip", "contrasts", "crop", "intensities", "split", "stages", "volumes"]
CaseWriter = Callable[..., dict[str, Path]]


def cohort_of(folder: Path, *words: str) -> Path:
    """The store made of the cases in `folder`, beside it; without N4 unless asked for."""
    store = folder.with_name(folder.name + ".zarr")
    to_zarr.main([f"source={folder}", f"store={store}", "workers=1", "recipe.n4.enabled=false", *words])
    return store


class Page(HTMLParser):
    """What a browser would show and load."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.attributes if key == name]


@pytest.fixture
def cases(tmp_path: Path, write_case: CaseWriter) -> Path:
    """Three cases: two HGG, and one with a difficult name and without a segmentation."""
    folder = tmp_path / "some cases"
    write_case(folder / "HGG", "a", seed=0)
    write_case(folder / "HGG", "b", seed=1)
    write_case(folder / "LGG", ODD_NAME, seed=2, seg=False)
    return folder


def test_the_page_contains_everything_and_escapes_every_name(
    cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = cohort_of(cases)
    assert main([str(store), f"source={cases}", f"subject={ODD_NAME}"]) == 0
    out = tmp_path / "some cases_explore"
    page = Page(out / "index.html")
    assert sorted(path.stem for path in out.glob("*.png")) == FIGURES
    assert page.tags.count("img") == page.tags.count("b") == len(FIGURES)  # each caption's number is bold, and nothing else is
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    assert all(value.startswith("data:image/png;base64,") for value in page.values("src"))
    assert page.values("href") == [f"#{anchor}" for anchor in page.values("id")]
    assert not re.search(r"https?:|url\(|@import|srcset", page.source)
    assert page.text.count(ODD_NAME) == 4  # its flag, two captions and the command
    assert ODD_NAME in capsys.readouterr().out
    assert "to the last bit" in page.text
    assert "images of 3" in page.text


def test_one_subject_without_source_or_segmentation_is_shown_from_the_store(tmp_path: Path, write_case: CaseWriter) -> None:
    files = write_case(tmp_path / "cases", "a", seg=False)
    files["t1c"].unlink()
    store = cohort_of(tmp_path / "cases", "require=[t2]", "split.test=1")
    assert main([f"store={store}", f"out={tmp_path / 'out'}"]) == 0
    page = Page(tmp_path / "out/index.html")
    assert page.tags.count("img") == len(FIGURES) - 2
    assert "Nothing is odd." in page.text
    assert "Only from the store" in page.text
    assert "T1c (0)" in page.text


def test_large_cohorts_are_sampled_evenly_over_the_grades(tmp_path: Path, write_case: CaseWriter) -> None:
    for number in range(6):
        write_case(tmp_path / "cases" / ("HGG" if number < 4 else "LGG"), f"s{number}", seed=number, size=12)
    cohort = Cohort.open(cohort_of(tmp_path / "cases"))
    assert chosen(cohort, 3) == ["s1", "s3", "s5"]
    assert chosen(cohort, 40) == cohort.subjects
    assert len(histograms(cohort, chosen(cohort, 3), {})["t1"].after) == 3
    assert {cohort.record(s).grade for s in examples(cohort, cohort.subjects)} == {"HGG", "LGG"}


def test_the_stages_are_those_of_the_pipeline_bit_for_bit(
    tmp_path: Path, write_case: CaseWriter, rewrite: Callable[..., None]
) -> None:
    files = write_case(tmp_path / "cases", "a")
    n4 = ("recipe.n4.enabled=true", "recipe.n4.iterations=[5]", "recipe.n4.spacing=16", "recipe.spacing=5")
    cohort = Cohort.open(cohort_of(tmp_path / "cases", *n4))
    (case,) = discover(tmp_path / "cases").cases
    stages = repeated(cohort, case)
    assert stages.same
    np.testing.assert_array_equal(stages.result, cohort.image("a").astype(np.float16))
    assert stages.bias is not None
    assert np.ptp(stages.bias[:, stages.mask]) > 0
    rewrite(files["t1"], lambda array: array * (1 + 0.1 * np.linspace(0, 1, len(array)))[:, None, None])
    assert not repeated(cohort, case).same


def test_the_store_gives_the_corrected_intensities_back(tmp_path: Path, write_case: CaseWriter) -> None:
    write_case(tmp_path / "cases", "a")
    cohort = Cohort.open(cohort_of(tmp_path / "cases", "recipe.dtype=float32"))
    (case,) = discover(tmp_path / "cases").cases
    from_store, whole = stored(cohort, "a"), repeated(cohort, case)
    np.testing.assert_allclose(from_store.corrected, whole.corrected, rtol=1e-5)
    assert from_store.bounds == whole.bounds
    assert from_store.bias is None


def test_volumes_are_of_the_scans_grid_and_extents_of_the_whole_brain(tmp_path: Path, write_case: CaseWriter) -> None:
    files = write_case(tmp_path / "cases", "a", size=52)
    import nibabel as nib

    brain = np.asarray(nib.load(files["t1"]).dataobj) != 0
    tumour = np.asarray(nib.load(files["seg"]).dataobj) > 0
    cohort = Cohort.open(cohort_of(tmp_path / "cases", "recipe.spacing=8", "recipe.crop=[140,140,140]"))
    assert label_ml(cohort.record("a")) == {"oedema": pytest.approx(tumour.sum() * 0.064)}
    ((subject, share),) = losses(cohort)
    assert share > 0
    wide = 4.0 * int(brain.any(axis=(1, 2)).sum())
    sizes = brain_mm(cohort.record(subject))
    assert sizes == pytest.approx([wide] * 3, abs=8)
    assert min(sizes) > 140  # larger than the crop


def test_a_tumour_beside_the_brain_does_not_choose_the_slice() -> None:
    brain, labels = np.zeros((4, 6, 6), bool), np.zeros((4, 6, 6), np.uint8)
    brain[1:3, 2:4] = True
    labels[0, :2] = 1
    assert fullest_slice(labels, brain) == 1
    labels[2, 2, 2] = 1
    assert fullest_slice(labels, brain) == 2


def test_the_augmentations_are_those_of_training() -> None:
    from distsynth.data.augmentation import augment
    from distsynth.data.randomness import sample_keys
    from distsynth.settings import DataSettings

    image = np.random.default_rng(0).normal(size=(6, 6)).astype(np.float32)
    many = augment(
        np.repeat(image[None, None], 200, axis=0), sample_keys(np.arange(200), 0), DataSettings(flip=True, rotate=True)
    )
    assert {turned.tobytes() for turned in augmentations(image).values()} == {made[0].tobytes() for made in many}
    assert len(augmentations(image)) == len({made.tobytes() for made in many})


def test_impossible_settings_are_refused_before_any_work(tmp_path: Path, write_case: CaseWriter) -> None:
    write_case(tmp_path / "cases", "a", size=12)
    write_case(tmp_path / "others", "b", size=12)
    store = cohort_of(tmp_path / "cases")
    with pytest.raises(SettingError, match="lies inside the store"):
        main([str(store), f"out={store / 'figures'}"])
    with pytest.raises(SettingError, match="subjects=0"):
        main([str(store), "subjects=0"])
    with pytest.raises(StoreError, match="c is not in the manifest"):
        main([str(store), "subject=c"])
    with pytest.raises(StoreError, match="does not hold a's t1, t1c, t2, flair, which"):
        main([str(store), f"source={tmp_path / 'others'}"])
    with pytest.raises(StoreError, match="does not exist"):
        main([str(tmp_path / "nowhere.zarr")])
    assert not list(tmp_path.glob("*_explore"))

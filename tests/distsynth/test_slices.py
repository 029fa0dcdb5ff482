"""The feed of slices: which slices are in a batch is a pure function of seed, stage, epoch and position."""

from pathlib import Path

import numpy as np
import pytest
import torch

from distsynth.config import compose
from distsynth.data.augmentation import augment
from distsynth.data.batch import Batch
from distsynth.data.cohorts import read_image
from distsynth.data.intensity_map import IntensityMap
from distsynth.data.randomness import key, permutation, sample_keys, uniform
from distsynth.data.slices import SliceFeed, centre, pad
from distsynth.ranks.world import World
from distsynth.settings import DataSettings
from preprocess.cohort import BACKGROUND, Cohort
from preprocess.shared.errors import SettingError

WORLD = World(0, 1, 0, torch.device("cpu"))
Fields = ("sources", "targets", "brain", "tumour")


@pytest.fixture(scope="module")
def feed(store: Path) -> SliceFeed:
    return make_feed(store)


def make_feed(store: Path, **settings: bool | float) -> SliceFeed:
    cohort = Cohort.open(store)
    mapping = IntensityMap.of(cohort, cohort.split("gan"))
    chosen = DataSettings(store=str(store), **settings)  # type: ignore[arg-type]
    return SliceFeed(cohort, cohort.split("gan"), compose(["variant=mimo"]).variant, mapping, chosen, (40, 40), WORLD.share)


def same(first: Batch, second: Batch) -> bool:
    return all(torch.equal(getattr(first, f), getattr(second, f)) for f in Fields) and (first.keys == second.keys).all()


def test_two_ranks_see_together_what_one_sees(feed: SliceFeed) -> None:
    (whole,) = feed.batches("joint", 3, 0, 6, range(2, 3), 0, 1)
    halves = [next(feed.batches("joint", 3, 0, 6, range(2, 3), rank, 2)) for rank in (0, 1)]
    for field in Fields:
        assert torch.equal(torch.cat([getattr(h, field) for h in halves]), getattr(whole, field))
    assert (np.concatenate([h.keys for h in halves]) == whole.keys).all()


def test_a_resumed_epoch_continues_with_the_same_batches(feed: SliceFeed) -> None:
    through = list(feed.batches("joint", 1, 0, 4, range(5), 0, 1))
    resumed = list(feed.batches("joint", 1, 0, 4, range(3, 5), 0, 1))
    assert all(same(a, b) for a, b in zip(through[3:], resumed, strict=True))


def test_seed_stage_and_epoch_each_change_the_order(feed: SliceFeed) -> None:
    first = next(feed.batches("joint", 0, 0, 8, range(1), 0, 1))
    for stage, epoch, seed in (("joint", 1, 0), ("segmentor", 0, 0), ("joint", 0, 1)):
        assert not same(first, next(feed.batches(stage, epoch, seed, 8, range(1), 0, 1)))


def test_an_epoch_holds_every_slice_once(feed: SliceFeed) -> None:
    order = permutation(len(feed), 0, "joint", "order", 0)
    assert sorted(order) == list(range(len(feed)))
    assert feed.steps(4) == len(feed) // 4
    assert feed.steps(4, limit=3) == 3


def test_intensities_lie_in_the_networks_range_and_the_marker_in_none(feed: SliceFeed) -> None:
    batch = next(feed.batches("joint", 0, 0, len(feed), range(1), 0, 1))
    for images in (batch.sources, batch.targets):
        assert images.min() == -1
        assert images.max() <= 1
        assert (images[(batch.brain == 0).expand_as(images)] == -1).all()
    assert set(batch.brain.unique().tolist()) == {0, 1}
    assert ((batch.tumour == 1) <= (batch.brain == 1)).all()
    assert batch.tumour.sum() > 0


def test_a_slice_equals_the_cohorts(store: Path) -> None:
    """Without augmentation, a slice mapped back to z-scores is the stored slice, clipped."""
    plain = make_feed(store, flip=False, rotate=False, min_brain=0.0)
    cohort = Cohort.open(store)
    subject = cohort.split("gan")[0]
    image = cohort.image(subject)
    z = image.shape[1] // 2
    bounds = cohort.record(subject).intensity["t2"]
    stored = image[cohort.modalities.index("t2"), z]
    clipped = np.clip(stored, bounds["clip_low"], bounds["clip_high"])
    served = plain.cut(np.array([z]), sample_keys(np.array([0]), 0)).sources[0, 1].numpy()[centre(stored.shape, (40, 40))]
    mapping = IntensityMap.of(cohort, cohort.split("gan"))
    back = mapping.to_z(served[None], ["t2"])[0]
    inside = stored != BACKGROUND
    assert back[inside] == pytest.approx(clipped[inside], abs=0.01)
    assert (served[~inside] == -1).all()


def test_flips_and_rotations_move_all_channels_alike() -> None:
    slices = np.arange(60 * 3 * 5 * 5, dtype=np.float32).reshape(60, 3, 5, 5)
    settings = DataSettings(store="", flip=True, rotate=True)
    keys = sample_keys(np.arange(60), 7)
    augmented = augment(slices, keys, settings)
    seen = set()
    for before, after in zip(slices, augmented, strict=True):
        options = {
            (flip, turn): np.rot90(before[..., ::-1] if flip else before, turn, axes=(-2, -1))
            for flip in (False, True)
            for turn in (0, 1, 2)
        }
        (applied,) = [name for name, option in options.items() if np.array_equal(option, after)]
        seen.add(applied)
    assert len(seen) == 6
    off = DataSettings(store="", flip=False, rotate=False)
    assert np.array_equal(augment(slices, keys, off), slices)


def test_padding_and_cropping_are_inverse() -> None:
    slices = np.random.default_rng(0).random((2, 4, 27, 30)).astype(np.float32)
    padded = pad(slices, (32, 36))
    assert np.array_equal(padded[(..., *centre((27, 30), (32, 36)))], slices)
    assert (padded[:, :-2, 0] == -1).all()
    assert (padded[:, -2:, 0] == 0).all()


def test_random_numbers_are_uniform_and_independent_between_streams() -> None:
    keys = sample_keys(np.arange(20_000), 0, "joint", 0)
    a, b = uniform(keys, "a"), uniform(keys, "b")
    assert abs(a.mean() - 0.5) < 0.01
    assert abs(a.var() - 1 / 12) < 0.003
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.03
    assert (uniform(keys, "a") == a).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_number_just_below_one_stays_below_one(dtype: torch.dtype) -> None:
    """Rounded to float32 it would be 1, and an index drawn with it would be out of range."""
    keys = np.array([unmixed(2**64 - 1)], np.uint64) ^ np.uint64(key("target"))
    assert uniform(keys, "target") == 1 - 2.0**-53
    image = torch.zeros(1, 1, 2, 2, dtype=dtype)
    drawn = Batch(image, image, image, image, keys).uniform("target")
    assert drawn.dtype == dtype
    assert ((drawn < 1) & ((drawn * 3).long() == 2)).all()


def unmixed(mixed: int) -> int:
    """The inverse of `splitmix`."""
    z = mixed
    for factor, by in ((None, 31), (0x94D049BB133111EB, 27), (0xBF58476D1CE4E5B9, 30)):
        z = z * pow(factor, -1, 2**64) % 2**64 if factor else z
        before = z
        for _ in range(3):  # each iteration recovers `by` more bits
            before = z ^ (before >> by)
        z = before
    return (z - 0x9E3779B97F4A7C15) % 2**64


def test_too_large_a_batch_and_too_much_brain_are_refused(feed: SliceFeed, store: Path) -> None:
    with pytest.raises(SettingError, match="a batch of 100000 slices is more than the"):
        feed.steps(100_000)
    with pytest.raises(SettingError, match=r"data.min_brain=0.99 of brain: lower it"):
        make_feed(store, min_brain=0.99)


@pytest.mark.parametrize("clip", [True, False])
def test_no_training_intensity_saturates(store: Path, clip: bool) -> None:
    """With and without the clip; and -1 and 1 are both reached."""
    cohort = Cohort.open(store)
    mapping, names = IntensityMap.of(cohort, cohort.split("gan"), clip), ["t1", "t2", "t1c", "flair"]
    images = [read_image(cohort, subject, names, clip) for subject in cohort.split("gan")]
    for place, name in enumerate(names):
        values = np.concatenate(
            [mapping.to_network(i[[place]], [name], saturate=False)[i[[place]] != BACKGROUND] for i in images]
        )
        assert (values.min(), values.max()) == pytest.approx((-1, 1), abs=1e-3), name

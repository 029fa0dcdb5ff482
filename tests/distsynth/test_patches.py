"""3-D patches: which ones are in a batch is a pure function of seed, stage, epoch and position; assembly is exact."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distsynth.config import compose
from distsynth.data import patches
from distsynth.data.batch import Batch
from distsynth.data.intensity_map import IntensityMap
from distsynth.data.patches import AT_ONCE, PatchFeed, assembled, first_voxel, tiles
from distsynth.data.randomness import sample_keys
from distsynth.data.slices import SliceFeed
from distsynth.ranks.world import World
from distsynth.settings import DataSettings
from distsynth.training.model import build
from preprocess.cohort import Cohort
from preprocess.shared.errors import SettingError

WORLD = World(0, 1, 0, torch.device("cpu"))
FIELDS = ("sources", "targets", "brain", "tumour")
PATCH, PER_SUBJECT = 12, 5


@pytest.fixture(scope="module")
def feed(store: Path) -> PatchFeed:
    return make_feed(store)


def make_feed(store: Path, patch: int = PATCH, **settings: Any) -> PatchFeed:
    cohort = Cohort.open(store)
    mapping = IntensityMap.of(cohort, cohort.split("gan"))
    chosen = DataSettings(store=str(store), **settings)
    variant = compose(["variant=simo"]).variant
    return PatchFeed(cohort, cohort.split("gan"), variant, mapping, chosen, patch, PER_SUBJECT, WORLD.share)


def same(first: Batch, second: Batch) -> bool:
    return all(torch.equal(getattr(first, f), getattr(second, f)) for f in FIELDS) and (first.keys == second.keys).all()


def test_two_ranks_see_together_what_one_sees(feed: PatchFeed) -> None:
    (whole,) = feed.batches("joint", 3, 0, 4, range(1, 2), 0, 1)
    halves = [next(feed.batches("joint", 3, 0, 4, range(1, 2), rank, 2)) for rank in (0, 1)]
    for field in FIELDS:
        assert torch.equal(torch.cat([getattr(h, field) for h in halves]), getattr(whole, field))


def test_a_resumed_epoch_continues_with_the_same_patches_and_another_epoch_has_others(feed: PatchFeed) -> None:
    through = list(feed.batches("joint", 1, 0, 2, range(4), 0, 1))
    resumed = list(feed.batches("joint", 1, 0, 2, range(2, 4), 0, 1))
    assert all(same(a, b) for a, b in zip(through[2:], resumed, strict=True))
    for stage, epoch, seed in (("joint", 2, 0), ("other", 1, 0), ("joint", 1, 1)):
        assert not same(through[0], next(feed.batches(stage, epoch, seed, 2, range(1), 0, 1)))


def test_an_epoch_has_the_same_number_of_patches_of_every_subject(feed: PatchFeed, store: Path) -> None:
    subjects = len(Cohort.open(store).split("gan"))
    assert len(feed) == subjects * PER_SUBJECT
    assert feed.steps(2) == len(feed) // 2
    with pytest.raises(SettingError, match="a batch of 1000 patches is more than the"):
        feed.steps(1000)


def test_patches_contain_brain_and_the_networks_intensities(feed: PatchFeed) -> None:
    batch = next(feed.batches("joint", 0, 0, len(feed), range(1), 0, 1))
    assert batch.sources.shape == (len(feed), 1, PATCH, PATCH, PATCH)
    assert batch.targets.shape == (len(feed), 3, PATCH, PATCH, PATCH)
    assert set(batch.brain.unique().tolist()) == {0, 1}
    assert batch.brain.flatten(1).mean(1).min() > 0.1
    assert batch.tumour.sum() > 0
    for images in (batch.sources, batch.targets):
        assert images.abs().max() <= 1
        assert (images[(batch.brain == 0).expand_as(images)] == -1).all()


def test_every_brain_voxel_is_equally_likely_as_a_centre(store: Path) -> None:
    feed = make_feed(store)
    for subject in range(len(feed.starts) - 1):
        volume = np.asarray(feed.volumes[feed.starts[subject] : feed.starts[subject + 1]])
        where = np.argwhere(volume[:, -2] > 0)
        shares = (np.arange(0, len(where), 97) + 0.5) / len(where)
        assert [feed.brain_voxel(subject, s) for s in shares] == [tuple(v) for v in where[::97]]


def test_a_patch_equals_the_cohorts(store: Path) -> None:
    """Without augmentation it is part of its subject's volume, unchanged."""
    feed = make_feed(store, flip=False, rotate=False)
    batch = feed.cut(np.arange(len(feed)), sample_keys(np.arange(len(feed)), 0))
    images = torch.cat([batch.sources, batch.targets, batch.brain, batch.tumour], 1).numpy()
    for index, patch in enumerate(images):
        subject = index // PER_SUBJECT
        volume = feed.volumes[feed.starts[subject] : feed.starts[subject + 1]].swapaxes(0, 1)
        windows = np.lib.stride_tricks.sliding_window_view(volume[:4], (PATCH,) * 3, axis=(1, 2, 3))  # type: ignore[call-overload]
        corners = np.argwhere((windows[..., 3, 5, 7] == patch[:4, 3, 5, 7][:, None, None, None]).all(0))
        assert any(np.array_equal(volume[:, z : z + PATCH, y : y + PATCH, x : x + PATCH], patch) for z, y, x in corners)


def test_a_volume_smaller_than_the_patch_lies_in_its_middle(store: Path) -> None:
    feed = make_feed(store, patch=64, flip=False, rotate=False)
    one, other = (feed.cut(np.array([0]), sample_keys(np.array([i]), 0)) for i in (0, 1))
    assert same(one, Batch(*(getattr(other, f) for f in FIELDS), one.keys))  # only one place is possible
    volume = np.asarray(feed.volumes[: feed.starts[1]]).swapaxes(0, 1)
    start = [(64 - side) // 2 for side in volume.shape[1:]]
    inside = tuple(slice(s, s + side) for s, side in zip(start, volume.shape[1:], strict=True))
    assert np.array_equal(one.sources[0, 0].numpy()[inside], volume[0])
    for field, nothing in (("sources", -1), ("targets", -1), ("brain", 0), ("tumour", 0)):
        outside = getattr(one, field)[0].numpy().copy()
        outside[(slice(None), *inside)] = nothing
        assert (outside == nothing).all()


def test_places_are_inside_and_centred() -> None:
    assert [first_voxel(middle, 10, 4) for middle in range(10)] == [0, 0, 0, 1, 2, 3, 4, 5, 6, 6]
    assert {first_voxel(middle, 10, 13) for middle in range(10)} == {-1}


def test_flips_and_rotations_are_those_of_slices(store: Path) -> None:
    plain, moved = (make_feed(store, flip=on, rotate=on) for on in (False, True))
    keys = sample_keys(np.arange(60), 0)
    index = np.arange(60) % len(plain)
    seen = set()
    for before, after in zip(plain.cut(index, keys).targets, moved.cut(index, keys).targets, strict=True):
        options = {
            (flip, turn): torch.rot90(before.flip(-1) if flip else before, turn, (-2, -1))
            for flip in (0, 1)
            for turn in (0, 1, 2)
        }
        applied = {name for name, option in options.items() if torch.equal(option, after)}
        assert applied
        seen |= applied
    assert len(seen) == 6


def test_a_cohort_chunked_in_cubes_gives_the_same_patches(store: Path, phantoms: Path, tmp_path: Path, run: Any) -> None:
    other = tmp_path / "cubes.zarr"
    words = [f"source={phantoms}", f"store={other}", "recipe.n4.iterations=[5]", "recipe.chunks=patch"]
    done = run("preprocess.to_zarr", *words)
    assert done.returncode == 0, done.stderr
    slices, cubes = (next(make_feed(path).batches("joint", 0, 0, 4, range(1), 0, 1)) for path in (store, other))
    assert same(slices, cubes)


@pytest.mark.parametrize(("preset", "kind"), [("tcmgan_small", SliceFeed), ("unified_gan_small", PatchFeed)])
def test_the_method_determines_the_feed(preset: str, kind: type, store: Path) -> None:
    config = compose([f"data.store={store}", f"method={preset}"])
    cohort = Cohort.open(store)
    model = build(config, cohort, IntensityMap.of(cohort, cohort.split("gan")))
    feed = model.feed(cohort, cohort.split("gan")[:1], config.data, WORLD.share)
    assert type(feed) is kind
    if isinstance(feed, PatchFeed):
        assert (feed.patch, len(feed)) == (config.method.patch, config.method.patches)


# (patch, keep, stride): the middle is kept, like unified_gan's 48 of 72; whole patches that overlap; odd sizes
ASSEMBLIES = [(12, 8, 8), (12, 12, 4), (9, 4, 4), (5, 5, 5), (7, 5, 2)]
SHAPES = [(31, 20, 17), (12, 12, 12), (1, 2, 3), (8, 40, 5), (13, 8, 24)]


@pytest.mark.parametrize(("assembly", "shape"), list(product(ASSEMBLIES, SHAPES)))
def test_an_identity_network_returns_the_volume_exactly(assembly: tuple[int, int, int], shape: tuple[int, int, int]) -> None:
    patch, keep, stride = assembly
    volume, brain = torch.rand(2, *shape) * 2 - 1, (torch.rand(1, *shape) > 0.5).float()
    largest = 0

    def identity(image: Tensor, mask: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, len(image))
        assert image.shape[1:] == (2, patch, patch, patch)
        assert mask.shape[1:] == (1, patch, patch, patch)
        return torch.cat([image, mask], 1)

    result = assembled(identity, [volume, brain], (-1, 0), patch, keep, stride)
    assert torch.equal(result, torch.cat([volume, brain]))
    assert largest <= AT_ONCE


@pytest.mark.parametrize(("patch", "keep", "stride"), ASSEMBLIES)
def test_each_voxel_is_the_mean_over_the_patches_that_keep_it(patch: int, keep: int, stride: int) -> None:
    """Every patch returns its own number; a plain loop over the patches computes what each voxel must be."""
    shape, margin, calls = (23, 9, 14), (patch - keep) // 2, 0

    def numbered(image: Tensor) -> Tensor:
        nonlocal calls
        numbers = torch.arange(calls, calls + len(image)).view(-1, 1, 1, 1, 1)
        calls += len(image)
        return numbers.expand(len(image), 1, patch, patch, patch).double()

    result = assembled(numbered, [torch.zeros(1, *shape, dtype=torch.float64)], (-1,), patch, keep, stride)[0]
    total, count = torch.zeros(shape), torch.zeros(shape)
    for number, corner in enumerate(product(*(tiles(side, keep, stride) for side in shape))):
        where = tuple(slice(max(c, 0), c + keep) for c in corner)
        total[where] += number
        count[where] += 1
    assert calls == number + 1
    assert count.min() > 0
    assert torch.allclose(result, (total / count).double())
    assert margin >= 0


def test_kept_middles_touch_and_a_patch_sees_beyond_its_own() -> None:
    """Published sizes on BRATS: 4 x 4 x 4 patches of 72, of which 48 are kept; each kept voxel has a context of 12 on every side."""
    for side in (155, 160, 240):
        starts = tiles(side, 48, 48)
        assert np.diff(starts).tolist() == [48] * (len(starts) - 1)
        assert len(starts) == -(-side // 48)
        assert starts[0] <= 0
        assert starts[-1] + 48 >= side
    assert [len(tiles(side, 72, 24)) for side in (155, 160)] == [5, 5]


def test_memory_does_not_grow_with_the_volume(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "AT_ONCE", 2)
    seen = []
    for side in (8, 64):
        assembled(lambda x: seen.append(len(x)) or x, [torch.zeros(1, side, 8, 8)], (-1,), 8, 8, 4)  # type: ignore[func-returns-value]
    assert max(seen) == 2
    assert min(seen) == 1

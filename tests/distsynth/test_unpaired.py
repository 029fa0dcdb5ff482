"""What unpaired methods need: slices of two different patients, and a pool of past images that survives stops and is the same on any number
of ranks."""

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distsynth.bench.synthetic import noise
from distsynth.config import compose
from distsynth.data.intensity_map import IntensityMap
from distsynth.data.randomness import sample_keys
from distsynth.data.slices import SliceFeed, centre, partners
from distsynth.methods import registry
from distsynth.methods.pool import Pool
from distsynth.preflight import check
from distsynth.ranks.preemption import Stopped, StopRequest
from distsynth.ranks.world import World
from distsynth.run_directory import RunDirectory
from distsynth.settings import DataSettings
from distsynth.training import checkpoint
from distsynth.training.trainer import Trainer
from preprocess.cohort import Cohort
from preprocess.shared.errors import SettingError

WORLD = World(0, 1, 0, torch.device("cpu"))
SIZE = (40, 40)


# -- slices of different patients --------------------------------------------------------------------------------------


def feed_of(store: Path, subjects: int = 10, patients: int = 0, **settings: bool | float) -> SliceFeed:
    """The unpaired feed of so many subjects of the split, who are so many patients (0: as the cohort says), each with several time points."""
    cohort = Cohort.open(store)
    chosen = DataSettings(store=str(store), **settings)  # type: ignore[arg-type]
    names = cohort.split("gan")[:subjects]
    mapping = IntensityMap.of(cohort, cohort.split("gan"))
    if patients:
        record, number = cohort.record, {name: index % patients for index, name in enumerate(names)}
        object.__setattr__(cohort, "record", lambda subject: replace(record(subject), patient=f"patient {number[subject]}"))
    variant = compose(["variant=siso", "method=cyclegan"]).variant
    return SliceFeed(cohort, names, variant, mapping, chosen, SIZE, WORLD.share, paired=False)


@pytest.fixture(scope="module")
def feed(store: Path) -> SliceFeed:
    """Two time points of either of two patients, as they are."""
    return feed_of(store, 4, 2, flip=False, rotate=False)


def whose(feed: SliceFeed, images: Tensor, channel: int) -> list[int]:
    """The patients whose slices the images are."""
    assert feed.patients is not None
    stored = torch.from_numpy(np.asarray(feed.slices[:, channel], np.float32))
    inside = (..., *centre(feed.slices.shape[-2:], SIZE))
    return [int(feed.patients[(stored == image[inside]).flatten(1).all(1).nonzero()[0, 0]]) for image in images]


def test_source_and_target_are_never_of_one_patient(feed: SliceFeed) -> None:
    """Not even of two time points of it."""
    assert feed.patients is not None
    assert len(set(feed.patients.tolist())) == 2
    for epoch in range(2):
        for batch in feed.batches("unpaired", epoch, 0, 8, range(feed.steps(8)), 0, 1):
            sources, targets = whose(feed, batch.sources[:, 0], 0), whose(feed, batch.targets[:, 0], 1)
            assert all(a != b for a, b in zip(sources, targets, strict=True))


@pytest.mark.parametrize("patients", [[0, 0, 1, 1, 1, 2], [0, 1], [0, 0, 0, 0, 1]])
def test_every_slice_of_the_others_has_the_same_chance(patients: list[int]) -> None:
    held = np.array(patients)
    for index, own in enumerate(held):
        others = np.flatnonzero(held != own)
        shares = (np.arange(len(others)) + 0.5) / len(others)  # one in each of so many equal parts of [0, 1)
        assert partners(held, np.full(len(others), index), shares).tolist() == others.tolist()
        assert partners(held, np.array([index, index]), np.array([0, 1 - 2**-53])).tolist() == [others[0], others[-1]]


def test_every_slice_becomes_a_partner(feed: SliceFeed) -> None:
    partners = set()
    for epoch in range(40):
        keys = sample_keys(np.arange(len(feed)), 0, "unpaired", epoch)
        partners |= {tuple(image.flatten().tolist()) for image in feed.cut(np.arange(len(feed)), keys).targets}
    assert len(partners) == len({tuple(image.flatten().tolist()) for image in feed.slices[:, 1]})


def same(first: Any, second: Any) -> bool:
    fields = ("sources", "targets", "brain", "tumour")
    return all(torch.equal(getattr(first, f), getattr(second, f)) for f in fields) and torch.equal(
        first.more["target_brain"], second.more["target_brain"]
    )


def test_two_ranks_together_see_what_one_sees(store: Path) -> None:
    feed = feed_of(store)
    (whole,) = feed.batches("unpaired", 3, 0, 6, range(2, 3), 0, 1)
    for rank, part in ((0, slice(0, 3)), (1, slice(3, 6))):
        assert same(next(feed.batches("unpaired", 3, 0, 6, range(2, 3), rank, 2)), whole[part])


def test_partners_are_a_function_of_seed_and_place(store: Path) -> None:
    first, second = feed_of(store), feed_of(store)
    through = list(first.batches("unpaired", 1, 0, 4, range(4), 0, 1))
    resumed = list(second.batches("unpaired", 1, 0, 4, range(2, 4), 0, 1))
    assert all(same(a, b) for a, b in zip(through[2:], resumed, strict=True))
    assert not torch.equal(through[0].targets, next(first.batches("unpaired", 1, 1, 4, range(1), 0, 1)).targets)


def test_the_partners_brain_is_its_own(store: Path) -> None:
    """Rotated and flipped together with the partner, independently of the source."""
    batch = next(feed_of(store).batches("unpaired", 0, 0, 16, range(1), 0, 1))
    other = batch.more["target_brain"]
    assert (batch.targets[other == 0] == -1).all()
    assert (batch.targets > -1).float().mean() > 0.5 * other.mean() > 0
    assert not torch.equal(other, batch.brain)


def test_a_split_of_one_patient_is_refused(store: Path) -> None:
    with pytest.raises(SettingError, match="an unpaired method needs slices of at least two patients, and this split has one"):
        feed_of(store, 3, 1)


def test_patients_without_a_slice_do_not_count(store: Path) -> None:
    whole = feed_of(store, 2)
    assert whole.patients is not None
    brains = whole.slices[:, -2].mean(axis=(1, 2), dtype=np.float64)
    most = [brains[whole.patients == patient].max() for patient in (0, 1)]
    between = float(sum(most) / 2)
    with pytest.raises(SettingError, match=r"at least two patients, and data.min_brain=0\.\d+ leaves one: lower it"):
        feed_of(store, 2, min_brain=between)


@pytest.mark.parametrize("name", ["cyclegan", "discogan", "unit"])
def test_the_benches_noise_has_what_the_feed_gives(name: str, store: Path) -> None:
    kind = registry.method(name)
    made = noise(compose(["variant=siso", f"method={name}"]).variant, 2, SIZE, kind=kind)
    given = next(feed_of(store).batches("unpaired", 0, 0, 2, range(1), 0, 1))
    assert {n: t.shape for n, t in made.more.items()} == {n: t.shape for n, t in given.more.items()}
    assert "target_brain" not in noise(compose([]).variant, 2, SIZE).more


# -- the pool ----------------------------------------------------------------------------------------------------------


def numbered(first: int, count: int) -> Tensor:
    """Images that say which they are."""
    return torch.arange(first, first + count).float().view(-1, 1, 1, 1).expand(-1, 1, 2, 2)


def exchanged(pool: Pool, batch: int, updates: int, seed: int = 0) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [pool.exchange(numbered(n * batch, batch), torch.rand(batch, generator=g)) for n in range(updates)]


def test_the_pool_shows_new_images_until_it_is_full_and_then_half_of_the_time() -> None:
    pool = Pool(50)
    shown = torch.cat(exchanged(pool, 4, 1000))[:, 0, 0, 0]
    new = torch.arange(4000.0)
    assert torch.equal(shown[:50], new[:50])
    assert 0.46 < float((shown[50:] == new[50:]).float().mean()) < 0.54
    assert (shown <= new).all()
    waited = (new - shown)[500:][shown[500:] < new[500:]]
    assert 80 < float(waited.mean()) < 120  # 50 places, each emptied in every 100th update
    old = shown[50:][shown[50:] < new[50:]]
    assert len(old.unique()) == len(old)  # shown images have left the pool
    assert pool.images.shape == (50, 1, 2, 2)


def test_a_pool_of_size_zero_shows_the_new_images() -> None:
    pool, images = Pool(0), numbered(0, 3)
    assert torch.equal(pool.exchange(images, torch.rand(3)), images)
    assert len(pool.images) == 0


def test_shown_images_do_not_change_when_the_pool_does() -> None:
    pool = Pool(2)
    shown = exchanged(pool, 2, 1)[0]
    before = shown.clone()
    exchanged(pool, 2, 20, seed=1)
    assert torch.equal(shown, before)


def test_the_pool_and_the_images_shown_are_the_same_on_any_number_of_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks in one process, each given the other's half. With real ranks, test_ranks.py compares the pools too."""
    one, two = Pool(5), [Pool(5), Pool(5)]
    g = torch.Generator().manual_seed(0)
    for update in range(20):
        images, share = numbered(4 * update, 4), torch.rand(4, generator=g)
        whole = one.exchange(images, share)
        for rank, pool in enumerate(two):
            own = slice(2 * rank, 2 * rank + 2)
            with monkeypatch.context() as patch:
                patch.setattr(
                    "distsynth.methods.pool.gathered",
                    lambda part, images=images, share=share, own=own: (images if part.dim() > 1 else share, own),
                )
                assert torch.equal(pool.exchange(images[own], share[own]), whole[own])
            assert torch.equal(pool.images, one.images)


def test_a_pool_is_saved_and_restored() -> None:
    first, second = Pool(3), Pool(3)
    exchanged(first, 2, 4)
    saved = {name: value.clone() for name, value in first.state_dict().items()}
    second.load_state_dict(saved)
    assert torch.equal(exchanged(first, 2, 5, seed=1)[-1], exchanged(second, 2, 5, seed=1)[-1])


def train(run: Path, store: Path, stop: Callable[[int], bool]) -> dict[str, Any]:
    """Train, asking to stop where `stop` says so of the number of updates; the newest checkpoint."""
    small = [
        "method.generator.width=2",
        "method.generator.blocks=1",
        "method.discriminator.width=2",
        "method.discriminator.layers=1",
    ]
    length = ["train.epochs=2", "train.steps_per_epoch=5", "train.batch=2", "method.pool=3"]
    config = compose(["variant=siso", "method=cyclegan", f"data.store={store}", *small, *length])
    request = StopRequest()
    trainer = Trainer(config, check(config, 1), RunDirectory(run), WORLD, request)
    agree = trainer.agree

    def asking(number: int, due: bool) -> tuple[int, bool]:
        return agree(signal.SIGTERM if stop(trainer.at.total) else number, due)

    trainer.agree = asking  # type: ignore[method-assign]
    try:
        trainer.fit()
    except Stopped:
        assert any(stop(total) for total in range(11))
    newest = checkpoint.newest(run / "checkpoints")
    assert newest is not None
    return newest[0]


def test_a_stop_at_any_update_changes_nothing(store: Path, tmp_path: Path) -> None:
    """While the pools fill, and when they are full."""
    through = train(tmp_path / "through", store, lambda total: False)
    for at in (2, 7):
        assert train(tmp_path / "stopped", store, lambda total, at=at: total == at)["position"]["total"] == at
    stopped = train(tmp_path / "stopped", store, lambda total: False)
    assert stopped["position"] == through["position"]
    assert through["method"]["target_pool._extra_state"].shape[0] == 3
    for name, value in through["method"].items():
        assert torch.equal(stopped["method"][name], value), name


def test_another_runs_pool_is_not_taken_over(store: Path, tmp_path: Path) -> None:
    """`train.init_from` takes over weights, but not the fakes of networks that this run does not have."""
    from distsynth.training.finetune import load_weights

    train(tmp_path / "first", store, lambda total: False)
    config = compose(
        ["variant=siso", "method=cyclegan", f"data.store={store}", "method.generator.width=2", "method.generator.blocks=1"]
    )
    method = registry.method("cyclegan")(config.method, config.variant, SIZE, 1)
    assert "target_pool" in load_weights(method, str(tmp_path / "first"))
    assert len(method.target_pool.images) == 0

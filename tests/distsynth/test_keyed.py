"""Random numbers keyed by sample have the right distribution and do not depend on the batch."""

import numpy as np
import pytest
import torch

from distsynth.data.batch import Batch
from distsynth.data.randomness import sample_keys, splitmix
from distsynth.networks import keyed


def seeds(n: int, stream: str = "dropout") -> torch.Tensor:
    empty = torch.zeros(n, 1, 1, 1)
    return Batch(empty, empty, empty, empty, sample_keys(np.arange(n), 0)).seeds(stream)


def test_uniform_numbers_are_uniform() -> None:
    """A million of them: the moments within five standard errors, and sixteen bins equally full."""
    values = keyed.uniform(seeds(100), (100, 100)).double()
    assert 0 <= values.min() < 1e-5
    assert 1 - 1e-5 < values.max() < 1
    assert float(values.mean()) == pytest.approx(1 / 2, abs=5 * (1 / 12 / 1e6) ** 0.5)
    assert float(values.var()) == pytest.approx(1 / 12, abs=5 * (1 / 180 / 1e6) ** 0.5)
    counts = torch.histc(values, 16, 0, 1)
    assert float(((counts - 62500) ** 2 / 62500).sum()) < 45  # chi-squared with 15 degrees of freedom: once in 13,000


def test_neighbours_and_samples_are_uncorrelated() -> None:
    values = keyed.uniform(seeds(100), (100, 100)).double() - 0.5
    for first, second in ((values[:, :, 1:], values[:, :, :-1]), (values[:, 1:], values[:, :-1]), (values[1:], values[:-1])):
        assert abs(float((first * second).mean())) * 12 < 5e-3


def test_normal_numbers_are_normal() -> None:
    values = keyed.normal(seeds(100), (100, 100)).double()
    assert [float((values**k).mean()) for k in (1, 2, 3, 4)] == pytest.approx([0, 1, 0, 3], abs=0.05)


def test_a_samples_numbers_do_not_depend_on_its_batch() -> None:
    """Other ranks and micro-batches hold it together with other samples."""
    given = seeds(6)
    x = torch.rand(6, 3, 8, 8)
    whole = keyed.dropout(x, given, 0.5)
    for part in (slice(0, 2), slice(2, 6), slice(5, 6)):
        assert torch.equal(keyed.dropout(x[part], given[part], 0.5), whole[part])
        assert torch.equal(keyed.uniform(given[part], (4,)), keyed.uniform(given, (4,))[part])


def test_samples_streams_and_levels_differ() -> None:
    drawn = [keyed.uniform(s, (50,)) for s in (seeds(2), seeds(2) + 1, seeds(2, "noise"))]
    rows = torch.cat(drawn)
    assert len({tuple(row.tolist()) for row in rows}) == 6


@pytest.mark.parametrize("p", [0.2, 0.5])
def test_dropout_drops_its_share_and_keeps_the_mean(p: float) -> None:
    x = torch.ones(100, 100, 100, dtype=torch.float64)
    dropped = keyed.dropout(x, seeds(100), p)
    error = 5 * (p * (1 - p) / 1e6) ** 0.5
    assert float((dropped == 0).double().mean()) == pytest.approx(p, abs=error)
    assert set(dropped.unique().tolist()) == {0, 1 / (1 - p)}
    assert float(dropped.mean()) == pytest.approx(1, abs=error / (1 - p))


def test_no_dropout_is_the_identity() -> None:
    x = torch.rand(3, 4)
    assert torch.equal(keyed.dropout(x, seeds(3), 0.0), x)


def test_the_hash_equals_the_feeds() -> None:
    """SplitMix64 in wrapping int64 equals the one in numpy's uint64."""
    values = np.array([0, 1, 2**63, 2**64 - 1, 0xDEADBEEF], np.uint64)
    assert keyed.splitmix(torch.from_numpy(values.view(np.int64))).tolist() == splitmix(values).view(np.int64).tolist()


def test_compiled_dropout_drops_the_same() -> None:
    """Inductor computes constants in advance, and these must not exceed int64."""
    x = torch.rand(2, 3, 4, 4)
    compiled = torch.compile(keyed.dropout, dynamic=False)
    assert torch.equal(compiled(x, seeds(2), 0.5), keyed.dropout(x, seeds(2), 0.5))

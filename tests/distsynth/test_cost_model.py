"""The cost model's formulas, and that fitting recovers what was put in."""

import pytest

from distsynth.bench.cost_model import (
    ETHERNET,
    FABRICS,
    NVLINK,
    Fabric,
    Link,
    fit_link,
    fit_overlap,
    messages,
    most_useful,
    ring,
    step,
)


def test_a_ring_of_two_moves_every_byte_once() -> None:
    assert ring(2, 1e9, Link("", 0.001, 1e9)) == pytest.approx(0.002 + 1)
    assert ring(1, 1e9, NVLINK) == 0


def test_beyond_a_node_the_slow_link_is_shared_and_added() -> None:
    fabric = Fabric("", NVLINK, ETHERNET)
    assert fabric.all_reduce(8, 1e8) == ring(8, 1e8, NVLINK)
    assert fabric.all_reduce(32, 1e8) == ring(8, 1e8, NVLINK) + ring(4, 1e8, ETHERNET)
    times = [[f.all_reduce(n, 1e8) for f in FABRICS] for n in (16, 1024)]
    assert all(ideal < infiniband < ethernet for ideal, infiniband, ethernet in times)


def test_buckets_add_up_to_the_gradient() -> None:
    for size in (100, 2**20, 2**20 + 1, 136_000_000):
        assert sum(messages(size)) == size
        assert max(messages(size)) <= 25 * 2**20


def test_communication_hides_behind_the_overlapping_part_of_the_backward_pass() -> None:
    assert step(compute=0.9, communicating=0.2, overlap=0.5, backward_share=2 / 3) == pytest.approx(0.9)
    assert step(compute=0.9, communicating=0.5, overlap=0.5, backward_share=2 / 3) == pytest.approx(1.1)


def test_fitting_recovers_link_and_overlap() -> None:
    link = Link("", 2e-4, 5e8)
    points = [(n, size, ring(n, size, link)) for n in (2, 4) for size in (4096, 10**6, 3 * 10**7)]
    fitted = fit_link(points)
    assert (fitted.latency, fitted.bandwidth) == (pytest.approx(2e-4), pytest.approx(5e8))
    steps = [(c, w, step(c, w, 0.37, 2 / 3)) for c, w in ((0.1, 0.2), (0.3, 0.2), (0.05, 0.5))]
    assert fit_overlap(steps, 2 / 3) == pytest.approx(0.37)


def test_most_useful_is_the_largest_number_of_ranks_that_each_do_half() -> None:
    assert most_useful({1: 10.0, 8: 60.0, 16: 81.0, 32: 100.0}) == 16
    assert most_useful({1: 10.0, 8: 8.0}) == 1

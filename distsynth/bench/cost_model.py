"""What an update costs on many ranks: a model of few numbers, pure functions, seconds and bytes throughout.

    step = compute + max(0, communication - overlap * backward)

A ring all-reduce of S bytes among n takes 2 (n - 1) latency + 2 (n - 1) / n S / bandwidth (Thakur et al. 2005; Patarasu and Yuan 2009).
Over nodes of 8 it is three: a reduce-scatter within each node, the ring of the nodes on what is left, and an all-gather, where the node's
ranks share its one link. Latencies add up along a ring: trees, which NCCL takes for small messages, grow with log n instead, so that
the model is a pessimist about hundreds of nodes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

PER_NODE = 8
BUCKET = 25 * 2**20  # bytes: DDP's, after a first of 1 MiB


@dataclass(frozen=True)
class Link:
    """One direction of a connection, as an all-reduce gets it."""

    name: str
    latency: float  # seconds per hop
    bandwidth: float  # bytes per second


# Achieved in practice, not on the data sheet: about 75 % of it for NVLink 3 (300 GB/s each way), 85 % for the networks.
NVLINK = Link("NVLink", 3e-6, 230e9)
INFINIBAND = Link("InfiniBand HDR", 5e-6, 21e9)  # 200 Gb/s
ETHERNET = Link("10 GbE", 30e-6, 1.06e9)


@dataclass(frozen=True)
class Fabric:
    """How ranks are joined: within a node of PER_NODE, and between nodes."""

    name: str
    inside: Link
    between: Link

    def all_reduce(self, ranks: int, size: float) -> float:
        """Seconds for one message of `size` bytes."""
        local, nodes = min(ranks, PER_NODE), -(-ranks // PER_NODE)
        return ring(local, size, self.inside) + ring(nodes, size, self.between)


FABRICS = (
    Fabric("NVLink throughout (ideal beyond 8)", NVLINK, NVLINK),
    Fabric("NVLink, InfiniBand HDR between nodes", NVLINK, INFINIBAND),
    Fabric("NVLink, 10 GbE between nodes", NVLINK, ETHERNET),
)


@dataclass(frozen=True)
class Work:
    """One update of a method."""

    gradients: tuple[int, ...]  # bytes that each of its optimiser steps sums over the ranks
    fixed: float  # seconds whatever the batch: launching kernels
    per_slice: float  # seconds

    def compute(self, slices: float) -> float:
        """Seconds on one rank: arithmetic, or launching where that takes longer."""
        return max(self.fixed, self.per_slice * slices)


def ring(ranks: int, size: float, link: Link) -> float:
    return 0.0 if ranks == 1 else 2 * (ranks - 1) * link.latency + 2 * (ranks - 1) / ranks * size / link.bandwidth


def messages(gradient: int) -> list[int]:
    """The buckets in which DDP sends a gradient of so many bytes."""
    first = min(gradient, 2**20)
    full, rest = divmod(gradient - first, BUCKET)
    return [first, *[BUCKET] * full, *([rest] if rest else [])]


def communication(fabric: Fabric, ranks: int, gradients: tuple[int, ...]) -> float:
    """Seconds on the wire per update: every bucket, and the ranks' agreement after it."""
    sizes = [size for gradient in gradients for size in messages(gradient)]
    return sum(fabric.all_reduce(ranks, size) for size in [*sizes, 16])


def step(compute: float, wire: float, overlap: float, backward_share: float) -> float:
    return compute + max(0.0, wire - overlap * backward_share * compute)


def fit_link(points: list[tuple[int, int, float]]) -> Link:
    """Latency and bandwidth from measured all-reduces (ranks, bytes, seconds): least squares of the relative error, neither below 0."""
    import numpy as np
    from scipy.optimize import nnls

    rows = np.array([[2 * (n - 1), 2 * (n - 1) / n * size] for n, size, _ in points])
    seconds = np.array([t for _, _, t in points])
    (latency, inverse), _ = nnls(rows / seconds[:, None], np.ones(len(points)))
    return Link("measured", float(latency), 1 / float(inverse) if inverse else math.inf)


def fit_overlap(points: list[tuple[float, float, float]], backward_share: float) -> float:
    """The share of the backward pass that hides communication, from (compute, wire, step) measured: least squares on a grid of 0.01."""
    grid = [index / 100 for index in range(101)]
    return min(grid, key=lambda share: sum((step(c, w, share, backward_share) - t) ** 2 for c, w, t in points))


def worth_it(throughput: dict[int, float], share: float = 0.5) -> int:
    """The most ranks of which each does at least `share` of what one does alone."""
    alone = throughput[min(throughput)] / min(throughput)
    return max(n for n, rate in throughput.items() if rate / n >= share * alone)

"""A cost model of an update on many ranks: pure functions of a few numbers, in seconds and bytes.

    step = compute + max(0, communication - overlap * backward)

A ring all-reduce of S bytes among n ranks takes 2 (n - 1) latency + 2 (n - 1) / n S / bandwidth (Thakur et al. 2005; Patarasu and Yuan 2009).
Over nodes of 8 it has three parts: a reduce-scatter within each node, the ring of the nodes over what is left, and an all-gather; the ranks of a
node share its one link. Latencies add up along a ring, while trees, which NCCL uses for small messages, grow with log n: the model is
pessimistic for hundreds of nodes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

PER_NODE = 8
BUCKET = 25 * 2**20  # bytes of a DDP bucket, after a first one of 1 MiB


@dataclass(frozen=True)
class Link:
    """One direction of a connection, at the speed that an all-reduce reaches."""

    name: str
    latency: float  # seconds per hop
    bandwidth: float  # bytes per second


# As reached in practice: about 75 % of the data sheet for NVLink 3 (300 GB/s each way), 85 % for the networks.
NVLINK = Link("NVLink", 3e-6, 230e9)
INFINIBAND = Link("InfiniBand HDR", 5e-6, 21e9)  # 200 Gb/s
ETHERNET = Link("10 GbE", 30e-6, 1.06e9)


@dataclass(frozen=True)
class Fabric:
    """How ranks are connected: within a node of PER_NODE, and between nodes."""

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

    gradients: tuple[int, ...]  # bytes summed over the ranks in each optimiser step
    fixed: float  # seconds for any batch: launching kernels
    per_slice: float  # seconds

    def compute(self, slices: float) -> float:
        """Seconds on one rank: arithmetic, or launching kernels if that takes longer."""
        return max(self.fixed, self.per_slice * slices)


def ring(ranks: int, size: float, link: Link) -> float:
    return 0.0 if ranks == 1 else 2 * (ranks - 1) * link.latency + 2 * (ranks - 1) / ranks * size / link.bandwidth


def messages(gradient: int) -> list[int]:
    """The sizes of the buckets in which DDP sends a gradient of so many bytes."""
    first = min(gradient, 2**20)
    full, rest = divmod(gradient - first, BUCKET)
    return [first, *[BUCKET] * full, *([rest] if rest else [])]


def communication(fabric: Fabric, ranks: int, gradients: tuple[int, ...]) -> float:
    """Seconds of communication per update: every bucket, and the small message after it in which the ranks agree."""
    sizes = [size for gradient in gradients for size in messages(gradient)]
    return sum(fabric.all_reduce(ranks, size) for size in [*sizes, 16])


def step(compute: float, communicating: float, overlap: float, backward_share: float) -> float:
    return compute + max(0.0, communicating - overlap * backward_share * compute)


def fit_link(points: list[tuple[int, int, float]]) -> Link:
    """Latency and bandwidth from measured all-reduces (ranks, bytes, seconds): least squares of the relative error, neither negative."""
    import numpy as np
    from scipy.optimize import nnls

    rows = np.array([[2 * (n - 1), 2 * (n - 1) / n * size] for n, size, _ in points])
    seconds = np.array([t for _, _, t in points])
    (latency, inverse), _ = nnls(rows / seconds[:, None], np.ones(len(points)))
    return Link("measured", float(latency), 1 / float(inverse) if inverse else math.inf)


def fit_overlap(points: list[tuple[float, float, float]], backward_share: float) -> float:
    """The share of the backward pass that hides communication, from measured (compute, communicating, step): least squares on a grid of 0.01."""
    grid = [index / 100 for index in range(101)]
    return min(grid, key=lambda share: sum((step(c, w, share, backward_share) - t) ** 2 for c, w, t in points))


def most_useful(throughput: dict[int, float], share: float = 0.5) -> int:
    """The largest number of ranks with which each does at least `share` of what a single rank does."""
    single = throughput[min(throughput)] / min(throughput)
    return max(n for n, rate in throughput.items() if rate / n >= share * single)

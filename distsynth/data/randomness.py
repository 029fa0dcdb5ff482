"""Random numbers as pure functions of what they are used for, so that order, augmentation and sampling need no state to resume and are the
same for any number of ranks."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]


def key(*parts: int | str) -> int:
    """A 64-bit key of the parts, e.g. key(seed, "order", epoch)."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def permutation(n: int, *parts: int | str) -> npt.NDArray[np.int64]:
    """A random order of n items, determined by the parts."""
    return np.random.Generator(np.random.Philox(key=key(*parts))).permutation(n)


def sample_keys(positions: npt.NDArray[np.int64], *parts: int | str) -> Keys:
    """One key per sample occurrence, from its position in the epoch and the parts (seed, stage, epoch)."""
    return splitmix(positions.astype(np.uint64) + np.uint64(key(*parts)))


def uniform(keys: Keys, stream: str) -> npt.NDArray[np.float64]:
    """One number in [0, 1) per key; another `stream` gives independent numbers for the same keys."""
    mixed = splitmix(keys ^ np.uint64(key(stream)))
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def splitmix(state: Keys) -> Keys:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): a bijection of 64 bits whose outputs look independent."""
    with np.errstate(over="ignore"):
        z = state + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))

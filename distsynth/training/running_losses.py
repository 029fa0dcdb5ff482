"""Running sums of the losses since they were last logged, kept on the device so that no update waits for a number."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distsynth.methods.contract import Terms
from distsynth.ranks.world import World

NEVER = 1 << 62


class RunningLosses:
    """Per objective one vector: the sum of each term, and the update in which that sum first was not finite."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.clear()

    def clear(self) -> None:
        self.names: dict[str, list[str]] = {}
        self.sums: dict[str, Tensor] = {}
        self.calls: dict[str, float] = {}
        self.bad_in: dict[str, Tensor] = {}
        self.updates = 0  # made since the last call of `take`

    def add(self, objective: str, terms: Terms, weight: float) -> None:
        """Add the terms of a micro-batch whose share of the batch is `weight`."""
        values = torch.stack([value.detach().float() for value in terms.values()]) * weight
        if objective not in self.sums:
            self.open(objective, list(terms), torch.zeros_like(values), 0.0)
        self.sums[objective] = self.sums[objective] + values
        self.calls[objective] += weight
        now = torch.where(self.sums[objective].isfinite(), NEVER, self.updates)
        self.bad_in[objective] = torch.minimum(self.bad_in[objective], now)

    def open(self, objective: str, names: list[str], sums: Tensor, calls: float) -> None:
        self.names[objective], self.calls[objective] = names, calls
        self.sums[objective] = sums
        self.bad_in[objective] = torch.full_like(sums, NEVER, dtype=torch.int64)

    def take(self) -> dict[str, float]:
        """The mean of every term over the ranks and the calls; resets the sums."""
        names = [name for terms in self.names.values() for name in terms]
        means = self.world.mean(torch.cat([total / self.calls[objective] for objective, total in self.sums.items()]))
        self.clear()
        return dict(zip(names, means.tolist(), strict=True))

    def first_bad(self) -> tuple[int, int, str] | None:
        """The update since the last `take`, the rank and the term that was not finite first; the same on every rank."""
        if not self.sums:
            return None
        earliest = torch.cat(list(self.bad_in.values()))
        if int(self.world.largest(-earliest.min())) == -NEVER:
            return None
        names = [name for terms in self.names.values() for name in terms]
        update, index = min((value, index) for index, value in enumerate(earliest.tolist()))
        # In order of update, then of the losses, then of rank: the critic's NaN comes before the generator's that follows from it.
        update, index, rank = min((at, i, rank) for rank, (at, i) in enumerate(self.world.gather((update, index))))
        return update, rank, names[index]

    def state_dict(self) -> list[dict[str, Any]]:
        """The sums of all ranks, on every rank: a resumed run then logs the same numbers, bit for bit."""
        mine = {name: (self.names[name], total.tolist(), self.calls[name]) for name, total in self.sums.items()}
        return self.world.gather({"sums": mine, "updates": self.updates})

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Load this rank's sums, or the mean of all where the number of ranks has changed."""
        self.clear()
        chosen = [states[self.world.rank]] if len(states) == self.world.size else states
        self.updates = chosen[0]["updates"]
        for objective, (names, _, calls) in chosen[0]["sums"].items():
            sums = torch.tensor([state["sums"][objective][1] for state in chosen]).mean(0).to(self.world.device)
            self.open(objective, list(names), sums, calls)

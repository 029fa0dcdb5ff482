"""Rehearsals of a stage's update: every loss runs forward, and backward where needed, without optimiser steps and without lasting effects.

They measure the memory that the losses take (see distsynth.training.memory), compile them, and warm up DDP, with the same calls in the same
order as the method's own update.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import replace

from torch import Tensor, nn

from distsynth.data.batch import Batch
from distsynth.methods.contract import Made
from distsynth.ranks.world import this_rank_only
from distsynth.training.compiled import compiled, failure
from distsynth.training.engine import Engine, LossModule, joined, unwrapped
from distsynth.training.precision import full_products


class Rehearsal:
    """A `Step` (see distsynth.methods.contract) that changes no weights."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.rehearsed: set[str] = set()

    def run(self, batch: Batch) -> None:
        """Rehearse updates on a micro-batch, starting from the last one of the method's cycle, until every loss has run."""
        self.engine.kept.clear()  # left by a rehearsal that failed
        for update in reversed(range(self.engine.method.cycle)):
            if not self.rehearsed >= set(self.engine.stage.objectives):
                self.engine.stage.update(replace(batch, epoch=0, update=update), self)

    def make(self, name: str, batch: Batch) -> Made:
        """As `Step.make`."""
        with self.around(name):
            return self.engine.make_ahead(name, batch)

    def minimise(self, name: str, batch: Batch) -> Made:
        """As `Step.minimise`, but the gradients are dropped and no optimiser steps."""
        with full_products(self.engine.objectives[name].penalised):
            with self.around(name):
                made, loss, _ = self.engine.evaluate(name, batch)
            self.backward(loss)
        self.engine.optimisers[name].zero_grad(set_to_none=True)
        self.rehearsed.add(name)
        return joined([made])

    def around(self, name: str) -> AbstractContextManager[None]:
        """The context in which an objective's forward passes run."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]


@contextmanager
def no_trace(engine: Engine) -> Iterator[None]:
    """Inside, nothing has a lasting effect on the method's state, batch statistics and image pools included. Ranks do not wait for each
    other in the method's own collectives, so that one rank can fail on its own."""
    before = deepcopy(engine.method.state_dict())
    try:
        with this_rank_only():
            yield
    finally:
        engine.kept.clear()
        engine.method.load_state_dict(before)


@contextmanager
def outside_ddp(engine: Engine) -> Iterator[dict[str, LossModule]]:
    """Inside, the engine's losses are the bare modules that DDP wraps."""
    wrapped = engine.losses
    bare = {name: unwrapped(module) for name, module in wrapped.items()}
    engine.losses = dict[str, nn.Module](bare)
    try:
        yield bare
    finally:
        engine.losses = wrapped


def warm_up(engine: Engine, batch: Batch) -> None:
    """Compile if `train.compile` is set, then on more than one rank rehearse twice: after its first pass DDP lays out its buckets again and
    then, on more than two ranks, sums in another order, so that otherwise the first update of a resumed run would differ from that of an
    uninterrupted run."""
    if engine.world.size == 1 and not engine.train.compile:
        return
    part = engine.parts(batch)[0]
    with no_trace(engine):
        if engine.train.compile:
            compile_losses(engine, part)
        for _ in range(2 if engine.world.size > 1 else 0):
            Rehearsal(engine).run(part)


def compile_losses(engine: Engine, part: Batch) -> None:
    """Compile the losses. If that fails on any rank, print the reason on rank 0 and leave all losses uncompiled on all ranks."""
    with outside_ddp(engine) as bare:
        plain, rest = {name: module.run for name, module in bare.items()}, engine.rest
        for module in bare.values():
            module.run = compiled(module.run)
        engine.rest = {name: compiled(loss) for name, loss in rest.items()}
        reason = failure(lambda: Rehearsal(engine).run(part))
    if reasons := [each for each in engine.world.gather(reason) if each]:
        engine.rest = rest
        for name, module in bare.items():
            module.run = plain[name]
        if engine.world.leads:
            print(f"warning: train.compile=true does not work here, training continues without it ({reasons[0]})", flush=True)

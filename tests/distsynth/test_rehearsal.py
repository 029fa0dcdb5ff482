"""Rehearsals run every loss of a stage and have no lasting effect."""

from copy import deepcopy

import pytest
import torch
from workbench import CPU

from distsynth.bench.synthetic import method_of, noise, shipped
from distsynth.methods import registry
from distsynth.ranks import world
from distsynth.training import memory
from distsynth.training.engine import Engine
from distsynth.training.rehearsal import Rehearsal, no_trace


@pytest.mark.parametrize("name", registry.names())
def test_every_loss_is_rehearsed_and_nothing_is_left(name: str) -> None:
    """Batch statistics and image pools included; the memory plan is a rehearsal too."""
    config = shipped(f"{name}_small")
    method, size = method_of(config, 32)
    before = deepcopy(method.state_dict())
    for stage in method.stages(config.train):
        engine = Engine(method, stage, config.train, CPU)
        batch = noise(config.variant, 2, size, kind=method)
        rehearsal = Rehearsal(engine)
        with no_trace(engine):
            rehearsal.run(batch)
        assert rehearsal.rehearsed == set(stage.objectives)
        assert memory.plan(engine, batch).per_slice > 1
        assert not engine.kept
        assert not engine.running_losses.sums
        assert not any(optimiser.state for optimiser in engine.optimisers.values())
    assert all(parameter.grad is None for parameter in method.parameters())
    after = method.state_dict()
    assert all(torch.equal(torch.as_tensor(value), torch.as_tensor(after[key])) for key, value in before.items())


def test_inside_a_rehearsal_no_rank_waits_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were others: only the collective outside would be called."""
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 1 / 0)
    share = torch.ones(2, 3)
    with world.this_rank_only():
        whole, own = world.gathered(share)
    assert (whole.shape, own) == (share.shape, slice(0, 2))
    with pytest.raises(ZeroDivisionError):
        world.gathered(share)

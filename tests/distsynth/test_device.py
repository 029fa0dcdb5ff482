"""An update takes place on the batch's device alone, shown on torch's `meta` device, which has shapes and no numbers: a tensor left on
the CPU is refused there, and so is a number that the CPU would have to wait for."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from distsynth.bench.synthetic import method_of, noise, shipped
from distsynth.data.batch import Batch
from distsynth.methods.contract import Made, Method
from distsynth.run_directory import CONFIGS

META = torch.device("meta")


class Backward:
    """The engine's step without an optimiser."""

    def __init__(self, method: Method) -> None:
        self.objectives = method.objectives()

    def minimise(self, name: str, batch: Batch) -> Made:
        objective = self.objectives[name]
        made = objective.make(batch) if objective.make else {}
        objective.loss(batch.having(**made))[0].backward()  # type: ignore[no-untyped-call]
        return {name: tensor.detach() for name, tensor in made.items()}

    def make(self, name: str, batch: Batch) -> Made:
        make = self.objectives[name].make
        assert make is not None
        return {name: tensor.detach() for name, tensor in make(batch).items()}


@pytest.mark.parametrize("words", [
    *([path.stem] for path in sorted((CONFIGS / "method").glob("*_small.yaml"))),
    ["mmgan_small", "variant=siso"], ["stargan_small", "variant=siso"], ["tcmgan_small", "method.targets=all", "method.critic.sees_tumour=true"],
    ["tcmgan_small", "method.segmentor.norm=batch"],
], ids=" ".join)  # fmt: skip
def test_updates_and_synthesis_stay_on_the_device(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # meta has none
    config = shipped(words[0], *words[1:])
    method, size = method_of(config, 32)
    batch = noise(config.variant, 2, size, kind=method).to(META)
    method.to(META).train()
    step = Backward(method)
    for stage in method.stages(config.train):
        for number in range(2 * method.cycle):
            stage.update(replace(batch, update=number), step)
        for name in stage.objectives:
            gradients = [p.grad for p in step.objectives[name].network.parameters() if p.requires_grad]
            assert all(g is not None and g.device == META for g in gradients)
    if method.images:
        made: Tensor = method.eval().synthesise(batch.sources, batch.brain)
        assert made.device == META
        assert made.shape == batch.targets.shape

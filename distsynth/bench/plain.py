"""The updates of TC-MGAN and StarGAN step by step as in the published code, on the same networks: ours are timed against these.

A network's forward pass is run each time the procedure names it, real and fake images go through the critic separately, and a backward pass
also computes the gradients of networks that the step does not train. The results equal ours, as tests/distsynth/test_speed.py shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim import Optimizer

from distsynth.data.batch import Batch

Optimisers = Mapping[str, Optimizer]
Procedure = Callable[[Any, Batch, Optimisers], None]


def penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, epsilon: Tensor) -> Tensor:
    share = epsilon.view(-1, 1, 1, 1)
    between = (share * real + (1 - share) * fake).detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    value: Tensor = (slope.flatten(1).norm(dim=1) - 1).square().mean()
    return value


def dice(segmentation: Tensor, mask: Tensor) -> Tensor:
    both, each = (segmentation * mask).flatten(1).sum(1), segmentation.flatten(1).sum(1) + mask.flatten(1).sum(1)
    return (1 - (2 * both + 1) / (each + 1)).mean()


def classes(logits: Tensor, label: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(logits, label, reduction="sum") / len(logits)


def minimise(optimiser: Optimizer, loss: Tensor, networks: nn.Module) -> None:
    networks.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()


def tcmgan(method: Any, batch: Batch, optimisers: Optimisers) -> None:
    """One update of hellopipu/TC-MGAN's joint stage; as in ours, the segmentor scores with fixed statistics, and images are masked to the brain."""
    index = (batch.uniform("target") * method.outputs).long()
    label = torch.nn.functional.one_hot(index, method.outputs).to(batch.sources)
    maps = label[:, :, None, None].expand(-1, -1, *batch.sources.shape[-2:])
    real = batch.targets[torch.arange(len(batch), device=index.device), index].unsqueeze(1)
    w, s = method.weights, method.settings.segmentor

    def synthesised() -> Tensor:
        image: Tensor = method.generator(torch.cat([batch.sources, maps], 1))
        return image * batch.brain + batch.brain - 1

    def judged(image: Tensor) -> tuple[Tensor, Tensor]:
        value, logits = method.critic(torch.cat([image, batch.sources], 1))
        return value, logits

    def segmented(image: Tensor) -> Tensor:
        probability: Tensor = method.segmentor(torch.cat([image, maps], 1))
        return probability

    fake = synthesised().detach()
    on_real, logits = judged(real)
    on_fake, _ = judged(fake)
    gp = penalty(lambda image: judged(image)[0], real, fake, batch.uniform("penalty"))
    loss = -on_real.mean() + on_fake.mean() + w.cls * classes(logits, label) + w.gp * gp
    minimise(optimisers["critic"], loss, method)

    fake = synthesised()
    on_fake, logits = judged(fake)
    rec = (real - fake).abs().flatten(1).sum(1).mean()
    method.segmentor.eval()
    loss = -on_fake.mean() + w.cls * classes(logits, label) + w.rec * rec + w.seg * dice(segmented(fake), batch.tumour)
    method.segmentor.train()
    minimise(optimisers["generator"], loss, method)

    fake = synthesised().detach()
    on_fake, on_real = segmented(fake), segmented(real)
    loss = s.weight_synthesised * dice(on_fake, batch.tumour) + s.weight_real * dice(on_real, batch.tumour)
    minimise(optimisers["segmentor"], loss, method)


def stargan(method: Any, batch: Batch, optimisers: Optimisers) -> None:
    """One iteration of yunjey/StarGAN: the critic, and in every fifth iteration the generator."""
    drawn, w, places = method.draw(batch), method.weights, method.critic.places

    fake = method.generate(drawn.real, drawn.group, drawn.target, batch.brain).detach()
    on_real, logits = method.critic(drawn.real)
    on_fake, _ = method.critic(fake)
    gp = penalty(lambda image: method.critic(image)[0], drawn.real, fake, batch.uniform("penalty"))
    cls = method.classification(logits, drawn.group, drawn.source)
    minimise(optimisers["critic"], (on_fake.mean() - on_real.mean()) / places + w.cls * cls + w.gp * gp, method)
    if (batch.update + 1) % method.settings.n_critic:
        return
    fake = method.generate(drawn.real, drawn.group, drawn.target, batch.brain)
    on_fake, logits = method.critic(fake)
    cycled = method.generate(fake, drawn.group, drawn.source, batch.brain)
    cls, rec = method.classification(logits, drawn.group, drawn.target), (drawn.real - cycled).abs().mean()
    minimise(optimisers["generator"], -on_fake.mean() / places + w.cls * cls + w.rec * rec, method)


PROCEDURES: dict[str, Procedure] = {"tcmgan": tcmgan, "stargan": stargan}

"""The engine of one stage: optimisers, ranks, precision and accumulation around a method's objectives.

DDP wraps each loss, not each bare network: a module whose forward returns the scalar loss and which registers only the network that it
trains. So all passes of the critic and the penalty's double backward stay inside one forward, and N ranks give the same result as one.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from distsynth import metric_names
from distsynth.data.batch import Batch
from distsynth.methods.contract import Made, Method, Objective, Stage, Terms
from distsynth.ranks.world import World, fetched
from distsynth.settings import TrainSettings
from distsynth.training.ema import EMA
from distsynth.training.precision import full_products, resolve
from distsynth.training.running_losses import RunningLosses
from distsynth.training.schedule import share
from distsynth.training.timing import Timing
from preprocess.shared.errors import SettingError, UserError


class NonFinite(UserError):
    """A loss became NaN or infinite."""


class LossModule(nn.Module):
    """An objective as the module that DDP wraps. Its forward pass is the whole loss or, if the objective has it, only `make`: what the loss
    does with the output of `make` trains no other parameter."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.network = objective.network
        self.run = objective.make or objective.loss

    def forward(self, batch: Batch) -> Any:
        return self.run(batch)


class Engine:
    """Optimiser steps on a stage's objectives; `minimise` is what a method's `update` calls."""

    def __init__(self, method: Method, stage: Stage, train: TrainSettings, world: World, timing: Timing | None = None) -> None:
        self.method, self.stage, self.train, self.world = method, stage, train, world
        self.timing = timing or Timing(world, enabled=False)
        self.keep_norms, self.made = False, 0  # whether to keep this update's gradient norms; updates made by this engine
        self.norms: dict[str, Tensor] = {}
        self.dtype = common_dtype(resolve(train.precision, world.device), world)
        chosen = self.objectives = {name: method.objectives()[name] for name in stage.objectives}
        self.losses: dict[str, nn.Module] = {name: self.wrap(objective) for name, objective in chosen.items()}
        self.rest = {name: o.loss for name, o in chosen.items() if o.make}  # of the loss after `make`, outside DDP
        # Fused: one pass over the weights instead of a dozen; on a CPU it was eight times as fast.
        self.optimisers = {
            name: torch.optim.Adam(
                (p for p in o.network.parameters() if p.requires_grad),
                lr=stage.lr,
                betas=train.betas,
                weight_decay=train.weight_decay,
                fused=True,
            )
            for name, o in chosen.items()
        }
        self.scalers = {name: torch.amp.GradScaler(world.device.type, enabled=self.dtype is torch.float16) for name in chosen}
        self.running_losses = RunningLosses(world)
        main = stage.name == method.stages(train)[-1].name
        self.ema = EMA(method, train.ema if main else 0.0)
        self.kept: dict[str, Made] = {}  # outputs computed ahead of an objective's step, by objective

    def wrap(self, objective: Objective) -> nn.Module:
        module = LossModule(objective)
        if self.world.size == 1:
            return module
        parallel = DistributedDataParallel(module, gradient_as_bucket_view=True)
        self.timing.watch(parallel)
        return parallel

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.world.device.type, self.dtype, enabled=self.dtype is not torch.float32)

    def make(self, name: str, batch: Batch) -> Made:
        """See `distsynth.methods.contract.Step`. For a batch in micro-batches, `minimise` runs `make` again: that saves memory, not work."""
        if len(parts := self.parts(batch)) > 1:
            make = self.objectives[name].make
            assert make is not None
            with torch.no_grad(), self.autocast():
                return joined([make(part) for part in parts])
        return self.make_ahead(name, batch)

    def make_ahead(self, name: str, batch: Batch) -> Made:
        """Run `make` of the objective and keep its outputs, with their graph, for `evaluate` of the same batch."""
        with self.autocast():
            self.kept[name] = self.losses[name](batch)
        return joined([self.kept[name]])

    def minimise(self, name: str, batch: Batch) -> Made:
        """One step of the objective's optimiser on this rank's share of a global batch, one micro-batch at a time."""
        loss_module, optimiser, scaler = self.losses[name], self.optimisers[name], self.scalers[name]
        optimiser.zero_grad(set_to_none=True)
        parts, made = self.parts(batch), []
        for index, part in enumerate(parts):
            last = index == len(parts) - 1
            unsynced = nullcontext() if last or self.world.size == 1 else loss_module.no_sync()  # type: ignore[operator]
            with unsynced, full_products(self.objectives[name].penalised):
                outputs, loss, terms = self.evaluate(name, part)
                scaler.scale(loss * (len(part) / len(batch))).backward()  # type: ignore[no-untyped-call]
            made.append(outputs)
            self.running_losses.add(name, terms, len(part) / len(batch))
            self.world.watchdog.move()
        self.after_backward(name)
        before = steps_taken(optimiser)
        scaler.step(optimiser)
        scaler.update()
        if scaler.is_enabled():
            skipped = {metric_names.skipped(name): 1 - (steps_taken(optimiser) - before)}
            self.running_losses.add(f"{name}, scaled", skipped, 1.0)
        return joined(made)

    def evaluate(self, name: str, part: Batch) -> tuple[Made, Tensor, Terms]:
        """The outputs of the objective's `make` for a micro-batch, unless computed ahead; the loss; and its terms."""
        with self.autocast():
            if self.objectives[name].make is None:
                return {}, *self.losses[name](part)
            made = self.kept.pop(name, None) or self.losses[name](part)
            return made, *self.rest[name](part.having(**made))

    def parts(self, batch: Batch) -> list[Batch]:
        """The micro-batches of this rank's share of a batch."""
        return batch.split(self.train.micro_batch or len(batch))

    def update(self, batch: Batch, norms: bool = False) -> None:
        """The stage's update number `batch.update`. With `norms`, the norms of the gradients are kept (see `gradient_norms`)."""
        self.keep_norms = norms
        self.stage.update(batch, self)
        self.made += 1
        self.running_losses.updates += 1
        self.ema.update(batch.update + 1)

    @property
    def settled(self) -> bool:
        """Whether everything is compiled, so that further updates take as long as the last ones."""
        return self.made >= (self.method.cycle if self.train.compile else 1)

    def after_backward(self, name: str) -> None:
        """Mark the time and, if asked for, keep the norm of the gradient with fp16's scale removed."""
        self.timing.backward_ended()
        if self.keep_norms:
            self.scalers[name].unscale_(self.optimisers[name])
            self.norms[name] = gradient_norm(self.objectives[name].network)

    def gradient_norms(self) -> dict[str, float]:
        """The norms kept by the last update with `norms`, by objective, except of steps that fp16's scaler skips: these overflow on
        purpose."""
        norms = {metric_names.gradient_norm(name): float(fetched(norm)) for name, norm in self.norms.items()}
        self.norms = {}
        return {name: norm for name, norm in norms.items() if math.isfinite(norm)}

    def loss_scales(self) -> dict[str, float]:
        """fp16's scale of each objective's loss."""
        return {metric_names.loss_scale(name): s.get_scale() for name, s in self.scalers.items() if s.is_enabled()}

    def losses_since_last(self, step: int) -> dict[str, float]:
        """The mean of every term over the ranks and the updates since the last call. Raises NonFinite."""
        self.check(step)
        return self.running_losses.take()

    def check(self, step: int) -> None:
        """Raise NonFinite on every rank, naming method, stage, term, update and rank, if a term was not finite since the last check."""
        if (bad := self.running_losses.first_bad()) is not None:
            update, rank, term = bad
            raise NonFinite(
                self.explain(f"{term} of {self.where} was not finite", step - self.running_losses.updates + update + 1, rank)
            )

    def check_weights(self, step: int) -> None:
        """Raise NonFinite if a weight is not finite, on every rank because all ranks hold the same weights: such weights must not become
        the newest checkpoint."""
        for name, objective in self.objectives.items():
            if not fetched(nn.utils.get_total_norm(list(objective.network.parameters()))).isfinite():
                raise NonFinite(
                    self.explain(f"a weight that {name} of {self.where} trains was not finite", step, self.world.rank)
                )

    @property
    def where(self) -> str:
        return f"method {self.method.Settings.name}, stage {self.stage.name},"

    def explain(self, what: str, step: int, rank: int) -> str:
        return f"{what} at step {step} on rank {rank}: lower train.lr or check the data; the last checkpoint is kept"

    def set_epoch(self, epoch: int) -> float:
        """Set the learning rate of an epoch on every optimiser, and return it."""
        lr = self.stage.lr * share(self.stage.schedule, epoch)
        for optimiser in self.optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] = lr
        return lr

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimisers": {name: o.state_dict() for name, o in self.optimisers.items()},
            "scalers": {name: s.state_dict() for name, s in self.scalers.items()},
            "tally": self.running_losses.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])
            if state["scalers"][name]:  # empty if the run had no scaler so far, on a GPU that takes bf16
                self.scalers[name].load_state_dict(state["scalers"][name])
        self.running_losses.load_state_dict(state["tally"])


def common_dtype(dtype: torch.dtype, world: World) -> torch.dtype:
    """The dtype of autocast, the same on every rank. Raises SettingError if the ranks' GPUs would use different ones: gradients that only
    some ranks scale cannot be averaged."""
    if len(kinds := {str(kind).removeprefix("torch.") for kind in world.gather(dtype)}) > 1:
        raise SettingError(
            f"the ranks' GPUs would take {' and '.join(sorted(kinds))}: set train.precision to one that all of them support"
        )
    return dtype


def joined(parts: list[Made]) -> Made:
    """The outputs for the micro-batches as those for the batch, without gradients."""
    return {name: torch.cat([part[name].detach() for part in parts]) for name in parts[0]}


def steps_taken(optimiser: torch.optim.Optimizer) -> Tensor:
    """The steps that the optimiser has made, without those that fp16's scaler made it skip, still on the device."""
    return next((state["step"].clone() for state in optimiser.state.values()), torch.zeros(()))


def unwrapped(module: nn.Module) -> LossModule:
    """The loss inside DDP, or the module itself if it is not wrapped."""
    inner = module.module if isinstance(module, DistributedDataParallel) else module
    assert isinstance(inner, LossModule)
    return inner


def gradient_norm(network: nn.Module) -> Tensor:
    """L2 norm over all parameters; it is that of the global batch's gradient once DDP has averaged it."""
    return nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None])

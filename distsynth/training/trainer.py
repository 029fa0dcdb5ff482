"""The training loop: stages, epochs, updates; validation, checkpoints, journal; and resuming where a killed run stopped.

All random draws are keyed by (seed, stage, epoch, sample), so that a resumed run needs only counters and weights.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, NoReturn

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from distsynth import metric_names
from distsynth.config import Config
from distsynth.data.batch import Batch
from distsynth.data.cohorts import Opened
from distsynth.data.feed import Feed
from distsynth.data.intensity_map import IntensityMap
from distsynth.data.randomness import key
from distsynth.methods.contract import Stage
from distsynth.ranks.preemption import Stopped, StopRequest
from distsynth.ranks.world import World
from distsynth.run_directory import RunDirectory
from distsynth.tracking.journal import Journal
from distsynth.training import checkpoint, memory
from distsynth.training.checkpoint import Saver
from distsynth.training.engine import Engine
from distsynth.training.finetune import begin_from, freeze, train_but_frozen
from distsynth.training.model import build
from distsynth.training.patients import patients
from distsynth.training.precision import lay_out
from distsynth.training.profiler import profiled
from distsynth.training.rehearsal import warm_up
from distsynth.training.timing import Timing, seconds_since_start
from distsynth.training.validation import validate
from preprocess.shared.errors import UserError
from preprocess.shared.settings import differences


@dataclass
class Position:
    """The progress of a run: the next update to make."""

    stage: int = 0
    epoch: int = 0
    step: int = 0  # within the epoch
    total: int = 0  # updates made in all stages
    best: float | None = None  # the best validation score of the last stage


class Trainer:
    """One run, on one rank."""

    # -- the loop ------------------------------------------------------------------------------------------------------

    def fit(self) -> None:
        """Train to the end. Raises Stopped if asked to stop, NonFinite, StoreError."""
        self.note_start()
        try:
            with profiled(self.run.profile, self.config.train.profile and self.world.leads) as self.after_update:
                for stage in self.stages[self.at.stage :]:
                    self.run_stage(stage)
        except BaseException:
            with suppress(Exception):
                self.saver.finish()
            raise
        self.finish_saving()

    def run_stage(self, stage: Stage) -> None:
        engine, feed = self.prepare(stage)
        for epoch in range(self.at.epoch, stage.epochs):
            self.run_epoch(stage, engine, feed)
            ended = epoch + 1 == stage.epochs
            best = (ended or (epoch + 1) % self.config.train.validate_every == 0) and self.validate(stage, engine)
            self.at.epoch, self.at.step = epoch + 1, 0
            if ended:
                self.at.stage, self.at.epoch = self.at.stage + 1, 0
            if ended or self.agree(0, best or self.saver.cheap)[1]:
                self.save(engine, best, ended)

    def run_epoch(self, stage: Stage, engine: Engine, feed: Feed) -> None:
        steps = feed.steps(stage.batch, self.config.train.steps_per_epoch)
        train_but_frozen(self.model.method)
        if self.world.watchdog.phase == "validation":
            self.world.watchdog.enter("step", self.at.total)
        lr = engine.set_epoch(self.at.epoch)
        self.timing.begin()
        for batch in self.timing.waiting_for(self.batches(stage, feed, range(self.at.step, steps))):
            logged = (self.at.step + 1) % self.config.train.log_every == 0 or self.at.step + 1 == steps
            self.update(stage, engine, batch, self.at.epoch * steps + self.at.step, logged)
            if logged:
                self.log(stage, engine, lr, steps)
            stop, due = self.agree(self.stop.number, self.saver.due(self.config.train.checkpoint_minutes))
            if stop:
                self.save_and_stop(engine, Stopped(stop))
            if due:
                self.save(engine)

    def update(self, stage: Stage, engine: Engine, batch: Batch, number: int, logged: bool) -> None:
        """Make the stage's update with this number, counted from 0."""
        # Draws from torch's own generator (dropout) depend on the position too, so that no generator's state needs saving.
        torch.manual_seed(key(self.config.seed, stage.name, self.at.epoch, self.at.step, self.world.rank) >> 1)
        engine.update(replace(batch, epoch=self.at.epoch, update=number), norms=self.config.train.timing and logged)
        self.at.step += 1
        self.at.total += 1
        self.world.watchdog.enter("step" if engine.settled else "first_step", self.at.total)
        if self.at.total == self.resumed_at + 1:
            self.saver.note("metrics", step=self.at.total, values={metric_names.seconds("first_step"): seconds_since_start()})
        self.after_update()

    # -- before and beside the updates ---------------------------------------------------------------------------------

    def __init__(self, config: Config, opened: Opened, run: RunDirectory, world: World, stop: StopRequest) -> None:
        """Build the method for the cohorts that preflight has opened, and load the newest checkpoint. Raises UserError before any work starts."""
        self.config, self.cohort, self.run, self.world, self.stop = config, opened.cohort, run, world, stop
        self.report(opened.left_out)
        self.patients("gan", "training")
        self.patients("val", "validation")
        self.model = build(config, self.cohort, IntensityMap.of(self.cohort, self.cohort.split("gan"), config.data.clip))
        for external in opened.externals.values():
            self.model.refuse_larger(*external)
        self.model.method.to(world.device)
        lay_out(self.model.method, config.train.channels_last)
        self.warn_about_batch_norm()
        self.at, self.resumed, length = self.resume()
        self.resumed_at = self.at.total
        self.stages = self.model.method.stages(config.train)  # without frozen networks
        for stage in self.stages:
            self.patients(stage.split, f"stage {stage.name}")
        self.saver = Saver(run.checkpoints, Journal(run.journal, length) if world.leads else None, world.watchdog)
        self.timing = Timing(world, config.train.timing)

    def patients(self, split: str, purpose: str) -> list[str]:
        return patients(self.config, self.cohort, split, purpose)

    def warn_about_batch_norm(self) -> None:
        """The statistics of batch norms are each rank's own, at least on CPUs: warn that the result then depends on the number of ranks."""
        norms = [name for name, part in self.model.method.named_modules() if isinstance(part, _BatchNorm)]
        if norms and self.world.size > 1:
            self.report(f"warning: {norms[0]} and {len(norms) - 1} more are batch norms, whose statistics each of the {self.world.size} ranks "
                     "takes from its own share of the batch: the result depends on the number of ranks, unlike with norm=instance")  # fmt: skip

    def resume(self) -> tuple[Position, dict[str, Any] | None, int]:
        """Load the weights of the newest good checkpoint. Returns its position; its state if the engine resumes from it (None at the
        beginning of a stage); and the journal's length. Raises UserError if the checkpoint does not match the run."""
        if self.world.leads:
            checkpoint.remove_partial(self.run.checkpoints)
        newest = checkpoint.newest(self.run.checkpoints) if self.world.leads else None
        path = self.world.gather(newest[1] if newest else None)[0]
        if path is None:
            self.report(begin_from(self.model.method, self.config, self.cohort))
            if self.config.train.init_from:
                self.model = self.model.after(checkpoint.load(RunDirectory(self.config.train.init_from).checkpoints / "best.pt"))
            return Position(), None, 0
        state = newest[0] if newest else checkpoint.load(path)
        if other := differences(state["made_from"], self.made_from):
            raise UserError(
                f"checkpoint {path} does not match the run ({other[0]}): start a new run, or restore that setting or cohort"
            )
        self.model.method.load_state_dict(state["method"])
        self.model = self.model.after(state)
        freeze(self.model.method, self.config.train)
        return Position(**state["position"]), state if state["engine"] else None, state["journal"]

    @property
    def made_from(self) -> dict[str, Any]:
        """What must be equal for a checkpoint to match the run."""
        own = {"method": asdict(self.config.method), "variant": asdict(self.config.variant), "freeze": self.config.train.freeze}
        return {**own, "recipe": self.cohort.recipe, "store": self.cohort.digest[:12]}

    def prepare(self, stage: Stage) -> tuple[Engine, Feed]:
        """The stage's engine and feed. Plans the memory, warms up losses and ranks, and resumes the engine's state."""
        self.world.watchdog.enter("first_step", self.at.total)
        engine = Engine(self.model.method, stage, self.config.train, self.world, self.timing)
        members = self.patients(stage.split, f"stage {stage.name}")
        feed = self.model.feed(self.cohort, members, self.config.data, self.world.share)
        feed.steps(stage.batch)  # raises SettingError if the stage has fewer slices than a batch
        first = next(self.batches(stage, feed, range(1), epoch=0)).to(self.world.device)
        plan = memory.plan(engine, first)
        self.saver.note("memory", **plan.line())
        at_once = min(len(first), self.config.train.micro_batch or len(first))
        self.report(memory.describe(plan, at_once, memory.gpu_bytes(self.world.device)))
        warm_up(engine, first)
        if self.resumed is not None:
            engine.load_state_dict(self.resumed["engine"])
            engine.ema.load(self.resumed.get("average", {}))
            self.resumed = None
        return engine, feed

    def batches(self, stage: Stage, feed: Feed, steps: range, epoch: int | None = None) -> Iterator[Batch]:
        """This rank's share of the epoch's global batches."""
        number = self.at.epoch if epoch is None else epoch
        return feed.batches(stage.name, number, self.config.seed, stage.batch, steps, self.world.rank, self.world.size)

    def agree(self, stop: int, due: bool) -> tuple[int, bool]:
        """The signal by which any rank was asked to stop, and whether a checkpoint is due: the same on all ranks."""
        with self.timing.part("communication"):
            both = self.world.largest(torch.tensor([stop, int(due)]))
            return int(both[0]), bool(both[1])

    def note_start(self) -> None:
        device, host = str(self.world.device), socket.gethostname()
        self.saver.note("start", resumed_at=self.at.total, world_size=self.world.size, device=device, host=host, pid=os.getpid())

    def log(self, stage: Stage, engine: Engine, lr: float, steps: int) -> None:
        """Write the losses to the journal, and at the end of an epoch to the screen, in the columns of the report's Tables 5 and 6."""
        losses = engine.losses_since_last(self.at.total)
        terms = losses | engine.gradient_norms() | engine.loss_scales() | {"lr": lr}
        curves = {metric_names.in_stage(stage.name, term): value for term, value in terms.items()}
        self.saver.note("metrics", step=self.at.total, values=curves | self.timing.values())
        epoch, step = self.at.epoch + 1, self.at.epoch * steps + self.at.step
        self.saver.note("progress", stage=stage.name, epoch=epoch, epochs=stage.epochs, step=step, steps=stage.epochs * steps)
        if self.at.step == steps:
            self.report(f"{stage.name} epoch {epoch}/{stage.epochs}: " + " ".join(f"{k} {v:.4g}" for k, v in losses.items()))

    def validate(self, stage: Stage, engine: Engine) -> bool:
        """Score whole volumes of the val patients. Returns whether the last stage's mean score is the best so far. If a stop interrupts it,
        the resumed run starts with it, since its epoch has no update left."""
        self.world.watchdog.enter("validation", self.at.total)
        subjects = self.patients("val", "validation")
        try:
            with engine.ema.in_place():
                scores = validate(self.model, stage, self.cohort, subjects, self.config.data.clip, self.world, self.stop)
        except Stopped as stopped:
            self.save_and_stop(engine, stopped)
        if not scores:  # the stage scores tumours, but no val patient has a segmentation
            return False
        named = {metric_names.at_validation(name): value for name, value in scores.items()}
        self.saver.note("metrics", step=self.at.total, values=named)
        self.report("  val " + " ".join(f"{name} {value:.4g}" for name, value in scores.items()))
        mean = sum(scores.values()) / len(scores)
        best = stage is self.stages[-1] and (self.at.best is None or mean > self.at.best)
        if best:
            self.at.best = mean
        return best

    def save(self, engine: Engine, best: bool = False, ended: bool = False) -> None:
        """Save a checkpoint of everything, without the engine's state if its stage has ended."""
        self.saver.save(lambda: self.state(engine, ended), self.at.total, best)
        self.timing.seconds["checkpoint"] += self.saver.stall
        self.saver.note("metrics", step=self.at.total, values={metric_names.seconds("checkpoint_stall"): self.saver.stall})

    def state(self, engine: Engine, ended: bool) -> dict[str, Any]:
        """The contents of a checkpoint. Raises NonFinite, so that no checkpoint contains a NaN."""
        engine.check(self.at.total)
        engine.check_weights(self.at.total)
        return {
            **self.model.state_dict(),
            "average": engine.ema.weights,
            "engine": None if ended else engine.state_dict(),
            "position": asdict(self.at),
            "made_from": self.made_from,
        }

    def save_and_stop(self, engine: Engine, stopped: Stopped) -> NoReturn:
        """Raise `stopped` once a checkpoint of the current position is durable."""
        self.save(engine)
        self.finish_saving()
        raise stopped

    def finish_saving(self) -> None:
        """Wait, on every rank, until the last checkpoint is durable."""
        self.saver.finish()
        self.world.barrier()

    def report(self, text: str) -> None:
        if text and self.world.leads:
            print(text, flush=True)

"""The training loop: stages, epochs, updates; validation, checkpoints, journal; and going on where a killed run was.

Everything random is keyed by (seed, stage, epoch, sample), so that a resumed run needs counters and weights alone.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, NoReturn

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from distsynth import metric_names
from distsynth.config import Config
from distsynth.data.batch import Batch
from distsynth.data.cohorts import open_cohort, open_external, scored
from distsynth.data.feed import Feed
from distsynth.data.intensity_map import IntensityMap
from distsynth.data.randomness import key
from distsynth.methods import registry
from distsynth.methods.contract import Stage
from distsynth.preflight import check, left_out
from distsynth.ranks.preemption import Stopped, StopRequest
from distsynth.ranks.world import World
from distsynth.run_directory import RunDirectory
from distsynth.tracking.journal import Journal
from distsynth.training import checkpoint, memory
from distsynth.training.engine import Engine
from distsynth.training.finetune import begin_from, freeze, train_but_frozen
from distsynth.training.model import build, feed_of
from distsynth.training.precision import lay_out
from distsynth.training.profiler import profiled
from distsynth.training.timing import Timing, seconds_since_start
from distsynth.training.validation import validate
from preprocess.cohort import differences
from preprocess.shared.errors import StoreError, UserError


@dataclass
class Position:
    """How far a run has come: the next update to make."""

    stage: int = 0
    epoch: int = 0
    step: int = 0  # within the epoch
    total: int = 0  # updates made in all stages
    best: float | None = None  # the best validation score of the last stage


class Trainer:
    """One run, on one rank."""

    def __init__(self, config: Config, run: RunDirectory, world: World, stop: StopRequest) -> None:
        """Open the cohort, build the method, take up the newest checkpoint. Raises UserError before any work is done."""
        self.config, self.run, self.world, self.stop = config, run, world, stop
        check(config, world.size)
        incomplete = registry.method(config.method.name).incomplete
        self.cohort = open_cohort(config.data.store, config.variant, config.data.fold, incomplete)
        self.say(left_out(config))
        self.patients("gan", "training")
        self.patients("val", "validation")
        self.model = build(config, self.cohort, IntensityMap.of(self.cohort, self.cohort.split("gan"), config.data.clip))
        for store in config.data.external.values():
            self.model.refuse_larger(*open_external(store, config.variant))
        self.model.method.to(world.device)
        lay_out(self.model.method, config.train.channels_last)
        self.warn_of_batch_norm()
        self.writer = checkpoint.Writer(world.watchdog)
        self.writing: int | None = None
        self.improved = False  # best.pt is to be written with the next checkpoint
        self.at, self.taken, length = self.resume()
        self.stages = self.model.method.stages(config.train)  # without what is frozen
        for stage in self.stages:
            self.patients(stage.split, f"stage {stage.name}")
        self.journal = Journal(run.journal, length) if world.leads else None
        self.timing = Timing(world, config.train.timing)
        self.saved, self.stall = time.monotonic(), 0.0
        self.stepped, self.firsts = False, 1

    def patients(self, split: str, what: str) -> list[str]:
        """The subjects of a split, for validation those that can be scored. Raises StoreError if there are none."""
        there, kind = self.cohort.split(split), registry.method(self.config.method.name)
        subjects = scored(self.cohort, there, self.config.variant) if split == "val" else there
        who = "" if subjects or not there else f" with the inputs and an output of variant {self.config.variant.name}"
        if subjects and kind.tumours and not (split == "val" and kind.images):
            subjects = [subject for subject in subjects if self.cohort.record(subject).has_labels]
            who = " with a segmentation"
        if subjects:
            return subjects
        raise StoreError(
            f"cohort {self.cohort.path} has no patients{who} in split {split} for {what}: make it with other split.* settings"
        )

    def warn_of_batch_norm(self) -> None:
        """Its statistics are each rank's own, on CPUs anyway: say that more ranks then train something else."""
        normed = [name for name, part in self.model.method.named_modules() if isinstance(part, _BatchNorm)]
        if normed and self.world.size > 1:
            self.say(f"warning: {normed[0]} and {len(normed) - 1} more are batch norms, whose statistics each of the {self.world.size} ranks "
                     "takes from its own share of the batch: the result depends on the number of ranks; norm=instance does not")  # fmt: skip

    def resume(self) -> tuple[Position, dict[str, Any] | None, int]:
        """Position, what the engine goes on from (None at a stage's beginning) and journal length of the newest good checkpoint, whose
        weights are taken up. Raises UserError if it was made from something else."""
        if self.world.leads:
            checkpoint.sweep(self.run.checkpoints)
        found = checkpoint.newest(self.run.checkpoints) if self.world.leads else None
        path = self.world.gather(found[1] if found else None)[0]
        if path is None:
            self.say(begin_from(self.model.method, self.config))
            return Position(), None, 0
        state = found[0] if found else checkpoint.load(path)
        if other := differences(state["made_from"], self.made_from):
            raise UserError(f"{path} was made from something else ({other[0]}): start a new run, or bring the old back")
        self.model.method.load_state_dict(state["method"])
        freeze(self.model.method, self.config.train)
        return Position(**state["position"]), state if state["engine"] else None, state["journal"]

    @property
    def made_from(self) -> dict[str, Any]:
        """What a checkpoint fits to alone."""
        own = {"method": asdict(self.config.method), "variant": asdict(self.config.variant), "freeze": self.config.train.freeze}
        return {**own, "recipe": self.cohort.recipe, "store": self.cohort.digest[:12]}

    def fit(self) -> None:
        """Train to the end. Raises Stopped when asked to stop, NonFinite, StoreError."""
        where = {
            "world_size": self.world.size,
            "device": str(self.world.device),
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
        self.note("start", resumed_at=self.at.total, **where)
        try:
            with profiled(self.run.profile, self.config.train.profile and self.world.leads) as self.after_update:
                while self.at.stage < len(self.stages):
                    self.run_stage(self.stages[self.at.stage])
        except BaseException:
            with suppress(Exception):
                self.finish_writing()
            raise
        self.settle()

    def run_stage(self, stage: Stage) -> None:
        self.world.watchdog.enter("first_step", self.at.total)
        self.firsts = self.model.method.cycle if self.config.train.compile else 1  # updates that may still compile something
        engine = Engine(self.model.method, stage, self.config.train, self.world, self.timing)
        feed = feed_of(
            self.model.method,
            self.cohort,
            self.patients(stage.split, f"stage {stage.name}"),
            self.config.variant,
            self.model.mapping,
            self.config.data,
            self.model.size,
            self.world.share,
        )
        steps = feed.steps(stage.batch, self.config.train.steps_per_epoch)
        first = next(self.batches(stage, feed, 0, range(1))).to(self.world.device)
        self.plan_memory(engine, first)
        engine.warm_up(first)
        if self.taken is not None:
            engine.load_state_dict(self.taken["engine"])
            engine.ema.load(self.taken.get("average", {}))
            self.taken = None
        for epoch in range(self.at.epoch, stage.epochs):
            self.run_epoch(stage, engine, feed, steps)
            ended = epoch + 1 == stage.epochs
            if (epoch + 1) % self.config.train.validate_every == 0 or ended:
                self.validate(stage, engine)
            self.at.epoch, self.at.step = epoch + 1, 0
            if ended:
                self.at.stage, self.at.epoch = self.at.stage + 1, 0
            if ended or self.agree(0, self.improved or self.cheap)[1]:
                self.save(engine, ended)

    def plan_memory(self, engine: Engine, batch: Batch) -> None:
        """What the stage will take of a rank's memory, to the screen and the journal."""
        found = memory.plan(engine, batch)
        self.note("memory", **found.line())
        at_once = min(len(batch), self.config.train.micro_batch or len(batch))
        self.say(memory.told(found, at_once, memory.card_of(self.world.device)))

    def run_epoch(self, stage: Stage, engine: Engine, feed: Feed, steps: int) -> None:
        train_but_frozen(self.model.method)
        if self.world.watchdog.phase == "validation":
            self.world.watchdog.enter("step", self.at.total)
        lr = engine.set_epoch(self.at.epoch)
        self.timing.begin()
        for batch in self.timing.waiting_for(self.batches(stage, feed, self.at.epoch, range(self.at.step, steps))):
            # What draws from torch's own generator (dropout) is a function of the place too, so that no generator's state is kept.
            torch.manual_seed(key(self.config.seed, stage.name, self.at.epoch, self.at.step, self.world.rank) >> 1)
            engine.look = self.config.train.timing and self.logs(self.at.step + 1, steps)
            now = self.at.epoch * steps + self.at.step
            stage.update(replace(batch, epoch=self.at.epoch, update=now), engine)
            engine.updated(now + 1)
            self.at.step += 1
            self.at.total += 1
            self.firsts -= 1
            self.world.watchdog.enter("first_step" if self.firsts > 0 else "step", self.at.total)
            if not self.stepped:
                self.stepped = True
                self.note("metrics", step=self.at.total, values={metric_names.seconds("first_step"): seconds_since_start()})
            self.after_update()
            if self.logs(self.at.step, steps):
                self.log(stage, engine, lr, steps)
            stop, due = self.agree(self.stop.number, time.monotonic() - self.saved > 60 * self.config.train.checkpoint_minutes)
            if stop:
                self.leave(engine, Stopped(stop))
            if due:
                self.save(engine)

    def logs(self, step: int, steps: int) -> bool:
        """Whether the journal gets a line after an epoch's update number `step`."""
        return step % self.config.train.log_every == 0 or step == steps

    def batches(self, stage: Stage, feed: Feed, epoch: int, steps: range) -> Iterator[Batch]:
        """This rank's share of an epoch's global batches."""
        return feed.batches(stage.name, epoch, self.config.seed, stage.batch, steps, self.world.rank, self.world.size)

    def agree(self, stop: int, due: bool) -> tuple[int, bool]:
        """A stop that any rank was asked for, and whether a checkpoint is due, the same on all ranks."""
        with self.timing.part("communication"):
            both = self.world.largest(torch.tensor([stop, int(due)]))
            return int(both[0]), bool(both[1])

    def log(self, stage: Stage, engine: Engine, lr: float, steps: int) -> None:
        """Losses to the journal, and at the epoch's end to the screen, in the columns of the report's Tables 5 and 6."""
        losses = engine.losses_since_last(self.at.total)
        curves = {
            metric_names.in_stage(stage.name, k): v for k, v in [*losses.items(), *engine.gradient_norms().items(), ("lr", lr)]
        }
        self.note("metrics", step=self.at.total, values=curves | self.timing.values())
        at = {
            "epoch": self.at.epoch + 1,
            "epochs": stage.epochs,
            "step": self.at.epoch * steps + self.at.step,
            "steps": stage.epochs * steps,
        }
        self.note("progress", stage=stage.name, **at)
        if self.at.step == steps:
            self.say(f"{stage.name} epoch {at['epoch']}/{stage.epochs}: " + " ".join(f"{k} {v:.4g}" for k, v in losses.items()))

    def validate(self, stage: Stage, engine: Engine) -> None:
        """Whole volumes of the val patients; the last stage's mean score chooses the best checkpoint. Where it is cut short by a stop, the
        resumed run, whose epoch has no update left, begins with it."""
        self.world.watchdog.enter("validation", self.at.total)
        subjects = self.patients("val", "validation")
        try:
            with engine.ema.in_place():
                scores = validate(self.model, stage, self.cohort, subjects, self.config.data.clip, self.world, self.stop)
        except Stopped as stopped:
            self.leave(engine, stopped)
        if not scores:  # a stage that scores tumours, and no val patient has a segmentation
            return
        self.note(
            "metrics", step=self.at.total, values={metric_names.at_validation(name): value for name, value in scores.items()}
        )
        self.say("  val " + " ".join(f"{name} {value:.4g}" for name, value in scores.items()))
        mean = sum(scores.values()) / len(scores)
        if stage is self.stages[-1] and (self.at.best is None or mean > self.at.best):
            self.at.best, self.improved = mean, True

    def save(self, engine: Engine, ended: bool = False) -> None:
        """A checkpoint of everything, of which training waits for a copy in memory alone; none of the engine where its stage has ended."""
        began = time.perf_counter()
        engine.check(self.at.total)
        engine.check_weights(self.at.total)
        engine_state = None if ended else engine.state_dict()
        if self.journal is not None:
            self.finish_writing()
            state = checkpoint.snapshot(
                {
                    **self.model.state_dict(),
                    "average": engine.ema.weights,
                    "engine": engine_state,
                    "position": asdict(self.at),
                    "made_from": self.made_from,
                    "journal": self.journal.hold(),
                }
            )
            write = partial(
                checkpoint.write, state, self.run.checkpoints, self.at.total, self.improved, self.journal.file.fileno()
            )
            self.writing = self.at.total
            self.writer.start(write, self.at.total)
        self.improved = False
        self.saved, self.stall = time.monotonic(), time.perf_counter() - began
        self.timing.seconds["checkpoint"] += self.stall
        self.note("metrics", step=self.at.total, values={metric_names.seconds("checkpoint_stall"): self.stall})

    @property
    def cheap(self) -> bool:
        """Whether another checkpoint would hold up training by less than a hundredth of the time since the last one, as the rank that writes it
        sees it."""
        return self.world.leads and not self.writer.busy and time.monotonic() - self.saved > 100 * self.stall

    def finish_writing(self) -> None:
        """Wait for the checkpoint that is being written, and note that it is durable."""
        if self.journal is None or self.writing is None:
            return
        with self.world.watchdog.during("checkpoint"):
            self.writer.finish()
        self.journal.release(self.writing)
        self.writing = None

    def leave(self, engine: Engine, stopped: Stopped) -> NoReturn:
        """End as asked, once a checkpoint of where it is now is durable."""
        self.save(engine)
        self.settle()
        raise stopped

    def settle(self) -> None:
        """Every rank waits until the last checkpoint is durable."""
        self.finish_writing()
        self.world.barrier()

    def note(self, kind: str, **fields: Any) -> None:
        if self.journal is None:
            return
        if not self.writer.busy:
            self.finish_writing()
        self.journal.write(kind, **fields)

    def say(self, text: str) -> None:
        if text and self.world.leads:
            print(text, flush=True)

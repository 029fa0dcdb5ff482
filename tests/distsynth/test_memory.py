"""The memory plan against what a process then takes."""

from pathlib import Path
from typing import Any

import pytest

from distsynth.training.memory import OVERHEAD, USABLE, MemoryPlan, told

# Peak of the resident set over two updates, less what was there before the networks, in a process of its own.
PEAK = """
import sys, torch
from pathlib import Path
from distsynth.bench.synthetic import method_of, noise
from distsynth.config import compose
from distsynth.training.distributed import world
from distsynth.training.engine import Engine
from distsynth.training.memory import plan

def resident(field):
    return int(Path("/proc/self/status").read_text().split(field + ":")[1].split()[0]) * 1024

torch.set_num_threads(1)
pixels, slices, *words = sys.argv[1:]
config = compose(words)
torch.nn.Conv2d(1, 1, 3)(torch.zeros(1, 1, 8, 8)).sum().backward()
with world("cpu", 1) as ranks:
    for slices in (int(slices), 0):
        if slices == 0:
            method, size = method_of(config, int(pixels))
            engine = Engine(method, method.stages(config.train)[-1], config.train, ranks)
            print(found.total(done), peak, plan(engine, noise(config.variant, 1, size)).per_slice)
            break
        before = resident("VmRSS")
        method, size = method_of(config, int(pixels))
        stage = method.stages(config.train)[-1]
        engine = Engine(method, stage, config.train, ranks)
        batch = noise(config.variant, slices, size)
        for _ in range(2):
            stage.update(batch, engine.minimise)
        peak, done = resident("VmHWM") - before, slices
        found = plan(engine, batch)
"""

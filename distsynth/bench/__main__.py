"""Benchmarks on this machine.

    python -m distsynth.bench start data.store=data/phantom.zarr method=tcmgan_small repeats=5
    python -m distsynth.bench checkpoint data.store=data/phantom.zarr method=tcmgan train.epochs=3
    python -m distsynth.bench overhead method=tcmgan_small
    python -m distsynth.bench memory
    python -m distsynth.bench scaling method=tcmgan_small
    python -m distsynth.bench speed method=tcmgan
    python -m distsynth.bench inference method=unet variant=miso_flair
    python -m distsynth.bench intervals
    python -m distsynth.bench gpu

start      seconds from the start of a training process to the end of its first update, imports and opening the cohort included
checkpoint seconds that a checkpoint pauses training, as a share of the seconds between two checkpoints
overhead   what the journal, the timing and the gradient norms cost, as a share of an update's time
memory     the memory that each method takes, and the largest batch that fits on GPUs of 6, 8, 16, 24 and 80 GB
scaling    updates on 1, 2 and 4 ranks here, what their communication costs, and predictions of a cost model for 8 to 1,024 GPUs
speed      an update compared with the published procedure, on the same networks
inference  one patient's synthesis compared with MONAI's sliding-window inferer, on the same network: seconds and memory
intervals  in what share of simulated cohorts the interval of distsynth.compare holds the true difference
gpu        whether this machine's GPUs, driver and build of torch compute what they should; a report to paste into an issue

Training settings (method=, variant=, train.…) select what is measured; each benchmark's own settings are at the top of its file.
Comparing the methods' scores is a sweep: python slurm/launch.py sweep=methods
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module

from preprocess.shared.errors import SettingError
from preprocess.shared.settings import command

BENCHES = ("start", "checkpoint", "overhead", "memory", "scaling", "speed", "inference", "intervals", "gpu")


def main(words: Sequence[str]) -> int:
    if not words or words[0] not in BENCHES:
        raise SettingError(f"name a benchmark first: {', '.join(BENCHES)}")
    bench: Callable[[Sequence[str]], int] = import_module(f"distsynth.bench.{words[0]}").main
    return bench(words[1:])


if __name__ == "__main__":
    command(main, __doc__)

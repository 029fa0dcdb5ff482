"""Figures of merit, measured on the machine at hand.

    python -m distsynth.bench start data.store=data/phantom.zarr method=tcmgan_small repeats=5
    python -m distsynth.bench checkpoint data.store=data/phantom.zarr method=tcmgan train.epochs=3
    python -m distsynth.bench overhead method=tcmgan_small
    python -m distsynth.bench memory
    python -m distsynth.bench scaling method=tcmgan_small
    python -m distsynth.bench speed method=tcmgan

start      seconds from the start of a training process to the end of its first update, imports and opening the cohort included
checkpoint seconds that training stands still for a checkpoint, of the seconds between two
overhead   the share of an update's time that the journal, the timing and the gradient norms take
memory     what each method takes, and the largest batch that GPUs of 6, 8, 16, 24 and 80 GB hold
scaling    1, 2 and 4 ranks here, the cost of their communication, and a cost model's prediction for 8 to 1,024 GPUs
speed      an update compared with the published procedure written out, on the same networks

Settings of the training (method=, variant=, train.…) choose what is measured; each bench's own settings are at the head of its file.
Comparing the methods' scores is a sweep: python slurm/launch.py sweep=methods
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module

from preprocess.shared.errors import SettingError
from preprocess.shared.settings import command

BENCHES = ("start", "checkpoint", "overhead", "memory", "scaling", "speed")


def main(words: Sequence[str]) -> int:
    if not words or words[0] not in BENCHES:
        raise SettingError(f"name a bench first: {', '.join(BENCHES)}")
    bench: Callable[[Sequence[str]], int] = import_module(f"distsynth.bench.{words[0]}").main
    return bench(words[1:])


if __name__ == "__main__":
    command(main, __doc__)

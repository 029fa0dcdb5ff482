"""`train.compile`: losses through torch.compile, or uncompiled where that does not work on this machine.

A whole loss is compiled, forward and backward pass. The gradient penalty, which differentiates twice, is then taken with
`torch.func.grad` (see distsynth.methods.losses): `torch.autograd.grad` inside a compiled function has no second derivative.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TypeVar, cast

import torch

from distsynth.data.batch import Batch

T = TypeVar("T", bound=Callable[..., object])


def compiled(loss: T) -> T:
    """The loss (or what a network makes for it), to be compiled when it is first called."""
    prepare()
    # No symbolic shapes: otherwise the kernels would depend on the first batch, and a resumed run would differ from an undisturbed one.
    return cast(T, torch.compile(loss, dynamic=False))


@cache
def prepare() -> None:
    """Tell the compiler, once per process, what it cannot do."""
    import torch._dynamo

    # DDP's own splitting of graphs at its buckets does not know torch.func.grad.
    torch._dynamo.config.optimize_ddp = False
    # Random numbers come from hashes of names and sample keys: nothing to compile.
    Batch.uniform = torch.compiler.disable(Batch.uniform)  # type: ignore[method-assign, no-untyped-call]
    Batch.seeds = torch.compiler.disable(Batch.seeds)  # type: ignore[method-assign, no-untyped-call]


def failure(attempt: Callable[[], object]) -> str:
    """Why compiling fails in the attempt, in half a sentence; empty if it works."""
    try:
        attempt()
    except Exception as error:  # dynamo, inductor, triton and the C++ compiler raise anything: training continues without them
        cause = next((line for line in str(error).splitlines() if line.strip()), "")
        return f"{type(error).__name__}: {cause[:200]}"
    return ""

"""`train.compile`: losses through torch.compile, and as they are where that does not work on this machine.

A whole loss is compiled, its forward pass and its backward pass. The gradient penalty, which differentiates twice, is then taken with
`torch.func.grad` (see distsynth.methods.losses): `torch.autograd.grad` inside a compiled function has no second derivative.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from distsynth.data.batch import Batch

T = TypeVar("T", bound=Callable[..., object])


def compiled(loss: T) -> T:
    """The loss (or what a network makes for it), to be compiled when it is first called."""
    import torch._dynamo

    # DDP's own splitting of graphs at its buckets does not know torch.func.grad.
    torch._dynamo.config.optimize_ddp = False
    # Random numbers come from hashes of names and sample keys: nothing to compile.
    Batch.uniform = torch.compiler.disable(Batch.uniform)  # type: ignore[method-assign, no-untyped-call]
    Batch.seeds = torch.compiler.disable(Batch.seeds)  # type: ignore[method-assign, no-untyped-call]
    # No symbolic shapes: else a run's kernels would depend on which batch it saw first, and a resumed run differ from an undisturbed one.
    return cast(T, torch.compile(loss, dynamic=False))


def failure(attempt: Callable[[], object]) -> str:
    """Why compiling fails in the attempt, in half a sentence; empty if it does not."""
    try:
        attempt()
    except Exception as error:  # whatever dynamo, inductor, triton or the C++ compiler raise: none of it need end a training
        cause = next((line for line in str(error).splitlines() if line.strip()), "")
        return f"{type(error).__name__}: {cause[:200]}"
    return ""

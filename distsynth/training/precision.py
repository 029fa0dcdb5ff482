"""The arithmetic for a device, and the memory layout of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn

from preprocess.shared.errors import SettingError

Precision = Literal["auto", "fp32", "tf32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve(precision: Precision, device: torch.device) -> torch.dtype:
    """The dtype of autocast on a device; float32 means none. Sets, for the process, whether float32 products may take TF32.

    Raises SettingError for what the device cannot do.
    """
    chosen = choose(precision, torch.cuda.get_device_capability(device) if device.type == "cuda" else None)
    # torch lets convolutions take TF32 by default: then neither fp32 nor the penalty under bf16 would really be float32.
    allow_tf32(chosen == "tf32")
    return DTYPES[chosen]


def allow_tf32(allowed: bool) -> None:
    """Whether the GPU may multiply float32 with TF32's 10 bits of mantissa, or has to take all 23.

    Uses torch's older names: once the newer ones (`fp32_precision`) are set, the older can no longer be read, and torch.compile reads them (as of
    2.10: pytorch issue 166387)."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed


@contextmanager
def full_products(wanted: bool) -> Iterator[None]:
    """Inside, where `wanted`, float32 products use all bits, whatever the chosen precision."""
    if not (wanted and torch.backends.cuda.matmul.allow_tf32):
        yield
        return
    allow_tf32(False)
    try:
        yield
    finally:
        allow_tf32(True)


def choose(precision: Precision, capability: tuple[int, int] | None) -> Precision:
    """The precision for a GPU of some compute capability, or for a CPU (None): never `auto`. Raises SettingError.

    `auto` asks the capability, since `torch.cuda.is_bf16_supported` also counts emulation. bf16 on a CPU works, slowly, and is for tests.
    """
    if precision == "auto":
        return "fp32" if capability is None or capability < (7, 0) else "bf16" if capability >= (8, 0) else "fp16"
    if capability is None and precision in ("tf32", "fp16"):
        raise SettingError(f"train.precision={precision} needs a GPU: use fp32 or auto on a CPU")
    if capability is not None and capability < (8, 0) and precision in ("tf32", "bf16"):
        instead = "fp16" if capability >= (7, 0) else "fp32"
        raise SettingError(
            f"train.precision={precision} needs a GPU of compute capability 8.0 (Ampere) or later and this one has "
            f"{capability[0]}.{capability[1]}: use {instead}, or auto"
        )
    return precision


def lay_out(network: nn.Module, channels_last: bool) -> None:
    """Store the weights of 2-D and 3-D convolutions channels last, where asked for; the activations follow them."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in network.parameters() if channels_last else ():
        if parameter.dim() in formats:
            parameter.data = parameter.data.contiguous(memory_format=formats[parameter.dim()])

"""Which arithmetic a device gets."""

from __future__ import annotations

from typing import Literal

import torch

from preprocess.errors import SettingError

Precision = Literal["auto", "fp32", "bf16", "fp16"]


def resolve(precision: Precision, device: torch.device) -> torch.dtype:
    """The dtype of autocast; float32 means none. Raises SettingError for half precision on a CPU.

    `auto` asks the compute capability, since `torch.cuda.is_bf16_supported` also counts emulation.
    """
    if device.type == "cpu":
        if precision in ("bf16", "fp16"):
            raise SettingError(f"train.precision={precision} needs a GPU: use fp32 or auto on a CPU")
        return torch.float32
    if precision == "auto":
        major, _ = torch.cuda.get_device_capability(device)
        return torch.bfloat16 if major >= 8 else torch.float16 if major >= 7 else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]

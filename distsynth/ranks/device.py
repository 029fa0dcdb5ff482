"""The device that a rank computes on, and whether this torch, this driver and this job fit it."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Sequence
from typing import Literal

import torch

from preprocess.shared.errors import SettingError

# What Slurm sets in a job, and in a step, that holds GPUs; older versions set only the last pair, to the same value.
HELD = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "SLURM_GPUS_ON_NODE")
VISIBLE = ("CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL")


def choose_device(device: Literal["auto", "cpu", "cuda"], local_rank: int) -> torch.device:
    """This rank's device. Raises SettingError if it is not available, or if this build of torch has no kernels for it."""
    available = torch.cuda.is_available()
    if device == "cpu" or (device == "auto" and not available):
        return torch.device("cpu")
    count = torch.cuda.device_count() if available else 0
    # Slurm may show each task only its own GPU, or all GPUs of the node.
    index = 0 if count == 1 and int(os.environ.get("LOCAL_WORLD_SIZE", 1)) > 1 and "SLURM_STEP_GPUS" in os.environ else local_rank
    if index >= count:
        why = "" if available else f" (torch {torch.__version__} {why_no_gpu()})"
        raise SettingError(
            f"train.device={device}: local rank {local_rank} sees {count} GPUs{why}: start at most one rank per GPU, or set train.device=cpu"
        )
    if problem := unsupported(torch.cuda.get_device_capability(index), torch.cuda.get_arch_list()):
        raise SettingError(f"torch {torch.__version__} cannot use this GPU, {torch.cuda.get_device_name(index)}, {problem}")
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def refuse_idle_gpus() -> None:
    """Raise SettingError if the job holds GPUs that torch cannot use: to train on the CPU takes days, and nobody would notice why."""
    if not torch.cuda.is_available() and (held := held_gpus()):
        raise SettingError(
            f"the job holds GPUs ({held}) but torch {torch.__version__} {why_no_gpu()}: install a CUDA build that fits the driver, or set "
            "train.device=cpu"
        )


def held_gpus() -> str:
    """The GPUs that Slurm has given to this job, as `VARIABLE=value`; empty if none."""
    for name in HELD:
        if os.environ.get(name, "") not in ("", "0" if name == "SLURM_GPUS_ON_NODE" else ""):
            return f"{name}={os.environ[name]}"
    visible, ordinal = (os.environ.get(name, "") for name in VISIBLE)
    by_slurm = "SLURM_JOB_ID" in os.environ and visible == ordinal and visible[:1].isdigit()
    return f"{VISIBLE[0]}={visible}" if by_slurm else ""


def why_no_gpu() -> str:
    """Why CUDA is not available, after the words `torch VERSION`."""
    if torch.version.cuda is None and torch.version.hip is None:
        return "is a build without CUDA"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        return f"cannot use them ({str(error).splitlines()[0].rstrip('.')})"
    return "sees none"


def unsupported(capability: tuple[int, int], built: Sequence[str]) -> str:
    """Why a build for these architectures (`sm_80` binaries, `compute_90` PTX, …) has no kernels for a GPU, or nothing.

    Binaries run on the same major version from their minor version on, PTX on everything newer; with `a` at the end only on that very
    capability, with `f` within the major version (CUDA C++ programming guide, compatibility).
    """
    if not built or any(runs(name, capability) for name in built):
        return ""
    wanted = f"compute capability {capability[0]}.{capability[1]}"
    return f"{wanted}: it is built for {', '.join(built)}; install a build of torch for another CUDA version (V100: CUDA 12.6)"


def runs(name: str, capability: tuple[int, int]) -> bool:
    """Whether code for an architecture runs on a GPU; True for names that are not NVIDIA's."""
    if (match := re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", name)) is None:
        return True
    major, minor, only = int(match[2]), int(match[3]), match[4]
    if only == "a":
        return (major, minor) == capability
    if match[1] == "compute" and not only:
        return (major, minor) <= capability
    return major == capability[0] and minor <= capability[1]


def identity(device: torch.device) -> tuple[str, str]:
    """The node, and the GPU's identifier; empty for a CPU."""
    gpu = str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else ""
    return socket.gethostname(), gpu


def refuse_shared(identities: Sequence[tuple[str, str]]) -> None:
    """Raise SettingError if two ranks, in rank order, compute on one GPU: NCCL would refuse it with an obscure error."""
    for rank, (host, gpu) in enumerate(identities):
        first = identities.index((host, gpu))
        if gpu and first != rank:
            raise SettingError(
                f"ranks {first} and {rank} share one GPU ({gpu} on {host}): start at most one rank per GPU, each with a GPU of its own"
            )

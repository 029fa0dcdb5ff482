"""One minute on a GPU node: does this machine compute what it should? Ends with a report to paste into an issue.

    python -m distsynth.bench gpu
    srun --gres=gpu:2 --cpus-per-task=4 python -m distsynth.bench gpu method=pix2pix pixels=240

machine    torch, CUDA, driver, cards and their compute capability, and whether this build has kernels for them
methods    for each precision, the gradients of one update of every method's small preset, against the CPU's in float64
ranks      NCCL (on a CPU gloo) with one rank, and with two where there are two GPUs or more
memory     for `method=` (default: tcmgan) at full size: the suggested precision, and what the GPU holds and needs

Without a GPU it says so, and tests the rest. The exit status is 1 if anything failed.
"""

from __future__ import annotations

import platform
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from distsynth.bench.scaling import ScalingSettings, measure
from distsynth.bench.synthetic import method_of, noise, shipped
from distsynth.bench.words import split_words
from distsynth.ranks.device import held_gpus, unsupported, why_no_gpu
from distsynth.ranks.world import World, cause
from distsynth.run_directory import CONFIGS
from distsynth.training.engine import Engine
from distsynth.training.memory import gpu_bytes, plan
from distsynth.training.precision import allow_tf32, choose
from preprocess.shared.errors import SettingError, UserError
from preprocess.shared.settings import setting

# The largest relative error of an objective's gradient that passes: |g - reference| / |reference|, L2 norms.
TOLERANCE = {"fp32": 1e-2, "tf32": 2e-1, "fp16": 2e-1, "bf16": 5e-1}
SECONDS = 120.0  # for two ranks, before they count as stuck
SMALL = 32  # height and width of the slices on which the methods are compared
MOST = 16  # slices of the full-size update
CPU = torch.device("cpu")


@dataclass
class GPUSettings:
    pixels: int = setting(160, "height and width of the slices for which the memory is planned", least=16)
    method: str = setting("tcmgan", "the preset whose memory is planned")


class Report:
    """Lines of Markdown, and whether anything failed."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.failed = False

    def add(self, *lines: str) -> None:
        self.lines += lines

    def check(self, what: str, work: Callable[[], str]) -> None:
        """A line for what `work` returns, or for how it fails."""
        print(f"checking {what} …", file=sys.stderr, flush=True)
        try:
            self.add(f"- {what}: pass, {work()}")
        except Exception as error:
            self.failed = True
            self.add(f"- {what}: FAIL, {cause(error)}")


def main(words: Sequence[str]) -> int:
    settings, rest = split_words(GPUSettings, words)
    shipped(settings.method, *rest)  # raises SettingError before any work
    torch.set_num_threads(min(4, torch.get_num_threads()))
    device = torch.device("cuda", 0) if torch.cuda.is_available() else CPU
    report, began = Report(), time.perf_counter()
    machine(report, device)
    passed = methods(report, device)
    ranks(report, device)
    suggest(report, settings, rest, device, passed)
    report.add("", f"{'FAILED' if report.failed else 'All passed'}, {time.perf_counter() - began:.0f} s")
    print("\n".join(report.lines))
    return int(report.failed)


# -- machine ---------------------------------------------------------------------------------------------------------------


def machine(report: Report, device: torch.device) -> None:
    driver = Path("/proc/driver/nvidia/version")
    version = re.search(r"\d+\.\d+[.\d]*", driver.read_text()) if driver.is_file() else None
    report.add("## distsynth.bench gpu", "")
    report.add(
        f"- Python {platform.python_version()}, torch {torch.__version__}, CUDA {torch.version.cuda}, driver {version[0] if version else None}"
    )
    if device.type == "cpu":
        report.add(f"- no GPU: torch {why_no_gpu()}; only the CPU is tested")
        if held := held_gpus():
            report.failed = True
            report.add(f"- FAIL: the job holds GPUs ({held}) that torch cannot use")
        return
    cudnn, nccl = torch.backends.cudnn.version(), torch.cuda.nccl.version()  # type: ignore[no-untyped-call]
    report.add(f"- cuDNN {cudnn}, NCCL {'.'.join(map(str, nccl))}, built for {', '.join(torch.cuda.get_arch_list())}")
    for index in range(torch.cuda.device_count()):
        card, capability = torch.cuda.get_device_properties(index), torch.cuda.get_device_capability(index)
        problem = unsupported(capability, torch.cuda.get_arch_list())
        report.failed |= bool(problem)
        report.add(
            f"- GPU {index}: {card.name}, compute capability {capability[0]}.{capability[1]}, {card.total_memory / 1e9:.1f} GB"
            + (f": FAIL, {problem}" if problem else "")
        )


# -- methods ---------------------------------------------------------------------------------------------------------------


def methods(report: Report, device: torch.device) -> set[str]:
    """The table of methods and precisions. Returns the precisions in which all methods passed."""
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    possible, refused = [], []
    for precision in TOLERANCE:
        try:
            choose(precision, capability)  # type: ignore[arg-type]
            possible.append(precision)
        except SettingError as error:
            refused.append(f"- {error}")
    limits = ", ".join(f"{precision} {TOLERANCE[precision]:g}" for precision in possible)
    report.add("", f"Relative error of one update's gradients against the CPU's in float64 (tolerance: {limits}):", "")
    report.add(f"| method | {' | '.join(possible)} |", f"|---|{'---|' * len(possible)}")
    passed = set(possible)
    for preset in sorted(path.stem for path in (CONFIGS / "method").glob("*_small.yaml")):
        print(f"checking {preset} …", file=sys.stderr, flush=True)
        cells = {precision: compared(preset, SMALL, device, precision) for precision in possible}
        passed -= {precision for precision, cell in cells.items() if cell.startswith("FAIL")}
        report.add(f"| {preset} | {' | '.join(cells.values())} |")
    report.failed |= len(passed) < len(possible)
    report.add("", *refused)
    return passed


def compared(preset: str, pixels: int, device: torch.device, precision: str) -> str:
    """A cell of the table: the largest error of the method's objectives."""
    if (device.type, precision) == ("cpu", "bf16") and method_of(shipped(preset), pixels)[0].patch:
        return "not tested"  # as of torch 2.13, Conv3d's weight gradient then has values of memory that nobody has set
    try:
        reference, here = gradients(preset, pixels, CPU, None), gradients(preset, pixels, device, precision)
    except Exception as error:
        return f"FAIL ({cause(error)})".replace("|", "/")
    finally:
        allow_tf32(False)
    largest = max(float((here[name] - whole).norm() / whole.norm()) for name, whole in reference.items())
    return f"{largest:.1e}" if largest <= TOLERANCE[precision] else f"FAIL {largest:.1e}"


def gradients(preset: str, pixels: int, device: torch.device, precision: str | None) -> dict[str, Tensor]:
    """The gradients of the last stage's objectives in one update on two slices of noise; `precision` None: in float64."""
    config = shipped(preset, f"train.precision={precision or 'fp32'}")
    dtype = torch.float32 if precision else torch.float64
    method, size = method_of(config, pixels)
    method.to(device, dtype).train()
    engine = Engine(method, method.stages(config.train)[-1], config.train, World(0, 1, 0, device))
    for name, scaler in engine.scalers.items():  # torch's first scale is meant to overflow a few times
        engine.scalers[name] = torch.amp.GradScaler(device.type, init_scale=2.0**10, enabled=scaler.is_enabled())
    batch = noise(config.variant, 2, size, kind=method)
    batch = batch.map(lambda tensor: tensor.to(device, dtype), batch.keys)
    found: dict[str, Tensor] = {}
    for number in reversed(range(method.cycle)):  # discogan trains its networks in turn
        if len(found) < len(engine.objectives):
            engine.update(replace(batch, update=number), norms=True)
            for name, objective in engine.objectives.items():
                if grads := [p.grad.flatten() for p in objective.network.parameters() if p.grad is not None]:
                    found.setdefault(name, torch.cat(grads).to(CPU, torch.float64))
    return found


# -- ranks -----------------------------------------------------------------------------------------------------------------


def ranks(report: Report, device: torch.device) -> None:
    backend = "NCCL" if device.type == "cuda" else "gloo"
    report.add("")
    report.check(f"{backend} with 1 rank", lambda: one_rank(backend.lower(), device))
    if device.type == "cpu" or torch.cuda.device_count() > 1:
        report.check(f"{backend} with 2 ranks", two_ranks)
    else:
        report.add(f"- {backend} with 2 ranks: not tested, there is one GPU")


def one_rank(backend: str, device: torch.device) -> str:
    """A sum over one rank. Raises what the backend raises."""
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    try:
        values = torch.arange(1024.0, device=device)
        dist.all_reduce(values)
        if not torch.equal(values.cpu(), torch.arange(1024.0)):
            raise UserError("a sum over one rank has changed its values")
    finally:
        dist.destroy_process_group()
    return "the sum is right"


def two_ranks() -> str:
    """Updates on two ranks, and the speed of their sums. Raises UserError."""
    settings = ScalingSettings(ranks=[1, 2], batch=2, updates=2, pixels=32)
    size, seconds = measure(settings, 2, ["method=unet_small"], SECONDS)["all_reduce"][-1]
    return f"a sum of {size / 2**20:.0f} MiB takes {1000 * seconds:.1f} ms ({size / seconds / 1e9:.2f} GB/s)"


# -- memory ----------------------------------------------------------------------------------------------------------------


def suggest(report: Report, settings: GPUSettings, words: Sequence[str], device: torch.device, passed: set[str]) -> None:
    """The suggested precision, the first of which all methods passed, and the full-size method's memory in it."""
    automatic = choose("auto", torch.cuda.get_device_capability(device) if device.type == "cuda" else None)
    order = [automatic, "fp32"]
    precision = next((each for each in order if each in passed), "fp32")
    report.add(
        "", f"Suggested: train.precision={precision}" + (" (auto)" if precision == automatic else f", not auto's {automatic}")
    )
    what = f"{settings.method}, {settings.pixels}x{settings.pixels}, {precision}"
    report.check(what, lambda: full_size(settings, [*words, f"train.precision={precision}"], device))


def full_size(settings: GPUSettings, words: Sequence[str], device: torch.device) -> str:
    """What the last stage of the method needs: planned and, on a GPU, measured in three updates."""
    config = shipped(settings.method, *words)
    method, size = method_of(config, settings.pixels)
    method.to(device).train()
    engine = Engine(method, method.stages(config.train)[-1], config.train, World(0, 1, 0, device))
    planned, card = plan(engine, noise(config.variant, 1, size, kind=method).to(device)), gpu_bytes(device)
    needs = f"it needs {planned.static / 1e9:.2f} GB and {planned.per_slice / 1e6:.0f} MB a slice"
    if card is None:
        return needs
    most = planned.fits(card)
    slices = max(1, min(MOST, most))
    batch = noise(config.variant, slices, size, kind=method).to(device)
    torch.cuda.reset_peak_memory_stats(device)
    times = []
    for number in range(3):
        began = time.perf_counter()
        engine.update(replace(batch, update=number))
        torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated(device)
    return (
        f"{needs}; the GPU holds {most} at once (train.micro_batch={most} at most); {slices} took {1000 * min(times):.0f} ms and "
        f"{peak / 1e9:.2f} GB (planned: {planned.total(slices) / 1e9:.2f})"
    )

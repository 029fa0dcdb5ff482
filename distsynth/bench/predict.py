"""What the cost model predicts for every method on 8 to 1,024 GPUs, with its assumptions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from distsynth.bench.cost_model import FABRICS, PER_NODE, Fabric, Work, communication, most_useful, step
from distsynth.bench.flops import Counted, count
from distsynth.bench.synthetic import shipped
from distsynth.run_directory import CONFIGS
from preprocess.shared.settings import setting

COUNTS = (1, 8, 16, 32, 64, 128, 256, 512, 1024)
# Dense peaks of the tensor cores for the data type that train.precision=auto chooses, operations per second (the makers' data sheets).
PEAKS = {"a100": 312e12, "h100": 989e12, "v100": 125e12, "rtx2060": 52e12}


@dataclass
class PredictionSettings:
    full_pixels: int = setting(160, "height and width of the slices to predict for")
    gpu: Literal["a100", "h100", "v100", "rtx2060"] = setting("a100", "the GPU to predict for")
    utilisation: float = setting(0.25, "share of the GPU's peak that convolutions of these sizes reach", above=0, most=1)
    launch_us: float = setting(5, "microseconds to launch a kernel")
    step_ms: float = setting(0, "measured milliseconds per slice on your GPU, instead of counted operations (0: count)")
    slices: int = setting(4, "slices per GPU in the weak predictions")
    presets: list[str] = setting([], "presets of configs/method/ to predict for (empty: all)")
    largest_batch: int = setting(64, "the largest global batch known to train well (tcmgan's authors: 64)")


def predictions(settings: PredictionSettings, overlap: float, backward_share: float) -> list[str]:
    """Lines of text: the assumptions, then tables for each preset of each method."""
    lines = assumptions(settings, overlap, backward_share)
    for preset in settings.presets or sorted(path.stem for path in (CONFIGS / "method").glob("*.yaml")):
        counted = count(shipped(preset), settings.full_pixels)
        work = work_of(counted, settings)
        lines += ["", headline(preset, counted, work, settings)]
        for fabric in FABRICS:
            lines += table(fabric, work, settings, overlap * backward_share)
    return lines


def assumptions(settings: PredictionSettings, overlap: float, backward_share: float) -> list[str]:
    compute = (
        f"{settings.step_ms} ms per slice as given"
        if settings.step_ms
        else f"operations counted on one {settings.full_pixels}x{settings.full_pixels} slice at {settings.utilisation:.0%} of "
        f"{PEAKS[settings.gpu] / 1e12:.0f} Tflop/s ({settings.gpu}), but at least {settings.launch_us} us per kernel launched"
    )
    links = "; ".join(
        f"{link.name} {1e6 * link.latency:.0f} us, {link.bandwidth / 1e9:.3g} GB/s"
        for link in dict.fromkeys(link for fabric in FABRICS for link in (fabric.inside, fabric.between))
    )
    return [
        "predicted, not measured. Assumptions:",
        f"  compute: {compute}; {backward_share:.0%} of it is the backward pass, of which {overlap:.0%} overlaps communication (gloo, above)",
        f"  links, at the speed of an all-reduce: {links}; nodes of {PER_NODE} GPUs share one link; rings; float32 gradients",
        "  no slow ranks and no waiting for data; validation and checkpoints are not included",
        f"  weak: {settings.slices} slices per GPU; strong: a global batch of {settings.largest_batch}, the largest known to train well; "
        "communication dominates where a GPU does less than half of what a single one does",
    ]


def work_of(counted: Counted, settings: PredictionSettings) -> Work:
    per_slice = settings.step_ms / 1000 or counted.flops / (PEAKS[settings.gpu] * settings.utilisation)
    return Work(counted.gradients, 0.0 if settings.step_ms else counted.kernels * settings.launch_us / 1e6, per_slice)


def headline(preset: str, counted: Counted, work: Work, settings: PredictionSettings) -> str:
    sent = sum(counted.gradients) / 1e6
    return (
        f"{preset}: {counted.flops / 1e9:.1f} Gflop per slice, {counted.kernels} kernels, {sent:.1f} MB of gradients per update; "
        f"{1000 * work.compute(1):.2f} ms for 1 slice, {1000 * work.compute(settings.slices):.2f} ms for {settings.slices}"
    )


def table(fabric: Fabric, work: Work, settings: PredictionSettings, hidden: float) -> list[str]:
    weak = {n: n * settings.slices / seconds(fabric, n, work, settings.slices, hidden) for n in COUNTS}
    shareable = [n for n in COUNTS if n <= settings.largest_batch]
    strong = {n: settings.largest_batch / seconds(fabric, n, work, settings.largest_batch / n, hidden) for n in shareable}
    return [
        f"  {fabric.name}",
        f"    {'GPUs':<28}" + "".join(f"{n:>9,}" for n in COUNTS),
        f"    {'weak, slices/s':<28}" + "".join(f"{weak[n]:9,.0f}" for n in COUNTS),
        f"    {'weak, efficiency':<28}" + "".join(f"{weak[n] / weak[1] / n:9.0%}" for n in COUNTS),
        f"    {'strong, speed-up':<28}" + "".join(f"{strong[n] / strong[1]:9.1f}" for n in shareable),
        f"    {conclusion(weak, strong, settings)}",
    ]


def seconds(fabric: Fabric, ranks: int, work: Work, slices: float, hidden: float) -> float:
    return step(work.compute(slices), communication(fabric, ranks, work.gradients), 1.0, hidden)


def conclusion(weak: dict[int, float], strong: dict[int, float], settings: PredictionSettings) -> str:
    """From how many GPUs on more of them do not help, because of communication or of the global batch."""
    useful, full, fastest = most_useful(weak), settings.largest_batch // settings.slices, max(strong, key=lambda n: strong[n])
    limit = f"communication dominates beyond {useful:,} GPUs" if useful < COUNTS[-1] else f"up to {COUNTS[-1]:,} GPUs are useful"
    if strong[fastest] < 1.1 * strong[1]:
        batch = "more than one GPU is no faster: launching kernels is the limit"
    else:
        batch = f"it is fastest on {fastest:,} GPUs, {strong[fastest] / strong[1]:.1f} times one"
    return f"{limit}; {full:,} GPUs of {settings.slices} slices fill a global batch of {settings.largest_batch}, and {batch}"

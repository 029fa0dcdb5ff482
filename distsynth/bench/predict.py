"""Every method on 8 to 1,024 GPUs, as the cost model has it, with what was assumed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distsynth.bench.cost_model import FABRICS, PER_NODE, Fabric, Work, communication, step, worth_it
from distsynth.bench.flops import Counted, count
from distsynth.bench.synthetic import shipped
from distsynth.run_directory import CONFIGS

if TYPE_CHECKING:
    from distsynth.bench.scaling import ScalingSettings

COUNTS = (1, 8, 16, 32, 64, 128, 256, 512, 1024)
# Dense peaks of the tensor cores with the type that train.precision=auto takes, operations per second (the makers' data sheets).
PEAKS = {"a100": 312e12, "h100": 989e12, "v100": 125e12, "rtx2060": 52e12}


def predictions(settings: ScalingSettings, overlap: float, backward_share: float) -> list[str]:
    """Lines of text: the assumptions, then a table for each preset of each method."""
    lines = assumptions(settings, overlap, backward_share)
    for preset in settings.presets or sorted(path.stem for path in (CONFIGS / "method").glob("*.yaml")):
        counted = count(shipped(preset), settings.full_pixels)
        work = work_of(counted, settings)
        lines += ["", headline(preset, counted, work, settings)]
        for fabric in FABRICS:
            lines += table(fabric, work, settings, overlap * backward_share)
    return lines


def assumptions(settings: ScalingSettings, overlap: float, backward_share: float) -> list[str]:
    compute = (
        f"{settings.step_ms} ms per slice as given"
        if settings.step_ms
        else f"operations counted on one {settings.full_pixels}x{settings.full_pixels} slice at {settings.utilisation:.0%} of "
        f"{PEAKS[settings.gpu] / 1e12:.0f} Tflop/s ({settings.gpu}), and no less than {settings.launch_us} us per kernel launched"
    )
    links = "; ".join(
        f"{link.name} {1e6 * link.latency:.0f} us, {link.bandwidth / 1e9:.3g} GB/s"
        for link in dict.fromkeys(link for fabric in FABRICS for link in (fabric.inside, fabric.between))
    )
    return [
        "predicted, not measured. Assumptions:",
        f"  compute: {compute}; the backward pass is {backward_share:.0%} of it and hides {overlap:.0%} of itself in communication (gloo, above)",
        f"  links, as an all-reduce gets them: {links}; nodes of {PER_NODE} GPUs that share one link; rings; float32 gradients",
        "  no stragglers, no waiting for data, validation and checkpoints left out",
        f"  weak: {settings.slices} slices a GPU; strong: a global batch of {settings.largest_batch}, the largest known to train well; "
        "communication takes over where a GPU does less than half of what it does alone",
    ]


def work_of(counted: Counted, settings: ScalingSettings) -> Work:
    per_slice = settings.step_ms / 1000 or counted.flops / (PEAKS[settings.gpu] * settings.utilisation)
    return Work(counted.gradients, 0.0 if settings.step_ms else counted.kernels * settings.launch_us / 1e6, per_slice)


def headline(preset: str, counted: Counted, work: Work, settings: ScalingSettings) -> str:
    sent = sum(counted.gradients) / 1e6
    return (
        f"{preset}: {counted.flops / 1e9:.1f} Gflop a slice, {counted.kernels} kernels, {sent:.1f} MB of gradients an update; "
        f"{1000 * work.compute(1):.2f} ms for 1 slice, {1000 * work.compute(settings.slices):.2f} ms for {settings.slices}"
    )


def table(fabric: Fabric, work: Work, settings: ScalingSettings, hidden: float) -> list[str]:
    weak = {n: n * settings.slices / seconds(fabric, n, work, settings.slices, hidden) for n in COUNTS}
    shareable = [n for n in COUNTS if n <= settings.largest_batch]
    strong = {n: settings.largest_batch / seconds(fabric, n, work, settings.largest_batch / n, hidden) for n in shareable}
    return [
        f"  {fabric.name}",
        f"    {'GPUs':<28}" + "".join(f"{n:>9,}" for n in COUNTS),
        f"    {'weak, slices/s':<28}" + "".join(f"{weak[n]:9,.0f}" for n in COUNTS),
        f"    {'weak, efficiency':<28}" + "".join(f"{weak[n] / weak[1] / n:9.0%}" for n in COUNTS),
        f"    {'strong, speed-up':<28}" + "".join(f"{strong[n] / strong[1]:9.1f}" for n in shareable),
        f"    {verdict(weak, strong, settings)}",
    ]


def seconds(fabric: Fabric, ranks: int, work: Work, slices: float, hidden: float) -> float:
    return step(work.compute(slices), communication(fabric, ranks, work.gradients), 1.0, hidden)


def verdict(weak: dict[int, float], strong: dict[int, float], settings: ScalingSettings) -> str:
    """At which scale communication, or the global batch, stops helping."""
    most, full, fastest = worth_it(weak), settings.largest_batch // settings.slices, max(strong, key=lambda n: strong[n])
    wire = (
        f"communication takes over beyond {most:,} GPUs"
        if most < COUNTS[-1]
        else f"communication leaves {COUNTS[-1]:,} GPUs useful"
    )
    if strong[fastest] < 1.1 * strong[1]:
        batch = "it is no faster on more than one: launching kernels is the limit"
    else:
        batch = f"spread thinner it is fastest on {fastest:,}, {strong[fastest] / strong[1]:.1f} times one"
    return (
        f"{wire}; a global batch of {settings.largest_batch} is full with {full:,} GPUs of {settings.slices} slices, and {batch}"
    )

"""Weak and strong scaling on 1, 2 and 4 ranks of this machine, and what a cost model fitted to them predicts for 8 to 1,024 GPUs.

weak: `batch` slices per rank; strong: `batch` slices over all ranks. Each rank has one thread, so that ranks are equal; rows with more ranks
than cores, which say nothing about GPUs, are marked.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distsynth.bench.cost_model import Link, fit_link, fit_overlap, ring, step
from distsynth.bench.predict import PredictionSettings, predictions
from distsynth.bench.words import split_words
from distsynth.config import compose
from preprocess.shared.errors import SettingError, UserError
from preprocess.shared.settings import setting

BACKWARD = 2 / 3  # of compute: a backward pass has two products for each one of the forward pass


@dataclass
class ScalingSettings(PredictionSettings):
    ranks: list[int] = setting([1, 2, 4], "numbers of ranks to measure here; the first must be 1")
    batch: int = setting(8, "slices: per rank (weak) and over all ranks (strong)")
    updates: int = setting(10, "timed updates of each kind")
    pixels: int = setting(64, "height and width of the slices measured here")

    def __post_init__(self) -> None:
        if self.ranks[:1] != [1] or any(n < 1 or self.batch % n for n in self.ranks):
            raise SettingError(
                f"ranks={self.ranks} must begin with 1 and divide batch={self.batch}: for example ranks='[1,2,4]' batch=8"
            )


def main(words: Sequence[str]) -> int:
    settings, given = split_words(ScalingSettings, words)
    compose(given)
    busy = os.getloadavg()[0]
    measured = [measure(settings, n, given) for n in settings.ranks]
    link = fit_link([(m["ranks"], size, t) for m in measured for size, t in m["all_reduce"]])
    rows = compared(settings, measured, link)
    overlap = fit_overlap([(r["compute"], r["communication"], r["step"]) for r in rows if 1 < r["ranks"] <= cores()], BACKWARD)
    print("\n".join([*report(settings, measured, link, overlap, rows, busy), "", *predictions(settings, overlap, BACKWARD)]))
    return 0


def measure(settings: ScalingSettings, ranks: int, words: Sequence[str], seconds: float | None = None) -> dict[str, Any]:
    """What `distsynth.bench.ranks` measures on so many ranks here. Raises UserError if they fail, or take longer than so many seconds."""
    counts = settings.batch // ranks if ranks > 1 else ",".join(str(settings.batch // n) for n in settings.ranks)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "measured.json"
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        own = [f"out={out}", f"slices=[{settings.batch},{counts}]", f"updates={settings.updates}", f"pixels={settings.pixels}"]
        command = [*start, "-m", "distsynth.bench.ranks", *own, *words]
        try:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise UserError(f"{ranks} ranks could not be measured: they were not done after {seconds:g} s") from error
        if (
            not out.is_file()
        ):  # written last; as of torch 2.13 a process that has used DDP sometimes aborts after that, while it exits
            why = re.search(r"^(?:\[rank\d+\]: )?(?:error|[\w.]*Error): (.+)", done.stderr, re.MULTILINE)
            raise UserError(f"{ranks} ranks could not be measured: {why[1] if why else 'a process crashed without a message'}")
        measured: dict[str, Any] = json.loads(out.read_text())
        return measured


def compared(settings: ScalingSettings, measured: list[dict[str, Any]], link: Link) -> list[dict[str, Any]]:
    """Each measured step with the parts of the model: compute is the step of one rank with as many slices, times the ranks per core."""
    single = {s["slices"]: s["step"] for s in measured[0]["steps"]}
    rows = []
    for m in measured:
        n = m["ranks"]
        for kind, slices in (("weak", settings.batch), ("strong", settings.batch // n)):
            row = next(s for s in m["steps"] if s["slices"] == slices)
            communication = sum(ring(n, size, link) for size in (*row["gradients"], 16))
            compute = single[slices] * max(1, n / cores())
            rows.append({**row, "ranks": n, "kind": kind, "compute": compute, "communication": communication})
    return rows


def report(
    settings: ScalingSettings, measured: list[dict[str, Any]], link: Link, overlap: float, rows: list[dict[str, Any]], busy: float
) -> list[str]:
    """The table of measurements, with the model's value and its error; `busy` is the load average before measuring."""
    lines = [
        f"measured here: {cores()} cores, 1 thread per rank, gloo, slices of {settings.pixels}x{settings.pixels}, medians of "
        f"{settings.updates} updates, ms; load average before {busy:.1f}"
        + (": other work disturbs all figures below except cpu" if busy > 0.5 else ""),
        f"all-reduces by themselves: latency {1e6 * link.latency:.0f} us, bandwidth {link.bandwidth / 1e9:.2f} GB/s (least squares, "
        f"error {100 * link_error(measured, link):.0f} % rms); overlap with the backward pass fitted: {overlap:.2f}",
        "",
        f"{'':8}{'ranks':>6}{'slices':>8}"
        + "".join(f"{name:>9}" for name in ("step", "no comm.", "cpu", "exposed", "waited"))
        + f"{'slices/s':>10}{'efficiency':>12}{'model':>9}{'error':>8}",
    ]
    for kind in ("weak", "strong"):
        base = next(r for r in rows if r["kind"] == kind and r["ranks"] == 1)
        lines += [line(r, base, overlap) for r in rows if r["kind"] == kind]
    errors = [model(r, overlap) / r["step"] - 1 for r in rows if r["ranks"] > 1]
    lines += [
        "step: an update; no comm.: without communication; cpu: its CPU time; exposed: step less no comm.; waited: as in the journal",
        f"the model is off by {100 * max(map(abs, errors), default=0):.0f} % at most and "
        f"{100 * (sum(e * e for e in errors) / max(1, len(errors))) ** 0.5:.0f} % rms on the rows above with more than one rank: "
        "trust the predictions no further",
    ]
    return [
        *lines,
        *(["* more ranks than cores: the ranks share cores, so these rows say nothing about GPUs"] if shared(rows) else []),
    ]


def line(row: dict[str, Any], base: dict[str, Any], overlap: float) -> str:
    n, rate, quiet = row["ranks"], row["ranks"] * row["slices"] / row["step"], row["without_communication"]
    efficiency = rate / (base["slices"] / base["step"]) / n
    times = [1000 * x for x in (row["step"], quiet, row["cpu"], row["step"] - quiet, row["waited"])]
    star = "*" if n > cores() else " "
    expected = model(row, overlap)
    return (
        f"{row['kind']:8}{n:>5}{star}{row['slices']:>8}" + "".join(f"{t:9.1f}" for t in times) + f"{rate:10.1f}{efficiency:12.0%}"
        f"{1000 * expected:9.1f}{expected / row['step'] - 1:+8.0%}"
    )


def model(row: dict[str, Any], overlap: float) -> float:
    return step(row["compute"], row["communication"], overlap, BACKWARD)


def shared(rows: list[dict[str, Any]]) -> bool:
    return any(r["ranks"] > cores() for r in rows)


def link_error(measured: list[dict[str, Any]], link: Link) -> float:
    """Root mean square of the relative errors of the fitted link."""
    errors = [ring(m["ranks"], size, link) / t - 1 for m in measured for size, t in m["all_reduce"]]
    return float((sum(e * e for e in errors) / max(1, len(errors))) ** 0.5)


def cores() -> int:
    return len(os.sched_getaffinity(0))

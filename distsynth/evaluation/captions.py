"""What the terminal's tables show, in words: metric and unit, region, cohort and its patients, and which way is better."""

from __future__ import annotations

from distsynth.evaluation.sweep_scores import Scored


def captions(runs: list[Scored]) -> list[str]:
    """What the terminal's tables show: metric and unit, region, cohort and patients, and which way is better."""
    lines = []
    if made := [run for run in runs if run.images]:
        lines.append(
            f"PSNR in dB, higher is better, mean over {patients(made[0], 'test')}, in their brain and in their tumour; "
            f"val: in the brain of {patients(made[0], 'val')}, by which runs and checkpoints were chosen"
            + "".join(f"; {name}: in the brain of {patients(made[0], name)}" for name in others(made[0]))
            + "."
        )
    if found := [run for run in runs if not run.images]:
        lines.append(
            f"Dice of the segmented tumour, 0 to 1, higher is better, mean over {patients(found[0], 'test')} who have a tumour."
        )
    return lines


def others(run: Scored) -> list[str]:
    """The names of the cohorts that it was not trained on."""
    return [name for name in run.scores["cohorts"] if name not in ("val", "test")]


def patients(run: Scored, cohort: str) -> str:
    """`5 test patients`, or `3 patients of data.external.real`."""
    count = len(run.scores["cohorts"].get(cohort, {"subjects": []})["subjects"])
    unit = "patient" + "s" * (count != 1)
    return f"{count} {cohort} {unit}" if cohort in ("val", "test") else f"{count} {unit} of data.external.{cohort}"

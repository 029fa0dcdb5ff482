"""What a training that was started by itself prints at its end: its table, where the figures are, and what can be done next."""

from __future__ import annotations

import json
import shlex

from distsynth.evaluation.table import table_of_run
from distsynth.run_directory import RunDirectory, shown


def ending(run: RunDirectory) -> str:
    """Of a run that has scores. The commands work as they are printed, but for the words in capitals."""
    place = shlex.quote(shown(run.path))
    images = json.loads(run.scores.read_text()).get("images", True)
    following = [
        (f"python -m distsynth.evaluate {place} data.external.NAME=STORE.zarr", "score it on another cohort"),
        *(
            [(f"python -m distsynth.synthesise run={place} source=FOLDER out=FOLDER", "make what patients lack")]
            if images
            else []
        ),
        (f"python -m distsynth.tracking.sync {place}", "bring it into MLflow; prints how to open the UI"),
    ]
    width = max(len(command) for command, _ in following)
    drawn = len(list(run.figures.glob("*.png")))
    return "\n".join(
        [
            table_of_run(run),
            f"scores: {shown(run.scores)}" + (f"; figures: {shown(run.figures)} ({drawn})" if drawn else ""),
            "next:",
            *(f"  {command:<{width}}   {what}" for command, what in following),
        ]
    )

"""The live table's cells, from a journal."""

from pathlib import Path

import pytest

from distsynth.config import compose
from distsynth.run_directory import RunDirectory
from distsynth.tracking.journal import Journal
from slurm.sweep import Run
from slurm.watch import RunState

SEGMENTOR = {"val/t1/tumour/dice": 0.412, "val/flair/tumour/dice": 0.6}


@pytest.mark.parametrize(
    ("later", "shown"),
    [
        ({}, "val Dice t1 0.41, flair 0.60"),
        ({"val/t1/brain/psnr": 17.26, "val/flair/brain/psnr": 20.0}, "val PSNR t1 17.3, flair 20.0 dB"),
        ({"best/test/t1/brain/psnr": 17.26, "joint/grad_norm/generator": 2.0}, "val Dice t1 0.41, flair 0.60"),
    ],
)
def test_validation_is_shown_as_psnr_or_while_there_is_none_as_dice(later: dict[str, float], shown: str, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    journal = Journal(run.journal, 0)
    for values in (SEGMENTOR, later):
        journal.write("metrics", step=1, values=values)
    state = RunState(Run("run", {}, compose(["data.store=x"]), run))
    assert state.update()
    assert state.validation == shown

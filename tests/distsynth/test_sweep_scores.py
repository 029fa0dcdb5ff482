"""What the runs of a sweep have cost."""

from pathlib import Path

import pytest
import torch

from distsynth.config import CONFIGS, compose
from distsynth.evaluation.sweep_scores import Scored, parameters, seconds
from distsynth.methods import registry
from distsynth.run_directory import RunDirectory
from distsynth.tracking.journal import Journal, Line

SMALL = sorted(path.stem for path in (CONFIGS / "method").glob("*_small.yaml"))
BATCH_NORM = ["method=segment_small method.norm=batch", "method=pix2pix_small method.norm=batch"]


@pytest.mark.parametrize("words", [*(f"method={preset}" for preset in SMALL), *BATCH_NORM])
def test_parameters_are_counted_in_the_checkpoint(words: str, tmp_path: Path) -> None:
    """Without what is not trained: batch statistics, pools of earlier images."""
    config = compose(["data.store=x", "variant=siso", *words.split()])
    kind = registry.method(config.method.name)
    size = kind.stride(config.method, (32, 32))
    settings = kind.settled(config.method, [config.variant.modalities])
    method = kind(settings, config.variant, (max(32, size), max(32, size)), 0)
    torch.save({"method": method.state_dict()}, tmp_path / "best.pt")
    assert parameters(tmp_path / "best.pt") == sum(parameter.numel() for parameter in method.parameters())


def line(kind: str, seconds: float) -> Line:
    return {"kind": kind, "time": round(1000 * seconds)}


def test_seconds_leave_out_the_time_between_jobs_and_the_evaluation() -> None:
    whole = [
        line("start", 10),
        line("progress", 12),
        line("metrics", 13),
        line("progress", 15),
        line("metrics", 20),
        line("end", 21),
    ]
    assert seconds(whole) == 5
    resumed = [*whole[:2], line("start", 1000), line("progress", 1004), line("start", 2000), line("end", 2001)]
    assert seconds(resumed) == 2 + 4
    assert seconds([]) == 0


def test_a_run_whose_files_are_gone_has_no_cost(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    scored = Scored("name", "unet", compose(["data.store=x"]).variant, {}, (run,))
    assert scored.cost == {}
    run.checkpoints.mkdir()
    (run.checkpoints / "best.pt").write_bytes(b"damaged")
    Journal(run.journal).write("metrics", step=12, values={})
    assert Scored("name", "unet", scored.variant, {}, (run,)).cost == {"updates": 12}

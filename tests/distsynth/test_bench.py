"""The benches are commands; here only that they measure and say what is wrong."""

import re
from pathlib import Path
from typing import Any


def test_start_prints_the_time_to_the_first_step(store: Path, tiny: tuple[str, ...], run: Any) -> None:
    done = run("distsynth.bench", "start", f"data.store={store}", "repeats=1", *tiny)
    assert done.returncode == 0, done.stderr
    found = re.search(r"median ([0-9.]+) s of 1", done.stdout)
    assert found is not None
    assert 0.5 < float(found[1]) < 60


def test_an_unknown_bench_and_a_failing_training_are_one_sentence(run: Any) -> None:
    for words, sentence in (
        (["strat"], "name a bench first: start"),
        (["start", "repeats=no"], "repeats=no must be a whole number"),
        (["start", "data.store=/nowhere", "repeats=1"], "/nowhere"),
    ):
        done = run("distsynth.bench", *words)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert sentence in done.stderr

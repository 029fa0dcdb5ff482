"""Names of numbers: put together and taken apart in one place."""

import ast
from pathlib import Path

from distsynth import metric_names

ROOT = Path(__file__).parents[2]


def test_a_name_comes_apart_as_it_was_put_together() -> None:
    score = metric_names.score("flair", "brain", "psnr")
    assert (score, metric_names.score_parts(score)) == ("flair/brain/psnr", ("flair", "brain", "psnr"))
    validation, best = metric_names.at_validation(score), metric_names.of_best(metric_names.on_cohort("test", score))
    assert (validation, best) == ("val/flair/brain/psnr", "best/test/flair/brain/psnr")
    loss = metric_names.in_stage("joint", "g_loss")
    norm = metric_names.in_stage("joint", metric_names.gradient_norm("critic"))
    assert (loss, norm) == ("joint/g_loss", "joint/grad_norm/critic")
    clock, machine = metric_names.seconds("step"), metric_names.machine("memory_gb")
    assert (clock, machine) == ("time/step_s", "system/memory_gb")
    names = (validation, best, loss, norm, clock, machine)
    assert [metric_names.validated(name) for name in names] == [score, None, None, None, None, None]
    assert [metric_names.term(name) for name in names] == [None, None, "g_loss", None, None, None]
    assert [metric_names.repeatable(name) for name in names] == [True, True, True, True, False, False]


def test_no_other_file_spells_a_prefix() -> None:
    prefixes = ("val/", "best/", "time/", "system/", "grad_norm/", "/psnr", "/dice", "brain/", "tumour/")
    for top in ("distsynth", "slurm"):
        for path in (ROOT / top).rglob("*.py"):
            tree = ast.parse(path.read_text())
            documentation = {id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
                             and node.body and isinstance(node.body[0], ast.Expr)}  # fmt: skip
            strings = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
                       and id(node) not in documentation]  # fmt: skip
            found = [text for text in strings if text.startswith(prefixes)]
            assert path.name == "metric_names.py" or not found, (path, found)

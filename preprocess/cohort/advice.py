"""What to do next with a cohort: a command that works on it, or what it lacks for one."""

from __future__ import annotations

import shlex
from itertools import combinations, permutations
from pathlib import Path

from preprocess.cohort.reader import Cohort

LEAST = 4  # patients: one each for the segmentor, training, val and test
FEW, SMALL = 6, 30  # patients: below, no sweep makes sense; and a look at the cohort and one training come first


def next_step(cohort: Cohort) -> str:
    """The next commands, a line each: of a small cohort a look at it and one training, then a sweep."""
    if (patients := patients_of(cohort)) >= SMALL:
        return sweep(cohort)
    one = training(cohort)
    lines = ["next: " + shlex.join(["python", "-m", "preprocess.explore", str(cohort.path)]), *([f"then: {one}"] if one else [])]
    if not one or patients >= FEW:
        lines.append(sweep(cohort))
    return "\n".join(lines)


def patients_of(cohort: Cohort) -> int:
    return len({record.patient for record in cohort.records.values()})


def training(cohort: Cohort) -> str:
    """The command for one training of a small network on the contrasts that the most patients have; empty if it could not be trained and tested."""
    pairs = (("t1", "t2", "flair"), *permutations(cohort.modalities, 2))
    works = (each for each in pairs if all(cohort.having(each).split(name) for name in ("gan", "val", "test")))
    if not (chosen := next(works, ())):
        return ""
    variant = ["variant=miso_flair"] if len(chosen) > 2 else variant_of(*chosen)
    run = f"run={Path('runs') / cohort.path.stem}"
    return shlex.join(["python", "-m", "distsynth.train", *variant, "method=unet_small", f"data.store={cohort.path}", run])


def variant_of(source: str, target: str) -> list[str]:
    return ["variant=siso", f"variant.inputs=[{source}]", f"variant.outputs=[{target}]"]


def sweep(cohort: Cohort) -> str:
    """A line, or two. `sweep=lr` trains variants of all four contrasts by tcmgan, which also learns from segmentations."""
    if not cohort.split("gan") and not cohort.split("val") and cohort.split("test"):
        external = shlex.quote(f"data.external.NAME={cohort.path}")
        return f"this cohort is only for tests (split.test=1): score a run on it with python -m distsynth.evaluate run=RUN {external}"
    if empty := [name for name in ("gan", "val", "test") if not cohort.split(name)]:
        return f"no patient is in {' or '.join(empty)}, so that no sweep can be trained and tested: {other_split(cohort)}"
    complete = cohort.having(cohort.modalities)
    if not (complete.split("gan") and complete.split("val")):
        return f"too few patients of gan and val have all four contrasts, which sweep=lr needs\n{of_two(cohort)}"
    labelled = all(any(complete.record(s).has_labels for s in complete.split(name)) for name in ("segmentor", "gan"))
    if not labelled:
        what = "no patient of segmentor, or none of gan, has a segmentation, from which tcmgan learns"
        if not complete.split("segmentor"):
            what = "no patient is in segmentor, on which tcmgan trains its segmentor first"
        return f"{what}\n{launch(cohort, 'sweep=lr', 'method=unet')}"
    return launch(cohort, "sweep=lr")


def other_split(cohort: Cohort) -> str:
    patients = patients_of(cohort)
    other = "give the same command with other split.* settings, "
    if patients == LEAST - 1:
        return f"for methods without a segmentor, such as unet, {other}split.counts='[0,2,1]' split.val=0.5"
    if patients < LEAST:
        return f"{patients} of at least {LEAST} patients are there: add some to the source and give the same command"
    test = max(1, patients // 5)
    segmentor = (patients - test) // 2
    return f"{other}e.g. split.counts='[{segmentor},{patients - test - segmentor},{test}]'"


def of_two(cohort: Cohort) -> str:
    """The command for the first two contrasts that patients of gan and val have."""
    for pair in combinations(cohort.modalities, 2):
        both = cohort.having(pair)
        if both.split("gan") and both.split("val"):
            return launch(cohort, "method=unet", *variant_of(*pair))
    return "a training needs patients of gan and val with the same two contrasts: add some to the source"


def launch(cohort: Cohort, *words: str) -> str:
    return f"next: {shlex.join(['python', 'slurm/launch.py', *words, f'data.store={cohort.path}'])}"

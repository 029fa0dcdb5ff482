"""Scores a run's best checkpoint on held-out patients, whole volumes, next to the baselines. Only this uses the test patients.

Writes evaluation/scores.json:

    {"cards": what each metric was computed on, "copied": {output: input of the baseline `copy`}, "beaten_against": names of the baselines,
     "cohorts": {"val" | "test" | external name: {"subjects": [...], "scores": {modality: {region: {model: {metric: {mean, std, n}}}}}}},
     "clip_share": {modality: mean share of the test patients' tumour voxels that the clip changes},
     "rows": [{cohort, subject, modality, model, region, and those of psnr, ssim, nmae, dice, judge_dice that there are}]}

where model is `synthesised`, a baseline, `lesion_erased`, or `real`, which only has the judge's Dice; and figures/SUBJECT.png. For a method that
makes no images (`segment`) there is only the model `segmentor` in the region `tumour`, with the metric `dice`; "images" is then false.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from distsynth import config as configuration
from distsynth import metric_names
from distsynth.config import Config
from distsynth.data.cohorts import Opened, read_image, scored
from distsynth.data.recipes import other_tumour, refuse_other, spacings
from distsynth.data.trained_on import DIGITS
from distsynth.evaluation import baselines, earlier
from distsynth.evaluation.finished import Finished, Row
from distsynth.evaluation.judge import Judge
from distsynth.evaluation.metrics import CARD, score, summarise
from distsynth.modalities import Variant
from distsynth.ranks.preemption import StopRequest
from distsynth.ranks.world import World
from distsynth.run_directory import RunDirectory
from distsynth.tracking.journal import Journal
from distsynth.training import checkpoint
from distsynth.training.model import Model, restore, trained_here
from distsynth.training.precision import allow_tf32
from distsynth.training.validation import scores_of
from preprocess.cohort import BACKGROUND, Cohort
from preprocess.cohort.files import json_digest
from preprocess.shared.errors import SettingError, StoreError

Task = tuple[str, Cohort, str]  # the cohort's name in the tables, the cohort, the subject


def evaluate(
    config: Config,
    opened: Opened,
    run: RunDirectory,
    world: World,
    variant: Variant | None = None,
    stop: StopRequest | None = None,
) -> dict[str, Any]:
    """Score, write scores and figures, and return the scores; every rank takes part. `variant` is given to score another one than the run's own,
    for which `opened` then is. Raises Stopped when asked to stop.

    What an earlier evaluation of the same checkpoint has written stays in the files, beside what this one has scored and returns.

    Raises StoreError if there is no best checkpoint, a cohort is damaged, or an external one does not fit; SettingError if the run was not
    trained on the cohort as it is split, its method does not serve the variant, or the judge does not fit (see `Judge.of`).
    """
    allow_tf32(False)  # the same scores whether or not this process has trained
    state = checkpoint.load(run.checkpoints / "best.pt")
    refuse_unfit(config, opened, run, state, world.leads)
    model = restore(config, state).serving(variant or config.variant)
    config = replace(config, variant=model.variant)
    model.method.to(world.device)
    tasks = list(all_tasks(opened, config.variant))
    judge = Judge.of(config, opened.cohort, world.device)
    for _, where, subject in tasks:
        for networks in (model, judge.model) if judge else (model,):
            networks.refuse_larger(where, [subject])
    fitted = fit_baselines(config, opened.cohort, model, world)
    world.watchdog.move()
    made_of = json_digest([configuration.to_yaml(config), state["made_from"], state["position"]])
    finished = Finished(run.evaluation, made_of, world)
    pictured = chosen_for_figures(tasks, config.evaluate.figures)
    stop = stop or StopRequest()
    todo = [task for task in tasks if (task[0], task[2]) not in finished.rows]
    for name, where, subject in stop.before(todo[world.rank :: world.size]):
        if model.method.images:
            patient = Patient(config, where, subject, model)
            rows = [*patient.rows(fitted), *patient.judged(judge)]
            if (name, subject) in pictured:
                patient.draw(run, name)
        else:
            rows = list(validated(config, where, subject, model, world.device))
        finished.add((name, subject), [{"cohort": name, "subject": subject, **row} for row in rows])
        world.watchdog.move()
    stop.agree(world)
    by_patient = {patient: rows for part in world.gather(finished.rows) for patient, rows in part.items()}
    all_rows = [row for name, _, subject in tasks for row in by_patient[name, subject]]
    scores = collect(config, opened.cohort, tasks, all_rows, fitted) | {"images": model.method.images}
    scores |= {"made_of": weights_of(config, state)} | ({"judge": config.evaluate.judge} if judge else {})
    if world.leads:
        all_scores, note = earlier.added(earlier.read(run), scores)
        print(note, end="\n" if note else "", flush=True)
        earlier.write(run, all_scores)
        finished.clear()
    return scores


def weights_of(config: Config, state: dict[str, Any]) -> str:
    """What scores must have in common to stand beside each other: the checkpoint, the task, the clip and the metrics."""
    return json_digest([asdict(config.variant), config.data.clip, config.seed, state["made_from"], state["position"], CARD])


def known_patients(cohort: Cohort, subjects: Sequence[str], scans: Collection[str]) -> list[str]:
    """The subjects of which a training has seen a scan, by the digests that its checkpoint holds."""
    known = set(scans)
    digests = {
        s: [*cohort.record(s).content.values(), *(each["sha256"] for each in cohort.record(s).source.values())] for s in subjects
    }
    return [subject for subject, its in digests.items() if known & {digest[:DIGITS] for digest in its}]


def refuse_unfit(config: Config, opened: Opened, run: RunDirectory, state: dict[str, Any], speaks: bool) -> None:
    """Raise SettingError if the run was not trained on the cohort as it is split, StoreError if this or an external one was made by another
    recipe than the training's. One rank `speaks`: it warns of what makes scores doubtful."""
    own, recipe = opened.cohort, state["made_from"].get("recipe", opened.cohort.recipe)
    if not trained_here(own, config, state):
        known = state.get("trained_on", {}).get("spacing")  # absent in a checkpoint of version 0.1
        refuse_other("data.store", own, own.subjects, recipe, [known] if known else [])
        raise SettingError(
            f"{run.path} was not trained on data.store={config.data.store} as it is split now, and may have seen its test patients: restore the "
            "cohort's split, or score this cohort with data.external.NAME="
        )
    for name, (other, subjects) in opened.externals.items():
        refuse_other(f"data.external.{name}", other, subjects, recipe, spacings(own, own.subjects))
        if speaks and (warning := other_tumour(f"data.external.{name}", other, recipe)):
            print(warning, file=sys.stderr)
        if speaks and (seen := known_patients(other, subjects, state.get("trained_on", {}).get("scans", []))):
            what = f"{len(seen)} of {len(subjects)} patients of data.external.{name}, such as {seen[0]}"
            print(f"warning: the run was trained or chosen on {what}: their scores say nothing of new patients", file=sys.stderr)


def fit_baselines(config: Config, cohort: Cohort, model: Model, world: World) -> baselines.Baselines | None:
    """The baselines, fitted on rank 0 for all. None where they are not asked for, the method makes no images, or no training patient has all
    contrasts, as may be with a method that also trains on incomplete patients."""
    complete = cohort.having(config.variant.modalities).split("gan")
    if not (config.evaluate.baselines and model.method.images and complete):
        return None
    fitted = baselines.fit(cohort, complete, config.variant, config.data.clip, config.seed) if world.leads else None
    return world.from_first(fitted)


def all_tasks(opened: Opened, variant: Variant) -> Iterator[Task]:
    """Val and test patients of the run's cohort, and those of the external ones."""
    cohort = opened.cohort
    for split in ("val", "test"):
        yield from ((split, cohort, subject) for subject in scored(cohort, cohort.split(split), variant))
    for name, (other, subjects) in opened.externals.items():
        yield from ((name, other, subject) for subject in subjects)


def chosen_for_figures(tasks: list[Task], most: int) -> list[tuple[str, str]]:
    """The first `most` patients of test and of each external cohort."""
    names = {name for name, _, _ in tasks} - {"val"}
    return [(name, subject) for wanted in sorted(names) for name, _, subject in [t for t in tasks if t[0] == wanted][:most]]


def validated(config: Config, cohort: Cohort, subject: str, model: Model, device: torch.device) -> Iterator[Row]:
    """The scores of the validation that chose the checkpoint, for a patient with a tumour: one row per output."""
    if not cohort.labels(subject).any():
        return
    model.method.eval()
    stage = model.method.stages(config.train)[-1]
    for name, value in scores_of(model, stage, cohort, subject, config.data.clip, device).items():
        modality, region, metric = metric_names.score_parts(name)
        yield {"modality": modality, "model": "segmentor", "region": region, metric: value}


class Patient:
    """One held-out patient: truth, prediction and masks, in z-scores clipped as the run's settings say; only the outputs that it has."""

    def __init__(self, config: Config, cohort: Cohort, subject: str, model: Model) -> None:
        there = cohort.record(subject).modalities
        self.kept = [place for place, output in enumerate(config.variant.outputs) if output in there]
        variant = self.variant = replace(config.variant, outputs=[config.variant.outputs[place] for place in self.kept])
        self.subject = subject
        image = read_image(cohort, subject, variant.modalities, config.data.clip)
        inputs = len(variant.inputs)
        self.sources, self.truth = image[:inputs], image[inputs:]
        self.raw_truth = read_image(cohort, subject, variant.outputs, clip=False)
        self.labels = cohort.labels(subject)
        self.brain: npt.NDArray[np.bool_] = image[0] != BACKGROUND
        self.made = model.synthesise(self.sources, self.brain)[self.kept]

    def rows(self, fitted: baselines.Baselines | None) -> Iterator[Row]:
        """One row per output, model and region."""
        tumour = self.labels > 0
        predictions = {"synthesised": self.made, "lesion_erased": baselines.lesion_erased(self.truth, self.brain, tumour)}
        if fitted:
            predictions |= {name: made[self.kept] for name, made in fitted.predict(self.sources, self.brain).items()}
        for model, made in predictions.items():
            for index, modality in enumerate(self.variant.outputs):
                try:
                    scores = score(self.truth[index], made[index], self.brain, tumour, self.raw_truth[index])
                except ValueError as error:
                    raise StoreError(f"{self.subject}: {modality}: {error}") from error
                for region, values in scores.items():
                    yield {"modality": modality, "model": model, "region": region, **values}

    def judged(self, judge: Judge | None) -> Iterator[Row]:
        """The judge's Dice, where there is a judge and the patient has a tumour: a row per output for the synthesised image and for the real one."""
        tumour = self.labels > 0
        if judge is None or not tumour.any():
            return
        for model, images in (("synthesised", self.made), ("real", self.truth)):
            for modality, dice in judge.dice(images, self.variant.outputs, self.brain, tumour).items():
                yield {"modality": modality, "model": model, "region": "tumour", "judge_dice": dice}

    def draw(self, run: RunDirectory, cohort: str) -> None:
        from distsynth.evaluation.figures import draw

        title = f"{self.variant.title}   {run.path.name}   {cohort}: {self.subject}"
        path = run.figures / f"{cohort}_{self.subject}.png"
        draw(path, title, self.variant, self.sources, self.truth, self.made, self.brain, self.labels)


def collect(
    config: Config, cohort: Cohort, tasks: list[Task], rows: list[Row], fitted: baselines.Baselines | None
) -> dict[str, Any]:
    """The content of scores.json."""
    cohorts = {}
    for name in dict.fromkeys(name for name, _, _ in tasks):
        subjects = [subject for at, _, subject in tasks if at == name]
        digest = next(where.digest for at, where, _ in tasks if at == name)
        summary = summarise([row for row in rows if row["cohort"] == name])
        cohorts[name] = {"subjects": subjects, "digest": digest, "scores": summary}
    return {
        "cards": CARD,
        "copied": fitted.copied if fitted else {},
        "beaten_against": list(baselines.BASELINES) if fitted else [],
        "clip_share": {m: clipped_lesion(cohort, m) for m in config.variant.outputs} if config.data.clip else {},
        "cohorts": cohorts,
        "rows": rows,
    }


def clipped_lesion(cohort: Cohort, modality: str) -> float:
    """Mean share of the test patients' labelled voxels, over labels, that the clip changes."""
    shares = [share for s in cohort.split("test") for share in cohort.record(s).clip_share.get(modality, {}).values()]
    return float(np.mean(shares)) if shares else 0.0


def flat(scores: dict[str, Any]) -> dict[str, float]:
    """The means by their MLflow names, `test/flair/brain/psnr` and so on, and the margin over the best baseline inside the brain."""
    values = {}
    for name, cohort in scores["cohorts"].items():
        for modality, regions in cohort["scores"].items():
            for region, models in regions.items():
                for model, suffix in (("synthesised", ""), ("segmentor", ""), ("real", "_real")):
                    for metric, value in models.get(model, {}).items():
                        score_name = metric_names.score(modality, region, metric + suffix)
                        values[metric_names.on_cohort(name, score_name)] = value["mean"]
            baseline = best_baseline(regions.get("brain", {}), scores["beaten_against"])
            if baseline:
                over = metric_names.score(modality, "brain", metric_names.OVER_BASELINE)
                values[metric_names.on_cohort(name, over)] = regions["brain"]["synthesised"]["psnr"]["mean"] - baseline[1]
    return values


def best_baseline(models: dict[str, Any], names: list[str]) -> tuple[str, float] | None:
    """Name and mean PSNR of the best baseline of a region."""
    scored = [(name, models[name]["psnr"]["mean"]) for name in names if name in models]
    return max(scored, key=lambda pair: pair[1]) if scored else None


def journal_scores(run: RunDirectory, scores: dict[str, Any], step: int) -> None:
    """Write the scores into the journal, so that MLflow gets them."""
    journal = Journal(run.journal)
    journal.write("metrics", step=step, values={metric_names.of_best(name): value for name, value in flat(scores).items()})
    journal.close()

"""Synthesis on the cluster: a Slurm array, each part of which synthesises its share of the patients.

    python slurm/launch.py job=synthesise cluster=slurm cluster.array=8 source=/data/clinic out=synthesised run=runs/first

The settings are those of distsynth.synthesise and cluster.*. The same command again watches the array while it is queued, and afterwards
continues where it stopped. On this machine it runs distsynth.synthesise itself.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distsynth import synthesise
from distsynth.synthesis.outcome import Outcome
from distsynth.synthesise import Settings
from preprocess.shared.errors import CaseError, SettingError, StoreError
from preprocess.shared.files import write_json
from preprocess.shared.locks import only_one
from preprocess.shared.settings import parse
from preprocess.source.brats import Case
from slurm import squeue
from slurm.cluster import ClusterSettings
from slurm.parts import PATIENCE, absolute, array_id, failure_of, refuse_part, submit_parts, watch

if TYPE_CHECKING:
    from distsynth.synthesis.models import Candidate
    from distsynth.synthesis.session import Plan, Session

PATHS = ("source", "out", "run", "t1", "t1c", "t2", "flair", "mask")


def launch_synthesis(cluster: ClusterSettings, words: Sequence[str], logs: Path, poll_seconds: float, dry_run: bool) -> int:
    """Submit the parts and watch them; returns the exit status of distsynth.synthesise. Raises UserError before anything is submitted."""
    settings = parse(Settings, synthesise.spelled(words))
    refuse_part(settings.part)
    local = cluster.resolved == "local"
    if local:
        synthesise.check_threads(settings)
    if local and not dry_run:
        return synthesise.main(words)
    cluster = cluster if local else resources(cluster, settings.device)
    call = Call.of(settings)
    parts = 1 if local else min(cluster.array, len(call.cases))
    call.show(f"{parts} part{'s' * (parts > 1)} on {cluster.resolved}, {cluster.size}")
    synthesise.refuse_other(call.session.naming.root / "report.json")
    call.session.check()
    if dry_run:
        return 0
    if not any(call.plans.values()):  # nothing to compute, only the report to write
        return synthesise.main([*words, "device=cpu"])
    threads = [] if settings.threads else [f"threads={cluster.cpus}"]
    device = [] if cluster.gpus else ["device=cpu"]  # not a GPU that Slurm has given to another job
    given = [*words, *absolute(settings, *PATHS), *threads, *device, "continue=true"]
    root = call.session.naming.root
    busy = f"another launcher writes to out={root}: wait for it, or give another out="
    with synthesise.disk(settings.out), only_one(root / ".launcher.lock", busy):
        try:
            call.session.begin()
            array = Array.queued(root, logs, given, parts) or Array.submitted(root, logs, given, parts, cluster)
            watch(array_id(array.jobs), "patients", len(call.cases), call.counter(array), poll_seconds)
            return conclude(call.cases, array)
        finally:
            (root / ".launcher.lock").unlink(missing_ok=True)


def resources(cluster: ClusterSettings, device: str) -> ClusterSettings:
    """What each part gets: one rank, with a GPU if there is to be one. Raises SettingError for a device that no part can have."""
    if device not in ("auto", "cpu", "cuda"):
        raise SettingError(f"device={device}: choose auto, cpu or cuda: a part sees only the GPU that Slurm gives it")
    if device == "cuda" and not cluster.gpus:
        raise SettingError("device=cuda needs a GPU for each part: give cluster.gpus=1")
    return dataclasses.replace(cluster, nodes=1, ranks=1, gpus=0 if device == "cpu" else cluster.gpus)


@dataclass(frozen=True)
class Call:
    """What is known of the patients before anything is submitted."""

    cases: Sequence[Case]
    session: Session
    plans: Mapping[str, Plan]  # by patient, which model makes what; empty for one who lacks nothing or cannot be synthesised
    refused: Sequence[str]  # why patients cannot be synthesised

    @classmethod
    def of(cls, settings: Settings) -> Call:
        """Loads the models that will be used. Raises UserError if there is no patient, or no model that makes the wanted contrasts."""
        cases, layout, dataset = synthesise.patients(settings)
        session = synthesise.opened(settings, layout, dataset, "cpu")
        plans: dict[str, Plan] = {case.name: [] for case in cases}
        refused = []
        for case in cases:
            try:
                case.check(())
                plans[case.name] = session.plan(case)
            except CaseError as error:
                refused.append(str(error))
        call = cls(cases, session, plans, refused)
        for chosen in call.chosen:
            session.models.loaded(chosen)
        return call

    @property
    def chosen(self) -> list[Candidate]:
        """The models that will be used."""
        return list({chosen.path: chosen for plan in self.plans.values() for chosen, _ in plan}.values())

    def show(self, where: str) -> None:
        """Print the models, the patients and where they are synthesised."""
        for chosen in self.chosen:
            print(f"model {chosen.path}: {chosen.tasks.trained.title}")
        for why in self.refused:
            print(f"will be set aside: {why}")
        todo = sum(map(bool, self.plans.values()))
        print(f"{todo} of {len(self.cases)} patients to synthesise, in {where}")

    def counter(self, array: Array) -> Callable[[], int]:
        """A function that counts the patients who are done: whose part has reported them, or whose files are all complete."""
        naming = self.session.naming
        left = {
            name: [naming.sidecar(name, output) for _, outputs in plan for output in outputs] for name, plan in self.plans.items()
        }

        def count() -> int:
            reported = array.outcomes()
            for name, sidecars in list(left.items()):
                if name in reported or (sidecars and all(path.is_file() for path in sidecars)):
                    del left[name]
            return len(self.plans) - len(left)

        return count


@dataclass(frozen=True)
class Array:
    """The parts that write into a folder of patients; `.launched.json` there names their jobs until the launcher has merged their reports."""

    root: Path
    jobs: Sequence[Any]

    @classmethod
    def submitted(cls, root: Path, logs: Path, words: Sequence[str], parts: int, cluster: ClusterSettings) -> Array:
        """New jobs. Raises SettingError if Slurm refuses them."""
        cls(root, []).forget()
        array = cls(root, submit_parts(cluster, "distsynth-synthesise", "distsynth.synthesise", words, parts, logs))
        jobs = [job.job_id for job in array.jobs]
        write_json(root / ".launched.json", {"jobs": jobs, "asked": parts, "logs": str(logs), "words": list(words)})
        number = array_id(array.jobs)
        print(f"Slurm job {number} ({len(jobs)} parts): it continues if the launcher is stopped; scancel {number} stops it")
        return array

    @classmethod
    def queued(cls, root: Path, logs: Path, words: Sequence[str], parts: int) -> Array | None:
        """The jobs that the same command has launched before, if they are still queued or every part has reported; else None.

        Raises StoreError if the jobs of another command are still queued.
        """
        import submitit

        try:
            before = json.loads((root / ".launched.json").read_text())
        except (OSError, ValueError):
            return None
        array = cls(root, [submitit.SlurmJob(Path(before["logs"]) / "%j", job, [0]) for job in before["jobs"]])
        number = array_id(array.jobs)
        same = before["words"] == list(words) and before.get("asked", len(array.jobs)) == parts
        waiting = bool(squeue.state(number))
        if waiting and not same:
            raise StoreError(
                f"Slurm job {number} still writes to out={root} with other settings: wait for it, or scancel {number}"
            )
        if not same or not (waiting or all(array.report(k).is_file() for k in range(1, len(array.jobs) + 1))):
            return None
        print(f"Slurm job {number} ({len(array.jobs)} parts), launched before, {'continues' if waiting else 'has ended'}")
        return array

    def report(self, number: int) -> Path:
        """Of a part, counted from 1."""
        return self.root / f"report-{number}-of-{len(self.jobs)}.json"

    def reports(self) -> list[dict[str, Any]]:
        """Of the parts that have finished."""
        paths = [self.report(number) for number in range(1, len(self.jobs) + 1)]
        return [json.loads(path.read_text()) for path in paths if path.is_file()]

    def outcomes(self) -> dict[str, Outcome]:
        """By patient, what the parts that have finished report."""
        return {each["patient"]: Outcome(**each) for report in self.reports() for each in report["patients"]}

    def failures(self) -> dict[int, str]:
        """Why parts that have ended wrote no report, by number; prints them."""
        failures, deadline = {}, time.monotonic() + PATIENCE
        for number, job in enumerate(self.jobs, 1):
            if self.report(number).is_file():
                continue
            why = failure_of(job, deadline) or "it wrote no report"
            if not self.report(number).is_file():  # a shared file system may show it late
                failures[number] = why
                print(f"part {number}/{len(self.jobs)} did not finish: {why} (see {job.paths.stderr})", file=sys.stderr)
        return failures

    def forget(self) -> None:
        """Remove what the parts and the launcher leave for each other."""
        for path in (self.root / ".launched.json", *self.root.glob("report-*-of-*.json")):
            path.unlink(missing_ok=True)


def conclude(cases: Sequence[Case], array: Array) -> int:
    """Merge the reports into report.json and print who was set aside; returns the exit status. Raises UserError if every patient was."""
    parts = len(array.jobs)
    lost = {
        case.name: f"{case.name}: part {number}/{parts} did not finish ({why}): the same command continues"
        for number, why in array.failures().items()
        for case in synthesise.share(cases, f"{number}/{parts}")
    }
    known = array.outcomes()
    unseen = {case.name: f"{case.name}: it was not there when its part began: run the same command again" for case in cases}
    outcomes = [known.get(name) or Outcome(name, "set aside", why=why) for name, why in {**unseen, **lost}.items()]
    for outcome in outcomes:
        if outcome.status == "set aside" and outcome.patient not in lost:
            print(outcome.line)
    settings = [{key: value for key, value in report["settings"].items() if key != "part"} for report in array.reports()]
    write_json(
        array.root / "report.json",
        {"settings": settings[0] if settings else {}, "patients": [asdict(outcome) for outcome in outcomes]},
    )
    array.forget()
    if lost:
        print("the same command continues the parts that did not finish", file=sys.stderr)
    return synthesise.conclude(outcomes, array.root / "report.json")

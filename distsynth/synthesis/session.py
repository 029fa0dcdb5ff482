"""One call: patients one after another, each made, written and marked as done by its sidecars."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from distsynth.synthesis.models import Candidate, Models
from distsynth.synthesis.naming import Naming
from distsynth.synthesis.outcome import Options, Outcome
from distsynth.synthesis.patient import Patient
from distsynth.synthesis.quicklook import draw, is_picture
from distsynth.synthesis.sidecar import is_done, read_sidecar, request, sidecar
from distsynth.synthesis.synthesiser import Made, Synthesiser
from distsynth.synthesis.tasks import listed
from distsynth.training.precision import allow_tf32
from preprocess.cohort.files import file_digest, read_json
from preprocess.restore import like, write_nifti
from preprocess.shared.errors import CaseError, StoreError, UserError
from preprocess.shared.files import write_json
from preprocess.source.brats import Case
from preprocess.source.contents import refuse_absent
from preprocess.source.images import is_synthetic, load_all
from preprocess.source.layouts import MODALITIES

LONGEST = 240  # bytes of a file's name
Plan = list[tuple[Candidate, list[str]]]  # a model and the contrasts that it is to make, together


class Session:
    """The models, names and options of a call."""

    def __init__(self, models: Models, naming: Naming, dataset: Path, options: Options) -> None:
        """`dataset` is the folder that the patients' files are below."""
        self.models, self.naming, self.dataset, self.options = models, naming, dataset, options
        allow_tf32(False)  # as in the evaluation
        if options.threads:
            torch.set_num_threads(options.threads)

    def one(self, case: Case) -> Outcome:
        """Synthesise a patient. Raises OSError where the files cannot be written; other failures set the patient aside."""
        try:
            case.check(())
            return self.synthesise(case)
        except CaseError as error:
            return Outcome(case.name, "set aside", why=str(error))
        except torch.OutOfMemoryError:
            why = f"{case.name}: the GPU's memory is full: give device=cpu, or a GPU that nothing else uses"
        except MemoryError:
            why = f"{case.name}: not enough memory"
        except (OSError, UserError):  # the disk's or the model's: no other patient could be made either
            raise
        except Exception as error:  # one odd patient must not stop the others
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            why = f"{case.name}: unexpected error ({type(error).__name__}: {reason}): please report it"
        return Outcome(case.name, "set aside", why=why)

    def synthesise(self, case: Case) -> Outcome:
        plan = self.plan(case)
        paths = {output: str(self.naming.image(case.name, output)) for _, outputs in plan for output in outputs}
        if any(len(os.fsencode(Path(path).name)) > LONGEST for path in paths.values()):
            raise CaseError(f"{case.name[:40]}…: the name is too long for files: give a shorter one")
        if not plan:
            return Outcome(case.name, "nothing missing")
        hashes = {kind: digest_of(case.name, path) for kind, path in case.files.items()}
        scans = {kind: volume_of(case, kind, digest) for kind, digest in hashes.items()}
        if twice := [kind for kind in scans if list(scans.values()).count(scans[kind]) > 1]:
            raise CaseError(f"{case.name}: {' and '.join(twice)} are the same file: give each contrast its own")
        if self.done(case, plan, scans):
            return Outcome(case.name, "kept", paths)
        images = load_all(case.name, case.files, case.channels)
        patients: dict[str, Patient] = {}
        made: dict[str, tuple[Synthesiser, Patient, Made]] = {}
        notes = [sentence for kind, sentence in case.noted if kind != "seg"]
        makers: dict[str, str] = {}
        for chosen, outputs in plan:
            model = self.models.loaded(chosen)
            as_trained = f"{model.recipe} {model.trained_on.spacing}"  # runs of one cohort share what it makes of the scans
            if as_trained not in patients:
                patients[as_trained] = model.patient(
                    case.name, images, self.options.resample, self.options.coregister, self.options.checks
                )
            patient = patients[as_trained]
            of_model = model.make(patient, outputs, self.options.flip)
            made |= {output: (model, patient, each) for output, each in of_model.items()}
            makers |= dict.fromkeys(outputs, model.name)
        notes += [note for patient in patients.values() for note in patient.notes]
        self.draw(case, made)
        for output, (model, patient, each) in made.items():
            seen = patient.seen_by(model.trained_on, hashes, each.inputs)
            notes += [f"{model.name} was trained on this patient: not a held-out result"] * seen
            self.write(case, patient, scans, output, model, each, seen)
        return Outcome(case.name, "synthesised", paths, makers, notes=list(dict.fromkeys(notes)))

    def begin(self) -> None:
        """Write what belongs to all patients. Raises StoreError if it is that of another dataset, OSError if it cannot be written."""
        self.check()
        description = self.naming.root / "dataset_description.json"
        if self.naming.bids and not description.exists():
            with suppress(FileNotFoundError):  # another part was faster
                write_json(description, self.naming.dataset_description(self.dataset))

    def check(self) -> None:
        """Raise StoreError if the folder to write to is that of another dataset."""
        description, links = self.naming.root / "dataset_description.json", "DatasetLinks"
        if not (self.naming.bids and description.exists()):
            return
        if read_json(description).get(links) != self.naming.dataset_description(self.dataset)[links]:
            raise StoreError(f"{description} is of images from another dataset: give another out=")

    # -- what is to be made ----------------------------------------------------------------------------------------------

    def plan(self, case: Case) -> Plan:
        """Which model makes which of the patient's contrasts; nothing if it lacks none. Raises CaseError if a wanted one cannot be made."""
        there = [m for m in MODALITIES if m in case.files]
        by_model: dict[int, tuple[Candidate, list[str]]] = {}
        refused: list[str] = []
        for output in self.wanted(there):
            chosen = self.models.best(there, output)
            if chosen is None:
                refused.append(output)
            else:
                by_model.setdefault(id(chosen), (chosen, []))[1].append(output)
        if refused and (not by_model or isinstance(self.options.outputs, list)):
            able = [c.tasks for c in self.models.candidates if refused[0] in c.tasks.outputs]
            if not there:
                raise CaseError(f"{case.name}: it has no scan that is not itself synthesised")
            several = f"none of the {len(able)} runs makes {listed(refused[:1])} from only {listed(there)}"
            raise CaseError(f"{case.name}: {several if len(able) > 1 else able[0].needs(there, refused[:1])}")
        return [part for chosen, outputs in by_model.values() for part in together(chosen, there, outputs)]

    def wanted(self, there: Sequence[str]) -> list[str]:
        """The contrasts to make for a patient who has those that are there."""
        if isinstance(self.options.outputs, list):
            return self.options.outputs
        trained = {output for c in self.models.candidates for output in c.tasks.trained.outputs}
        every = self.options.outputs == "all"
        return [output for output in self.models.outputs if output not in there or (every and output in trained)]

    def done(self, case: Case, plan: Plan, hashes: Mapping[str, str]) -> bool:
        """Whether all of a patient's files are there and complete. Raises CaseError if something else is in their place."""
        picture = self.naming.picture(case.name, [output for _, outputs in plan for output in outputs])
        if picture.exists() and not is_picture(picture):
            raise CaseError(f"{case.name}: {picture} exists and is not of this tool: give another out=")
        states = [picture.exists()]
        for chosen, outputs in plan:
            wanted = request(self.models.loaded(chosen), hashes, self.changes)
            for output in outputs:
                image, json = self.naming.image(case.name, output), self.naming.sidecar(case.name, output)
                states.append(is_done(image, json, wanted))
                if not states[-1]:
                    self.refuse(case, output, image, json, wanted)
                if image.exists() and not self.options.continued:
                    raise CaseError(f"{case.name}: {image} exists: continue=true keeps what is done; or give another out=")
        return all(states)

    def refuse(self, case: Case, output: str, image: Path, json: Path, wanted: str) -> None:
        """Raise CaseError for files that are not half-done ones of this very call, or where an acquired contrast would get a twin."""
        acquired = case.files.get(output)
        if self.naming.kind == "plain" and acquired and acquired.parent.resolve() == image.parent.resolve():
            raise CaseError(
                f"{case.name}: names=plain would put {image.name} beside the acquired {acquired.name}: give another out="
            )
        if image.exists() and not is_synthetic(image):
            raise CaseError(f"{case.name}: {image} exists and is not synthesised: give another out=")
        if (written := read_sidecar(json)) is None:
            raise CaseError(f"{case.name}: {json} exists and is not of this tool: give another out=")
        if image.exists() and written.get("Request", wanted) != wanted:
            raise CaseError(
                f"{case.name}: {image} was made by another model, of other scans or with other options: give another out="
            )

    @property
    def changes(self) -> dict[str, Any]:
        """The options that change an image."""
        return {"resample": self.options.resample, "coregister": self.options.coregister, "flip": self.options.flip}

    # -- what is written -------------------------------------------------------------------------------------------------

    def draw(self, case: Case, made: Mapping[str, tuple[Synthesiser, Patient, Made]]) -> None:
        """The quick look; of outputs on different grids, those on the first one's."""
        _, first, _ = next(iter(made.values()))
        shown = {output: each for output, (_, patient, each) in made.items() if patient.grid == first.grid}
        runs = dict.fromkeys(model.name for model, _, _ in made.values())
        draw(self.naming.picture(case.name, list(made)), f"{case.name}, by {' and '.join(runs)}", first.scans, shown)

    def write(
        self, case: Case, patient: Patient, hashes: Mapping[str, str], output: str, model: Synthesiser, made: Made, seen: bool
    ) -> None:
        """The image, and last its sidecar, which says that it is complete."""
        image = self.naming.image(case.name, output)
        write_nifti(image, like(made.volume, patient.image, model.description(output, made)))
        device = next(model.model.method.parameters()).device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
        details = {
            "Sources": [self.naming.source(case.files[m], self.dataset) for m in made.inputs],
            "SeenInTraining": seen,
            "Notes": list(patient.notes),
            "Scans": {
                kind: {
                    "file": case.files[kind].name,
                    **dict(zip(("sha256", "volume"), hashes[kind].split(", volume "), strict=False)),
                }
                for kind in case.files
            },
            "Grid": patient.grid,
            "Resampled": patient.resampled,
            "Coregistered": patient.scans.moved,
            "Averaged": "over left-right flips" if self.options.flip else "no",
            "Device": f"{device.type} ({name})",
            "Image": {"sha256": file_digest(image)},
            "Request": request(model, hashes, self.changes),
        }
        write_json(self.naming.sidecar(case.name, output), sidecar(model, output, made, details))


def digest_of(name: str, path: Path) -> str:
    """The sha256 of a scan. Raises CaseError if it cannot be read."""
    refuse_absent(name, path)
    try:
        return file_digest(path)
    except OSError as error:
        raise CaseError(f"{name}: {path.name} cannot be read ({error.strerror}): copy it again") from error


def volume_of(case: Case, kind: str, digest: str) -> str:
    """Identifies a scan: the sha256 of its file and, of a 4-D file, the number of its volume."""
    return f"{digest}, volume {case.channels[kind][0]}" if kind in case.channels else digest


def together(chosen: Candidate, there: Sequence[str], outputs: list[str]) -> Iterator[tuple[Candidate, list[str]]]:
    """One call of the model for all outputs or, where each needs another as input, one for each."""
    if chosen.tasks.task(there, outputs):
        yield chosen, outputs
    else:
        yield from ((chosen, [output]) for output in outputs)

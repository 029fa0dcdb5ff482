"""Export a trained model, so that it can be used where neither its run nor its cohort is.

    python -m distsynth.export runs/first model.zip licence="CC BY 4.0"
    python -m distsynth.export run=runs/first out=model.onnx to=onnx
    python -m distsynth.export run=runs/first out=served to=mlflow
    python -m distsynth.export run=runs/lr/simo to=mlflow register=flair       into the run's MLflow run

to=bundle  a zip laid out as a MONAI bundle: weights (safetensors), configuration, preprocessing, scores. distsynth reads it like a run.
to=onnx    the network only, for ONNX runtimes; needs pip install distsynth[onnx]
to=pt2     the network only, for torch.export.load
to=mlflow  a model that `mlflow models serve` serves: requests name files, answers name the images that were written

The last three are made for other programs; onnx and pt2 are compared with the run's network before they are kept. No form holds a pickle, an
image or a name of a training patient. Weights carry the terms of the training data: say them with licence=.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from preprocess.shared.errors import SettingError, StoreError
from preprocess.shared.settings import command, parse, required, setting

SUFFIX = {"bundle": ".zip", "onnx": ".onnx", "pt2": ".pt2"}


@dataclass
class Settings:
    POSITIONAL: ClassVar = ("run", "out")
    run: str = required("a run's folder, or an exported model.zip")
    out: str = setting("", "the file to write, or for to=mlflow a folder (empty: the run's own MLflow run)")
    to: Literal["bundle", "onnx", "pt2", "mlflow"] = setting("bundle", "bundle, onnx, pt2 or mlflow")
    licence: str = setting("", "the terms of the weights, which are those of the training data, e.g. 'CC BY-NC 4.0'")
    register: str = setting("", "to=mlflow without out=: also register the model under this name")

    def __post_init__(self) -> None:
        suffix = SUFFIX.get(self.to, "")
        if suffix and Path(self.out).suffix != suffix:
            raise SettingError(f"out={self.out} must end in {suffix} for to={self.to}, for example out=model{suffix}")
        if self.register and (self.to != "mlflow" or self.out):
            raise SettingError(
                f"register={self.register} is for to=mlflow without out=: the model is registered from the run's MLflow run"
            )


def main(words: Sequence[str]) -> int:
    settings = parse(Settings, words)
    out = Path(settings.out)
    if settings.out and out.exists():
        raise StoreError(f"out={out} exists: give another out=")
    try:
        print("\n".join(export(settings, out)))
    except OSError as error:
        raise StoreError(f"cannot write out={out}: {error.strerror or error}: give another out=") from error
    if not settings.licence and settings.to in ("bundle", "mlflow"):
        print("licence= is not given: the model card says that its terms are not stated")
    return 0


def export(settings: Settings, out: Path) -> list[str]:
    """Write the model. Returns the lines to print. Raises UserError or OSError."""
    from distsynth.synthesis import bundle, forms  # which load torch: --help does not wait for it
    from distsynth.synthesis.models import load

    if settings.to == "mlflow":
        return mlflow(settings, out)
    made = load(settings.run)
    if settings.to == "bundle":
        bundle.write(made, out, settings.licence)
        return [
            f"{out}: {made.name}, digest {made.digest[:12]}",
            f"use it: python -m distsynth.synthesise source=FOLDER out=FOLDER {shlex.quote(f'run={out}')}",
        ]
    largest = forms.write(made, settings.to, out)
    return [f"{out}: its volumes differ by at most {largest:.2g} z-scores from the run's (allowed: {forms.TOLERANCE:g})"]


def mlflow(settings: Settings, out: Path) -> list[str]:
    from distsynth.run_directory import RunDirectory
    from distsynth.synthesis import mlflow_model
    from distsynth.synthesis.models import load

    made = load(settings.run)
    if settings.out:
        mlflow_model.save(made, out, settings.licence)
        lines, model, store = [f"{out}: {made.name}, digest {made.digest[:12]}"], str(out.absolute()), ""
    else:
        model, store = mlflow_model.log(made, RunDirectory(settings.run), settings.licence, settings.register)
        lines = [f"logged as {model}{f', registered as {settings.register}' if settings.register else ''}"]
    return [
        *lines,
        "serve it on this machine, from the folder that requests may read and write below:",
        f"  {mlflow_model.serve_command(model, store)}",
        "only serve models that you exported: an MLmodel of others can run their code (loader_module) even with pickles refused",
    ]


def entry() -> None:
    """The console script."""
    command(main, __doc__, Settings)


if __name__ == "__main__":
    entry()

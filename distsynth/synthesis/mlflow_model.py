"""An exported model as an MLflow model, in a folder or in the run's own MLflow run. Imported only for `to=mlflow`."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distsynth.run_directory import RunDirectory
from distsynth.synthesis import bundle
from distsynth.synthesis.served import REQUEST
from distsynth.synthesis.synthesiser import Synthesiser
from distsynth.tracking.sync import Sync
from distsynth.tracking.ui import mlflow_command
from preprocess.shared.errors import StoreError, UserError

CODE = Path(__file__).with_name("pyfunc.py")
FILES = {"MLmodel", "conda.yaml", "python_env.yaml", "requirements.txt", "pyfunc.py", "artifacts/model.zip"}
NO_PICKLE = "MLFLOW_ALLOW_PICKLE_DESERIALIZATION"


def save(made: Synthesiser, folder: Path, licence: str) -> None:
    """Write the model to a new folder. Raises StoreError if that exists."""
    if folder.exists():
        raise StoreError(f"out={folder} exists: give another out=")
    settings()
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    from mlflow import pyfunc
    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export-") as temporary, without_warnings():
        archive, partial = Path(temporary) / "model.zip", Path(temporary) / "model"
        bundle.write(made, archive, licence)
        try:
            pyfunc.save_model(partial, **parts(archive))
        except MlflowException as error:
            if isinstance(error.__cause__, OSError):
                raise error.__cause__ from None
            raise StoreError(f"MLflow cannot write the model: {str(error).splitlines()[0]}") from error
        refuse_pickles(partial)
        about = partial / "MLmodel"
        for folder_here in (temporary, CODE.parent):  # MLflow only reads the files' names
            about.write_text(about.read_text().replace(f"{folder_here}/", ""))
        partial.rename(folder)


def log(made: Synthesiser, run: RunDirectory, licence: str, register: str) -> tuple[str, str]:
    """Log the model into the run's own MLflow run, and register it under a name if one is given. Returns the model's URI
    and that of the store.

    Raises UserError if the run is not part of a sweep, has not started, or MLflow fails.
    """
    sweep = run.path.parent
    if not (sweep / "sweep.json").is_file() or not run.identity.is_file():
        raise UserError(f"{run.path} is not part of a sweep, so MLflow does not know it: give out=FOLDER")
    settings()
    sync = Sync(sweep)
    with sync.store.failures(), tempfile.TemporaryDirectory() as temporary, without_warnings():
        import mlflow
        from mlflow import pyfunc
        from mlflow.models import Model

        sync.replay_run(run)
        if run.path not in sync.runs:
            raise UserError(f"{run.path} has not started, so MLflow does not know it: give out=FOLDER")
        archive = Path(temporary) / "model.zip"
        bundle.write(made, archive, licence)
        mlflow.set_tracking_uri(sync.uri)
        its_run, registered = sync.runs[run.path], {"registered_model_name": register} if register else {}
        # Not `pyfunc.log_model`, which opens the run again and gives it another end, and not without a model: it would be in MLflow's default
        # experiment, whose files lie in the working directory.
        model = sync.client.create_logged_model(sync.experiment, name="model", source_run_id=its_run)
        info = Model.log(None, pyfunc, name="model", model_id=model.model_id, run_id=its_run, **registered, **parts(archive))
        return str(info.model_uri), sync.uri


def parts(archive: Path) -> dict[str, Any]:
    """What MLflow stores: code that reads the exported model, and the columns of a request. Requirements are given, so that MLflow does not
    load the model in another process to find them."""
    from importlib.metadata import version

    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    columns = [ColSpec("string", name, required=name == "out") for name in REQUEST]
    return {
        "python_model": str(CODE),
        "artifacts": {"model": str(archive)},
        "signature": ModelSignature(inputs=Schema(columns)),
        "pip_requirements": [f"{name}=={version(name)}" for name in ("distsynth", "mlflow")],
        "model_config": {"device": "auto"},
    }


def settings() -> None:
    """Nothing is unpickled, and nothing is reported to MLflow's makers. Has to precede the first import of mlflow."""
    os.environ[NO_PICKLE] = "false"
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")


@contextmanager
def without_warnings() -> Iterator[None]:
    """MLflow wants an example of a request, for which there would have to be a patient's files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def refuse_pickles(folder: Path) -> None:
    """Raise StoreError if MLflow wrote any other file than code, texts and the exported model."""
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    if others := written - FILES:
        raise StoreError(f"this version of MLflow also writes {min(others)}, which may be a pickle: use mlflow 3")


def serve_command(model: str, uri: str = "") -> str:
    """The command that serves the model on this machine only, and refuses pickles. `uri` is the database that holds it; a server of
    MLFLOW_TRACKING_URI, which may hold a password, is not repeated."""
    program = mlflow_command()
    path = "" if program == "mlflow" else f'PATH="{Path(program).parent}:$PATH" '  # the server's own programs lie there too
    store = f"MLFLOW_TRACKING_URI={uri} " if uri.startswith("sqlite:") and "MLFLOW_TRACKING_URI" not in os.environ else ""
    variables = f"{path}{store}{NO_PICKLE}=false MLFLOW_DISABLE_TELEMETRY=true"
    return f"{variables} mlflow models serve -m {model} -h 127.0.0.1 -p 5001 --env-manager local"

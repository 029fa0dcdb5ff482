"""MLflow's store: where it is, how it is opened, and what its failures are called. No password in its address is printed.

Any exception may come from a store (its database's driver, its server, a missing package); each becomes one sentence.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from preprocess.shared.errors import UserError
from preprocess.shared.locks import only_one

EXPERIMENT = "distsynth"
VARIABLE = "MLFLOW_TRACKING_URI"
LIBRARIES = ("mlflow", "alembic", "sqlalchemy", "urllib3", "botocore")  # their log would repeat what one sentence of ours says
# MLflow's own are 120 s and 7 retries.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
OPENING = 300.0  # seconds to wait for another process that makes or migrates the same database


class StoreFailure(UserError):
    """The store failed. `cause` is the same for every failure of the same cause; `unanswered`: nothing else can be sent now."""

    def __init__(self, sentence: str, cause: str, unanswered: bool) -> None:
        super().__init__(sentence)
        self.cause, self.unanswered = cause, unanswered


class Warnings:
    """Prints one warning for each cause."""

    def __init__(self) -> None:
        self.printed: set[str] = set()

    def __call__(self, sentence: str, cause: str = "") -> None:
        if (cause or sentence) not in self.printed:
            self.printed.add(cause or sentence)
            print(f"warning: {sentence}", file=sys.stderr, flush=True)


class Store:
    """The store of a folder of runs: MLFLOW_TRACKING_URI, or else SQLite in mlflow.db in `top`. `folder` is what is sent there."""

    def __init__(self, given: str, top: Path, folder: Path) -> None:
        variable = "" if given else os.environ.get(VARIABLE, "")
        self.top = top
        self.uri = given or variable or f"sqlite:///{top / 'mlflow.db'}"
        self.name = f"the MLflow store {f'{VARIABLE}=' if variable else ''}{address(self.uri)}"
        sync = f"python -m distsynth.tracking.sync {shlex.quote(str(folder))}"
        self.later = f"{sync} sends it later" + (
            f" (with env -u {VARIABLE} before it: into {top / 'mlflow.db'})" if variable else ""
        )

    def open(self) -> tuple[Any, str]:
        """The client and the experiment's id. Raises StoreFailure."""
        with self.failures(), self.first_opening():
            client = connect(self.uri)
            return client, self.experiment(client)

    def first_opening(self) -> Any:
        """Two processes cannot make or migrate one database at once: MLflow's migrations would meet each other's tables."""
        database = (
            Path(self.uri.partition(":///")[2].partition("?")[0]) if self.uri.startswith("sqlite:") else self.top / "mlflow"
        )
        lock = database.with_name(f".{database.name}.lock")
        return only_one(lock, f"another process has been opening {self.name} for {OPENING:.0f} s: end it", wait=OPENING)

    def experiment(self, client: Any) -> str:
        """The experiment's id; one that was deleted is restored, with its runs."""
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            # With SQLite, MLflow's default is an absolute path under the current directory; a server has its own location for artifacts.
            local = (self.top / "artifacts").as_uri() if self.uri.startswith("sqlite:") else None
            try:
                return str(client.create_experiment(EXPERIMENT, local))
            except Exception:
                if (experiment := client.get_experiment_by_name(EXPERIMENT)) is None:  # not made by another process meanwhile
                    raise
        if experiment.lifecycle_stage == "deleted":
            client.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)

    @contextmanager
    def failures(self) -> Iterator[None]:
        """Any exception as a StoreFailure, except what is already a sentence."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            raise self.failure(error) from error

    def failure(self, error: BaseException) -> StoreFailure:
        text = self.reason(error)
        return StoreFailure(
            f"{self.name} failed ({text}); the journals keep everything: {self.later}", cause_of(text), unanswered(error)
        )

    def reason(self, error: BaseException) -> str:
        """Why something failed, in a few words."""
        if unanswered(error):
            return "it does not answer"
        if missing := next((e for e in chain(error) if isinstance(e, ImportError) and e.name), None):
            return f"the Python package {missing.name} is not installed"
        lines = without_secrets(str(error), self.uri).strip().splitlines() or [type(error).__name__]
        return lines[0][:300]


def connect(uri: str) -> Any:
    """An MLflow client without log messages and telemetry. Raises whatever a store raises."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for library in LIBRARIES:
        logging.getLogger(library).setLevel(logging.ERROR)
    client = MlflowClient(uri)
    client.search_experiments(max_results=1)
    return client


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and those that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def unanswered(error: BaseException) -> bool:
    """Whether the store, or what is between, did not answer: nothing else can be sent now."""
    from requests import exceptions
    from urllib3.exceptions import HTTPError, ResponseError

    for each in chain(error):
        if isinstance(each, exceptions.RetryError | ResponseError):  # it does answer, with an error
            return False
        if isinstance(each, ConnectionError | TimeoutError | exceptions.ConnectionError | exceptions.Timeout | HTTPError):
            return True
    return False


def cause_of(reason: str) -> str:
    """The reason without what differs from one time to the next: names of runs and files, addresses, numbers."""
    return re.sub(r"'[^']*'|\S*[/\d]\S*", "…", reason)


def address(uri: str) -> str:
    """The URI without a password."""
    plain = re.sub(r"(?i)((?:pass|pwd|token|secret|key)[^=&]*=)[^&]*", r"\1***", uri)
    return plain if plain.startswith("sqlite:") else re.sub(r"(?s)://.*@", "://***@", plain)


def without_secrets(text: str, uri: str) -> str:
    """The text without the URI's passwords and those of MLflow's variables."""
    secrets = {os.environ.get(f"MLFLOW_TRACKING_{name}", "") for name in ("PASSWORD", "TOKEN")}
    if not uri.startswith("sqlite:") and (user := re.search(r"(?s)://(.*)@", uri)):
        secrets |= {user[1], user[1].partition(":")[2]}
    secrets |= set(re.findall(r"(?i)(?:pass|pwd|token|secret|key)[^=&]*=([^&]+)", uri))
    for secret in sorted({*secrets, *map(unquote, secrets)} - {""}, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text

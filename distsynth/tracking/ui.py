"""How to see the runs in MLflow: its UI phones home unless it is told not to."""

from __future__ import annotations

import shlex
import shutil
import socket
import sys
from pathlib import Path
from typing import Protocol

from distsynth.tracking.store import VARIABLE, address


class Opened(Protocol):
    uri: str
    experiment: str


def ui_lines(sync: Opened) -> list[str]:
    """The command that opens the UI, and the address of the table of runs: by default MLflow 3 opens an experiment in its GenAI view."""
    page = f"#/experiments/{sync.experiment}?workflowType=machine_learning"
    if sync.uri.startswith("http"):
        return [f"runs in MLflow: {address(sync.uri).replace('***@', '').rstrip('/')}/{page}"]
    store = shlex.quote(sync.uri) if address(sync.uri) == sync.uri else f'"${VARIABLE}"'
    return [
        "compare the runs in the MLflow UI:",
        f"  MLFLOW_DISABLE_TELEMETRY=true {mlflow_command()} ui --backend-store-uri {store}",
        f"  then open http://127.0.0.1:5000/{page}",
        f"  (on your own computer, after: ssh -L 5000:localhost:5000 {socket.gethostname()})",
    ]


def mlflow_command() -> str:
    """`mlflow`, with its folder if the shell would not find it or would find another one."""
    own = Path(sys.executable).with_name("mlflow")  # of this Python environment
    return "mlflow" if not own.is_file() or shutil.which("mlflow") == str(own) else str(own)

"""The second half of how.sh, python collect.py MADE: takes what the tests need of what the older version has made into this folder."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from mlflow import MlflowClient

HERE = Path(__file__).parent
KEPT = ("sweep.json", "*/run.json", "*/config.yaml", "*/journal.jsonl", "*/checkpoints/best.pt", "*/evaluation/scores.json")


def main(made: Path) -> None:
    for old in ("cohort.zarr", "runs", "afterwards"):
        shutil.rmtree(HERE / old, ignore_errors=True)
    shutil.copytree(made / "cohort.zarr", HERE / "cohort.zarr", ignore=shutil.ignore_patterns("*lock"))
    stopped = made / "stopped" / "old"
    newest = max((stopped / "simo_tcmgan" / "checkpoints").glob("step-*.pt"))
    for path in [*(path for pattern in KEPT for path in stopped.glob(pattern)), newest]:
        copy = HERE / "runs" / "old" / path.relative_to(stopped)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    afterwards(made, HERE / "afterwards")


def afterwards(made: Path, out: Path) -> None:
    """What became of the two runs."""
    out.mkdir()
    resumed = made / "runs" / "old" / "simo_tcmgan"
    shutil.copy(made / "evaluated.txt", out)
    shutil.copy(resumed / "journal.jsonl", out)
    write(out / "scores.json", json.loads((resumed / "evaluation" / "scores.json").read_text()))
    write(out / "mlflow.json", in_mlflow(made / "stopped" / "mlflow.db"))
    newest = max((resumed / "checkpoints").glob("step-*.pt"))
    weights = torch.load(newest, weights_only=True)["method"]
    torch.save(torch.cat([weights[name].reshape(-1).float() for name in sorted(weights)]), out / "weights.pt")


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, separators=(",", ":")) + "\n")


def in_mlflow(database: Path) -> dict[str, Any]:
    """What the launcher had sent when the second run was stopped."""
    client = MlflowClient(f"sqlite:///{database}")
    experiment = client.get_experiment_by_name("distsynth")
    found = {}
    for run in client.search_runs([experiment.experiment_id]):
        curves = {
            name: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
        }
        found[run.info.run_name] = {"status": run.info.status, "params": run.data.params, "tags": run.data.tags, "curves": curves}
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))

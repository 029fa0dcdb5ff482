"""The code that an exported MLflow model stores (`python -m distsynth.export to=mlflow`); only MLflow runs it.

It is code rather than a pickled object, so that the model loads where MLFLOW_ALLOW_PICKLE_DESERIALIZATION is false.
"""

from typing import Any

import pandas  # type: ignore[import-untyped]
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from distsynth.synthesis.served import Server


class Synthesis(PythonModel):  # type: ignore[misc]
    """Rows of paths in, what became of each patient out (see `Server`)."""

    def load_context(self, context: PythonModelContext) -> None:
        self.server = Server(context.artifacts["model"], (context.model_config or {}).get("device", "auto"))

    def predict(
        self, context: PythonModelContext, model_input: pandas.DataFrame, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        return [self.server.answer(row) for row in model_input.to_dict("records")]


set_model(Synthesis())

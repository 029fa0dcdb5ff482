"""The network of a model as ONNX or as pt2 (`torch.export`), for programs without distsynth, checked to make the same volumes.

    sources (B, inputs, H, W) in [-1, 1], brain (B, 1, H, W) of 0 and 1 -> made (B, outputs, H, W) in [-1, 1], -1 outside the brain

The batch is of any size; methods that train on patches get (B, inputs, D, H, W). What turns a patient's scans into sources, and made into
intensities, is not in the network: the file holds recipe, map and units as JSON.
"""

from __future__ import annotations

import copy
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from distsynth.methods.contract import Method
from distsynth.synthesis.sidecar import NOTICE
from distsynth.synthesis.synthesiser import Synthesiser
from preprocess.intensity import BACKGROUND
from preprocess.shared.errors import SettingError, StoreError

Form = Literal["onnx", "pt2"]
Network = Callable[[Tensor, Tensor], Tensor]
TOLERANCE = 1e-3  # z-scores; the store's float16 rounds by up to 2e-3
SLICES = (1, 2, 17)  # of the volumes of the check; slices go through in batches of up to 16
KEY = "distsynth.json"


class Synthesise(nn.Module):
    """A method's `synthesise` as a network."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method.eval()

    def forward(self, sources: Tensor, brain: Tensor) -> Tensor:
        return self.method.synthesise(sources, brain)


def write(made: Synthesiser, form: Form, path: Path) -> float:
    """Write the network and compare it. Returns the largest difference of a volume's z-scores.

    Raises SettingError if the form cannot hold the network or libraries are missing, StoreError if `path` exists or the volumes differ, and
    leaves no file then.
    """
    if path.exists():
        raise StoreError(f"out={path} exists: give another out=")
    if form == "onnx" and (missing := [name for name in ("onnx", "onnxscript", "onnxruntime") if not find_spec(name)]):
        raise SettingError(f"to=onnx needs {missing[0]}, which is not installed: pip install distsynth[onnx]")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        file = Path(folder) / f"network.{form}"
        network = written(made, form, file)
        if (largest := difference(made, network)) > TOLERANCE:
            raise StoreError(f"the {form} makes z-scores that differ by up to {largest:.2g}, above {TOLERANCE}: use to=bundle")
        file.replace(path)
    return largest


def written(made: Synthesiser, form: Form, file: Path) -> Network:
    """The network that was written to a file and loaded from it. Raises SettingError if the form cannot hold it."""
    with quiet(), torch.no_grad():
        try:
            return WRITERS[form](traced(made), json.dumps(described(made)), file)
        except OSError:
            raise
        except Exception as error:  # the exporters', of many types
            method = made.config.method
            noise = ", which draws noise by the bits of each slice" if getattr(method, "noise_at_test", False) else ""
            raise SettingError(f"to={form} cannot hold the network of method {method.name}{noise}: use to=bundle") from error


def traced(made: Synthesiser) -> Any:
    """The exported program, without the paths of this machine's source files."""
    model = made.model
    shape = (model.method.patch,) * 3 if model.method.patch else model.size
    example = (
        torch.zeros(2, len(model.variant.inputs), *shape),
        torch.ones(2, 1, *shape),
    )  # a batch of 1 would be taken for a constant
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(Synthesise(model.method), example, dynamic_shapes=(batch, batch), strict=True)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def write_onnx(program: Any, about: str, file: Path) -> Network:
    import onnxruntime

    names = {"input_names": ["sources", "brain"], "output_names": ["made"]}
    exported = torch.onnx.export(program, (), dynamo=True, verbose=False, **names)  # type: ignore[arg-type]
    assert exported is not None
    for node in exported.model.graph.all_nodes():
        node.metadata_props.clear()
    exported.model.metadata_props[KEY] = about
    file.write_bytes(exported.model_proto.SerializeToString())
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def network(sources: Tensor, brain: Tensor) -> Tensor:
        (made,) = session.run(["made"], {"sources": sources.numpy(), "brain": brain.numpy()})
        return torch.from_numpy(made)

    return network


def write_pt2(program: Any, about: str, file: Path) -> Network:
    program.example_inputs = None  # which would be stored as a pickle
    content = io.BytesIO()  # a full disk is then an OSError
    torch.export.save(program, content, extra_files={KEY: about})
    file.write_bytes(content.getvalue())
    loaded: Network = torch.export.load(file).module()
    return loaded


WRITERS: dict[str, Callable[[Any, str, Path], Network]] = {"onnx": write_onnx, "pt2": write_pt2}


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' log messages, which tell a user nothing."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def described(made: Synthesiser) -> dict[str, Any]:
    """What is needed to use the network."""
    model = made.model
    return {
        "notice": NOTICE,
        "run": made.name,
        "digest": made.digest,
        "method": made.config.method.name,
        "inputs": model.variant.inputs,
        "outputs": model.variant.outputs,
        "map": {"what": "z-scores low and high become -1 and 1; the background is -1", **asdict(model.mapping)},
        "size": list(model.size),
        "patch": model.method.patch,
        "clip": made.config.data.clip,
        "recipe": made.recipe.stored(),
        "units": made.trained_on.units,
        "spacing_zyx": made.trained_on.spacing,
    }


# -- the check ---------------------------------------------------------------------------------------------------------------


def difference(made: Synthesiser, network: Network) -> float:
    """The largest difference of z-scores in the brain between the model's volumes and those with another network in its place."""
    other = copy.copy(made.model.method)
    vars(other)["synthesise"] = network
    replaced, worst = replace(made.model, method=other), 0.0
    for slices in SLICES:
        sources, brain = ball(len(made.model.variant.inputs), (slices, *made.model.size))
        one, two = (model.synthesise(sources, brain)[:, brain] for model in (made.model, replaced))
        worst = max(worst, float(np.abs(one - two).max(initial=0)))
    return worst


def ball(inputs: int, shape: tuple[int, int, int]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Random z-scores (inputs, z, y, x) in a brain (z, y, x) that is a ball."""
    axes = [(np.arange(side) + 0.5) / side * 2 - 1 for side in shape]
    brain = np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij"))) < 0.97
    noise = np.random.default_rng(0).normal(size=(inputs, *shape))
    return np.where(brain, noise, BACKGROUND).astype(np.float32), brain

"""What an exported model says of itself: the model card, the terms, and what the MONAI bundle specification requires.

https://docs.monai.io/en/stable/mb_specification.html
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from distsynth.modalities import Modality
from distsynth.synthesis.sidecar import NOTICE
from distsynth.synthesis.synthesiser import Synthesiser
from distsynth.synthesis.tasks import listed

MONAI = "1.6.1"  # with which configs/inference.json was tried
PACKAGES = ("distsynth", "nibabel", "safetensors", "SimpleITK", "scipy")
UNSTATED = "not stated by who exported the model: ask before you use it or pass it on"


def licence(given: str) -> str:
    """The terms."""
    return (
        f"Weights (models/model.safetensors): {given or UNSTATED}\n\n"
        "Weights carry the terms of the data that they were trained on.\n"
        "distsynth, the code that uses them and that is not in here, is under the Apache License 2.0.\n"
    )


def task(made: Synthesiser) -> str:
    """What the model makes of what."""
    tasks = made.tasks
    if tasks.any_to_any:
        return f"Synthesises any of {listed(tasks.outputs)} from {'one' if tasks.one_input else 'any'} of the others"
    return f"Synthesises {listed(tasks.trained.outputs)} from {listed(tasks.trained.inputs)}"


def inference() -> dict[str, Any]:
    """For `python -m monai.bundle run --config_file configs/inference.json --source DATA --out OUT`, from the bundle's folder."""
    return {
        "imports": ["$from distsynth.synthesise import main", "$from distsynth.synthesis.models import load"],
        "bundle_root": ".",
        "source": "data",
        "out": "synthesised",
        "device": "auto",
        "model": "$load(@bundle_root, @device)",
        "words": "$[f'{key}={value}' for key, value in dict(run=@bundle_root, source=@source, out=@out, device=@device).items()]",
        "run": ["$main(@words)"],
    }


def metadata(made: Synthesiser, given: str) -> dict[str, Any]:
    """The content of configs/metadata.json."""
    method, variant = made.config.method.name, made.config.variant
    side = made.model.method.patch
    common = {"type": "image", "format": "magnitude", "modality": "MR", "dtype": "float32", "is_patch_data": bool(side)}
    shape = [side] * 3 if side else list(made.model.size)
    image = {**common, "spatial_shape": shape, "value_range": [-1, 1]}
    return {
        "version": "1.0.0",
        "changelog": {"1.0.0": f"run {made.name}, model digest {made.digest}"},
        "monai_version": MONAI,
        "pytorch_version": version("torch"),
        "numpy_version": version("numpy"),
        "required_packages_version": {name: version(name) for name in PACKAGES},
        "task": task(made),
        "description": f"Method {method} of distsynth, trained for {variant.title}. {NOTICE}",
        "intended_use": "Research only, not diagnosis",
        "authors": "the authors of the run; code: The distsynth authors",
        "copyright": f"Weights: {given or UNSTATED}",
        "network_data_format": {
            "inputs": {
                "sources": {**image, "num_channels": len(variant.inputs), "channel_def": numbered(variant.inputs)},
                "brain": {
                    **image,
                    "format": "segmentation",
                    "num_channels": 1,
                    "value_range": [0, 1],
                    "channel_def": {"0": "brain"},
                },
            },
            "outputs": {"made": {**image, "num_channels": len(variant.outputs), "channel_def": numbered(variant.outputs)}},
        },
    }


def numbered(names: list[str]) -> dict[str, str]:
    return {str(index): Modality(name).title for index, name in enumerate(names)}


def readme(made: Synthesiser, given: str) -> str:
    """The model card, in Markdown."""
    recipe = "\n".join(f"| {name} | {value} |" for name, value in made.recipe.stored().items())
    spacing = " x ".join(f"{side:g}" for side in made.trained_on.spacing[::-1])
    return f"""# {made.name}

{task(made)} of brain MRI. Method `{made.config.method.name}` of distsynth {version("distsynth")}, trained for {made.config.variant.title}.

**{NOTICE}** Every image that it makes is marked as synthetic.

## Use

    python -m distsynth.synthesise source=PATIENTS out=OUT run=model.zip

or, in this folder, with MONAI: `python -m monai.bundle run --config_file configs/inference.json --source PATIENTS --out OUT`.
No training data is needed. Nothing in here is a pickle, and no code of it is run.

## Scores

{chr(10).join(scores(made)) or "The run was not evaluated: nothing is known of how good its images are."}

## Preprocessing, repeated on every patient

| setting | value |
|---|---|
{recipe}

Voxels of {spacing} mm (x, y, z); others are resampled to them and back. Intensities are clipped: {made.config.data.clip}.
Synthesised intensities have the mean and spread of the training patients', in arbitrary units.

## Terms

Weights: {given or UNSTATED}. They carry the terms of the data that they were trained on. Code: Apache-2.0.
It holds digests of the training scans, by which a patient of the training is recognised, and no image or name of theirs.

Model digest: `{made.digest}`
"""


def scores(made: Synthesiser) -> Iterator[str]:
    """The table of the metric card, and how its metrics are computed."""
    if not made.card:
        return
    yield "| contrast | patients | region | PSNR, dB | SSIM | best baseline, dB |"
    yield "|---|---|---|---|---|---|"
    for output, cohorts in made.card.items():
        if output != "computed":
            for cohort, known in cohorts.items():
                best = known.get("best_baseline")
                for region, row in known["regions"].items():
                    beside = f"{best['psnr']:.2f} ({best['name']})" if best and region == "brain" else ""
                    cells = [
                        Modality(output).title,
                        f"{known['subjects']} {cohort}",
                        region,
                        *map(shown(row), ("psnr", "ssim")),
                        beside,
                    ]
                    yield f"| {' | '.join(cells)} |"
    yield ""
    yield from (f"- {name}: {text}" for name, text in made.card["computed"].items())


def shown(row: dict[str, Any]) -> Any:
    """Mean and standard deviation of a metric over the patients."""
    return lambda metric: f"{row[metric]['mean']:.2f} ± {row[metric]['std']:.2f}" if metric in row else ""

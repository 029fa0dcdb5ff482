"""The presets have the losses, sizes and training settings of the papers, the published codes and the source report."""

from dataclasses import asdict
from typing import Any

import pytest

from distsynth.config import compose
from distsynth.run_directory import CONFIGS

PRESETS = sorted(path.stem for path in (CONFIGS / "method").glob("*.yaml") if not path.stem.endswith("_small"))
HALVES = {"name": "linear", "flat": 100, "decay": 100}  # constant for one half, falling to 0 in the other
UNIT_TRAINING = {"epochs": 100, "steps_per_epoch": 1000, "batch": 1, "lr": 1e-4, "betas": (0.5, 0.999), "weight_decay": 1e-4}
DISCO = {
    "weights": {"gan": 0.1, "features": 0.9, "first": 0.01, "later": 0.5, "switch": 10_000, "discriminator": 0.5},
    "every": 3,
}
PIX2PIX = {
    "method": {"weights": {"l1": 100, "discriminator": 0.5}, "generator": {"width": 64, "dropout": 0.5}, "gan": "bce",
               "discriminator": {"width": 64, "layers": 3}},
    "train": {"epochs": 200, "batch": 1, "lr": 2e-4, "betas": (0.5, 0.999), "schedule": HALVES},
}  # fmt: skip
UNIFIED = {
    "patch": 72,
    "core": 48,
    "n_critic": 5,
    "weights": {"alpha": 2, "beta": 5, "gamma": 10, "delta": 2, "mu": 0.1, "gp": 10},
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "tcmgan": {
        "method": {"weights": {"cls": 1, "gp": 10, "rec": 1, "seg": 10},
                   "segmentor": {"batch": 5, "weight_synthesised": 0.7, "weight_real": 0.3, "width": 64}, "critic": {"width": 64}},
        "train": {"epochs": 200, "batch": 1, "lr": 5e-4, "betas": (0.9, 0.999),
                  "schedule": {"name": "triangular", "floor": 0.2, "half_period": 25}},
    },
    "tcmgan_authors": {
        "method": {"weights": {"cls": 10, "gp": 100, "rec": 0.1, "seg": 50},
                   "segmentor": {"batch": 64, "epochs": 30, "lr": 1e-4, "norm": "batch"}},
        "train": {"epochs": 100, "batch": 64, "lr": 2e-4, "betas": (0.9, 0.999),
                  "schedule": {"name": "steps", "epochs": [30, 60, 90], "shares": [0.5, 0.25, 0.05]}},
    },
    "stargan": {
        "method": {"weights": {"cls": 1, "rec": 10, "gp": 10}, "n_critic": 5, "generator": {"width": 64, "blocks": 6}},
        "train": {"epochs": 200, "steps_per_epoch": 1000, "batch": 16, "lr": 1e-4, "betas": (0.5, 0.999), "schedule": HALVES},
    },
    "pix2pix": {**PIX2PIX, "method": {**PIX2PIX["method"], "norm": "instance"}},
    "pix2pix_published": {**PIX2PIX, "method": {**PIX2PIX["method"], "norm": "batch"}},
    "cyclegan": {
        "method": {"weights": {"cycle_source": 10, "cycle_target": 10, "identity": 0.5, "discriminator": 0.5}, "pool": 50},
        "train": {"epochs": 200, "batch": 1, "lr": 2e-4, "betas": (0.5, 0.999), "schedule": HALVES},
    },
    "discogan": {"method": DISCO, "train": {"batch": 64, "lr": 2e-4, "betas": (0.5, 0.999), "weight_decay": 1e-5}},
    "discogan_report": {"method": DISCO, "train": {"batch": 200, "lr": 2e-4, "betas": (0.5, 0.999), "weight_decay": 1e-4}},
    "unit": {
        "method": {"weights": {"gan": 1, "recon": 10, "kl": 0.01, "cycle": 10, "cycle_kl": 0.01}, "gan": "lsgan",
                   "generator": {"width": 64, "blocks": 4, "shared": 0}, "discriminator": {"scales": 3}},
        "train": UNIT_TRAINING,
    },
    "unit_paper": {
        "method": {"weights": {"gan": 10, "recon": 100, "kl": 0.1, "cycle": 100, "cycle_kl": 0.1}, "gan": "nsgan",
                   "generator": {"shared": 1}},
        "train": UNIT_TRAINING,
    },
    "unified_gan": {"method": {**UNIFIED, "assembly": "centre"}},
    "unified_gan_average": {"method": {**UNIFIED, "assembly": "average"}},
    "mmgan": {
        "method": {"weights": {"l1": 0.9, "discriminator": 0.5}, "curriculum": {"epochs": [10, 20, 30]}, "generator": {"dropout": 0.2}},
        "train": {"epochs": 60, "batch": 4, "lr": 2e-4, "betas": (0.5, 0.999), "schedule": {"name": "constant"}},
    },
    "unet": {"train": PIX2PIX["train"]},
    "segment": {"method": {"width": 64}, "train": {"epochs": 30, "batch": 5, "lr": 1e-4, "schedule": {"name": "constant"}}},
}  # fmt: skip


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_has_the_published_values(preset: str) -> None:
    agree(asdict(compose([f"method={preset}", "variant=siso"])), PUBLISHED[preset], preset)


def agree(value: Any, published: Any, where: str) -> None:
    if isinstance(published, dict):
        for name, wanted in published.items():
            agree(value[name], wanted, f"{where}.{name}")
    else:
        assert value == published, where

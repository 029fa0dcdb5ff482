"""Baselines: fitted only on training patients, each what its name says."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from distsynth.config import compose
from distsynth.data.cohorts import read_image
from distsynth.evaluation import baselines
from preprocess.cohort import BACKGROUND, Cohort, Record


@pytest.fixture(scope="module")
def cohort(store: Path) -> Cohort:
    return Cohort.open(store)


@pytest.fixture(scope="module")
def fitted(cohort: Cohort) -> baselines.Baselines:
    return baselines.fit(cohort, cohort.split("gan"), compose(["variant=mimo"]).variant, True, 0)


def test_training_volumes_of_different_sizes_have_no_mean_image(cohort: Cohort) -> None:
    class Uneven(Cohort):
        """The cohort, with one subject that lacks the lowest slice."""

        short = cohort.split("gan")[0]

        def record(self, subject: str) -> Record:
            record = super().record(subject)
            z, y, x = record.shape
            return replace(record, shape=[z - 1, y, x]) if subject == self.short else record

        def image(self, subject: str) -> np.ndarray:
            return cohort.image(subject)[:, subject == self.short :]

    uneven = Uneven(cohort.path, cohort.manifest)
    fitted = baselines.fit(uneven, cohort.split("gan"), compose(["variant=mimo"]).variant, True, 0)
    image = read_image(cohort, cohort.split("gan")[1], ["t1", "t2"], True)
    assert fitted.predict(image, image[0] != BACKGROUND).keys() == set(baselines.BASELINES) - {"mean"}


def test_copy_takes_the_input_with_the_least_error_in_training(cohort: Cohort, fitted: baselines.Baselines) -> None:
    names = ["t1", "t2", "t1c", "flair"]
    images = [read_image(cohort, s, names, True) for s in cohort.split("gan")]
    for output, index in (("t1c", 2), ("flair", 3)):
        errors = [np.mean([((i[k] - i[index])[i[0] != BACKGROUND] ** 2).mean() for i in images]) for k in (0, 1)]
        assert fitted.copied[output] == names[int(np.argmin(errors))]


def test_the_linear_baseline_fits_a_linear_relation() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(500, 2)).astype(np.float32)
    wanted = inputs @ np.array([[2.0], [-1.0]], np.float32) + 3
    weights, *_ = np.linalg.lstsq(baselines.with_constant(inputs), wanted, rcond=None)
    brain = np.ones((5, 10, 10), bool)
    fitted = baselines.Baselines(compose(["variant=miso_flair"]).variant, [0], np.zeros((1, 5, 10, 10), np.float32), weights)
    linear = fitted.predict(inputs.T.reshape(2, 5, 10, 10), brain)["linear"]
    assert linear.reshape(-1) == pytest.approx(wanted[:, 0], abs=1e-4)


def test_trees_do_at_least_as_well_as_a_line_in_training(cohort: Cohort, fitted: baselines.Baselines) -> None:
    errors: dict[str, list[np.ndarray]] = {name: [] for name in baselines.BASELINES}
    for subject in cohort.split("gan"):
        image = read_image(cohort, subject, ["t1", "t2", "t1c", "flair"], True)
        brain = image[0] != BACKGROUND
        for name, volume in fitted.predict(image[:2], brain).items():
            errors[name].append((volume - image[2:])[:, brain])
    whole = {name: np.concatenate(parts, axis=1) for name, parts in errors.items()}
    squared, absolute = ({name: float(size(error).mean()) for name, error in whole.items()} for size in (np.square, np.abs))
    assert squared["voxelwise"] < squared["linear"] < squared["copy"]
    assert squared["voxelwise"] < squared["voxelwise_l1"]
    assert absolute["voxelwise_l1"] < absolute["voxelwise"]


def test_the_mean_image_is_the_mean(cohort: Cohort, fitted: baselines.Baselines) -> None:
    images = np.stack([read_image(cohort, s, ["t1c", "flair"], True) for s in cohort.split("gan")])
    everywhere = (images[:, 0] != BACKGROUND).all(axis=0)
    assert fitted.mean[:, everywhere] == pytest.approx(images.mean(axis=0)[:, everywhere], abs=1e-4)


def test_a_volume_of_another_size_has_no_mean_image(fitted: baselines.Baselines) -> None:
    assert "mean" not in fitted.predict(np.zeros((2, 4, 4, 4), np.float32), np.ones((4, 4, 4), bool))


def test_the_erased_lesion_has_the_mean_of_the_brain_around_it() -> None:
    truth = np.zeros((1, 4, 4, 4), np.float32)
    brain, tumour = np.ones((4, 4, 4), bool), np.zeros((4, 4, 4), bool)
    tumour[1, 1, 1] = True
    truth[0, 1, 1, 1], truth[0, 0, 0, 0] = 9, 6.3
    erased = baselines.lesion_erased(truth, brain, tumour)
    assert erased[0, 1, 1, 1] == pytest.approx(6.3 / 63)
    assert truth[0, 1, 1, 1] == 9

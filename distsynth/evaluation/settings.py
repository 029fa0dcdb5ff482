"""The settings of the evaluation."""

from dataclasses import dataclass

from preprocess.settings import setting


@dataclass
class EvaluateSettings:
    """What is scored after training, with the best checkpoint."""

    figures: int = setting(2, "test patients, and patients of each external cohort, that get a figure")
    floors: bool = setting(True, "score the floors beside: copy, mean image, voxel-wise regressor")
    judge: str = setting(
        "", "a run of segment or tcmgan whose segmentor, frozen, tells by Dice how much of the tumour the images show"
    )

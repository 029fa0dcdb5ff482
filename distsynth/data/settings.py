"""The settings of the data feed."""

from dataclasses import dataclass
from pathlib import Path

from preprocess.errors import SettingError
from preprocess.settings import required, setting


@dataclass
class DataSettings:
    """Which cohort, and how its slices reach the networks."""

    store: str = required("the cohort, as made by python -m preprocess.to_zarr")
    fold: int = setting(0, "which fold of a cohort that was split in several (split.folds= of to_zarr)")
    external: dict[str, str] = setting({}, "other cohorts, name: store, on whose every subject the best checkpoint is scored too")
    clip: bool = setting(True, "clip the intensities at the record's bounds on reading (the report: 1 % at each end)")
    flip: bool = setting(True, "augment by left-right flips")
    rotate: bool = setting(True, "augment by rotations of 90 and 180 degrees")
    min_brain: float = setting(0.02, "leave out training slices with less than this share of brain (0 to 1)", least=0, most=1)

    def __post_init__(self) -> None:
        for name in self.external:
            if name in ("val", "test") or Path(name).name != name:
                raise SettingError(
                    f"data.external.{name} cannot name a cohort in the tables beside val and test: give it another name"
                )

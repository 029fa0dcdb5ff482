"""The learning rate as a share of its highest value: pure functions of the epoch."""

from __future__ import annotations

from distsynth.settings import ScheduleSettings


def share(schedule: ScheduleSettings, epoch: int) -> float:
    """The share of `train.lr` in an epoch (counted from 0)."""
    if schedule.name == "triangular":
        return triangular(epoch, schedule.half_period, schedule.floor)
    if schedule.name == "steps":
        return ([1.0] + [s for e, s in zip(schedule.epochs, schedule.shares, strict=True) if epoch >= e])[-1]
    if schedule.name == "linear":
        return max(0.0, 1 - max(0.0, epoch + 1 - schedule.flat) / (schedule.decay + 1))
    return 1.0


def triangular(epoch: float, half_period: float, floor: float) -> float:
    """Falls from 1 to `floor` in `half_period` epochs, rises again, and so on. This is our reading of the report's "decay and raising each
    25 epochs" between 5e-4 and 1e-4."""
    phase = (epoch / half_period) % 2
    return 1 - (1 - floor) * (phase if phase <= 1 else 2 - phase)

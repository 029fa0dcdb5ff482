"""Rigid co-registration of a case's contrasts by mutual information (Mattes et al. 2003, "PET-CT image registration in the chest using
free-form deformations", IEEE TMI 22:120-128; ITK's version of it).

Two brains on different grids go in, a corrected affine comes out: no voxel is changed here, so that the caller interpolates only once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from preprocess.geometry import bounding_box, onto, spacing_of

Array = npt.NDArray[Any]

COARSE, FINE = 4.0, 2.0  # voxel size in mm of the copies that are registered
FARTHEST, STEEPEST = 40.0, 30.0  # mm and degrees; a patient moves less between two scans, so more is a failure
STILL = 0.25  # of the smallest voxel side: a movement below this is not worth an interpolation
import os

FINE_MODE = os.environ.get("FINE_MODE", "interior")
FRACTION = float(os.environ.get("FRACTION", "0.3"))
ERODE = float(os.environ.get("ERODE", "2"))
BINS = int(os.environ.get("BINS", "32"))
VERB = bool(os.environ.get("VERB"))
FINE = float(os.environ.get("FINE", "2"))


@dataclass(frozen=True)
class Movement:
    """What brings a contrast onto another."""

    affine: Array
    millimetres: float
    degrees: float
    farthest: float


def coregister(fixed, fixed_affine, moving, moving_affine):
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    fixed, moving = scaled(fixed), scaled(moving)
    centre = middle(fixed, fixed_affine)
    shift = middle(moving, moving_affine) - centre
    starts = [np.zeros(3), shift]
    coarse = image(fixed, fixed_affine, COARSE), image(moving, moving_affine, COARSE)
    found = []
    for start in starts:
        t = sitk.Euler3DTransform()
        t.SetCenter(centre.tolist())
        t.SetTranslation(start.tolist())
        found.append(register(*coarse, t, 2.0, 0.05, "dilated", 1.0))
    best = min(found, key=lambda f: f[1])
    fine = image(fixed, fixed_affine, FINE), image(moving, moving_affine, FINE)
    t, value, start = register(*fine, best[0], 0.5, 0.005, FINE_MODE, FRACTION)
    T = np.eye(4)
    R = np.array(t.GetMatrix()).reshape(3, 3)
    T[:3, :3] = R
    T[:3, 3] = np.array(t.TransformPoint((0.0, 0.0, 0.0)))
    new = np.linalg.inv(T) @ moving_affine
    deg = np.degrees(np.arccos(np.clip((np.trace(R) - 1) / 2, -1, 1)))
    box = bounding_box(moving != 0)
    c = np.array(
        [
            [x, y, z, 1]
            for z in (box[0].start, box[0].stop)
            for y in (box[1].start, box[1].stop)
            for x in (box[2].start, box[2].stop)
        ]
    )
    far = np.linalg.norm(((new - moving_affine) @ c.T)[:3], axis=0)
    return Movement(new, float(np.linalg.norm(((new - moving_affine) @ c.mean(0))[:3])), float(deg), float(far.max()))


def scaled(volume):
    brain = volume != 0
    low, high = np.percentile(volume[brain], (0.5, 99.5))
    return np.where(brain, 0.1 + 0.9 * np.clip((volume - low) / (high - low), 0, 1), 0).astype(np.float32)


def middle(volume, affine):
    return (affine @ [*np.argwhere(volume != 0).mean(axis=0)[::-1], 1])[:3]


def image(volume, affine, side, pad=12.0):
    import SimpleITK as sitk

    box = bounding_box(volume != 0)
    sp = np.array(spacing_of(affine))
    step = np.maximum(side, sp)  # z,y,x
    n = [int(np.ceil((b.stop - b.start) * s / st + 2 * pad / st)) for b, s, st in zip(box, sp, step)]
    f = step / sp
    off = np.array([(b.start + b.stop - 1) / 2 for b in box]) - f * (np.array(n) - 1) / 2
    m = np.eye(4)
    m[:3, :3], m[:3, 3] = np.diag(f[::-1]), off[::-1]
    target = affine @ m
    vol, seen = onto(volume, affine, target, n, False)

    def sit(a):
        i = sitk.GetImageFromArray(a)
        i.SetSpacing(step[::-1].tolist())
        i.SetDirection((target[:3, :3] / step[::-1]).ravel().tolist())
        i.SetOrigin(target[:3, 3].tolist())
        return i

    return sit(vol), vol != 0, seen, step, sit


def grown(brain, step, mm):
    from scipy.ndimage import distance_transform_edt

    if mm >= 0:
        return distance_transform_edt(~brain, sampling=step) <= mm
    return distance_transform_edt(brain, sampling=step) > -mm


def register(fixed, moving, start, rate, least, mode, fraction):
    import time

    import SimpleITK as sitk

    t0 = time.time()

    fi, fb, fs, fstep, fsit = fixed
    mi, mb, ms, mstep, msit = moving
    m = sitk.ImageRegistrationMethod()
    m.SetMetricAsMattesMutualInformation(BINS)
    if mode == "dilated":
        fm, mm = grown(fb, fstep, 8) & fs, ms
    else:
        fm, mm = grown(fb, fstep, -ERODE), grown(mb, mstep, 0)
    m.SetMetricFixedMask(fsit(fm.astype(np.uint8)))
    if not mm.all():
        m.SetMetricMovingMask(msit(mm.astype(np.uint8)))
    if fraction < 1:
        m.SetMetricSamplingStrategy(m.RANDOM)
        m.SetMetricSamplingPercentage(fraction, 1)
    m.SetInterpolator(sitk.sitkLinear)
    m.SetOptimizerAsRegularStepGradientDescent(rate, least, 200, float(os.environ.get("RELAX", "0.5")), 1e-8)
    m.SetOptimizerScalesFromPhysicalShift()
    t = sitk.Euler3DTransform(start)
    m.SetInitialTransform(t, inPlace=True)
    begin = m.MetricEvaluate(fi, mi)
    m.Execute(fi, mi)
    if VERB:
        print(
            mode,
            "from",
            round(begin, 4),
            "to",
            round(m.GetMetricValue(), 4),
            m.GetOptimizerIteration(),
            m.GetOptimizerStopConditionDescription(),
            np.round(t.GetParameters(), 4),
            "%.1fs" % (time.time() - t0),
            "samples",
            int(fm.sum() * fraction),
        )
    return t, m.GetMetricValue(), begin

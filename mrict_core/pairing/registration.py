"""Rigid registration of a CT to its MR by mutual information, from coarse to fine, from several starts.

Mattes et al., IEEE Trans Med Imaging 22:120, 2003, as in SimpleITK. `itk-elastix` (Apache-2.0) would register as well
and deform better out of the box; it brings a second copy of ITK of more than a hundred MB, so SimpleITK does it all.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from mrict_core.errors import MrictError
from mrict_core.hu import PAIRING
from mrict_core.pairing.deformation import deform
from mrict_core.pairing.itk_grids import Grid, resample
from mrict_core.pairing.similarity import Score
from mrict_core.pairing.starts import find_body, starts
from mrict_core.pairing.transforms import read_transform as read_transform
from mrict_core.pairing.transforms import write_transform as write_transform

BODY_MM = 4.0  # spacing to find the bodies
DEFORM_MM = 4.0  # spacing of the deformable registration
RADIUS_MM = 70.0  # the optimiser's unit of length: a turn by 1 then moves a body's outer parts as a shift by 1 does
MARGIN_MM = 12.0  # around the body of the MR: its outline counts too
LEAST_VOXELS, LEAST_MM = 5, 20.0  # along each axis
ALIKE_MM = 2.0  # two poses that place the body this close are one
SEED = 1
NO_OVERLAP = ("too many samples map outside", "No valid points", "All samples map outside")  # in ITK's errors


@dataclass(frozen=True)
class Level:
    """One step from coarse to fine: voxels of about `spacing_mm`, the best `kept` poses are refined with at most
    `samples` voxels of the body, in steps from `first_mm` to `last_mm`."""

    spacing_mm: float
    kept: int
    samples: int
    bins: int
    first_mm: float
    last_mm: float
    steps: int = 60


LEVELS = (
    Level(8.0, 8, 20_000, 24, 6.0, 0.5, 40),
    Level(4.0, 3, 15_000, 32, 3.0, 0.1),
    Level(2.0, 1, 30_000, 32, 1.0, 0.03),
    Level(1.0, 1, 60_000, 32, 0.5, 0.01),
)


@dataclass(frozen=True)
class Registration:
    """transform: points of the MR to points of the CT (LPS mm). similarity: mutual information (nats) at 4 mm times the
    covered share of the body. starts: how many poses were tried. notes: what became of a deformation, one line."""

    transform: sitk.Transform
    similarity: float
    starts: int
    seconds: float
    notes: tuple[str, ...] = ()


def register(mr: sitk.Image, ct: sitk.Image, *, deformable: bool = False, threads: int | None = None) -> Registration:
    """Register a CT (HU) to an MR, both 3-D with any grid and orientation.

    deformable: B-splines on top, kept only if they fit better and fold nothing. threads: of SimpleITK; None: all.
    Raises MrictError for images too thin or constant, without a body, and where no pose brings the two together.
    """
    began = time.perf_counter()
    for image, what in ((mr, "MR"), (ct, "CT")):
        _check(image, what)
    pyramid = Pyramid(mr, ct)
    found = starts(pyramid.mr_body, pyramid.ct_body, _middle(mr), _middle(ct))
    tried = len(found)
    for level in LEVELS:
        images = pyramid.at(level.spacing_mm)
        if level.kept > 1:  # the finest ones only refine the best
            score = Score(*images)
        best = _best(found, score, level.kept)
        found = [_refined(one, level, *images, threads) for one in best]
    (transform,), notes = _best(found, score, 1), ()
    if deformable:
        transform, note = deform(transform, *pyramid.at(DEFORM_MM), threads)
        notes = (note,)
    return Registration(transform, score(transform), tried, time.perf_counter() - began, notes)


class Pyramid:
    """The two images on coarser and finer grids, the MR's part around its body, the CT clipped to `PAIRING`."""

    def __init__(self, mr: sitk.Image, ct: sitk.Image):
        self.mr = sitk.Cast(mr, sitk.sitkFloat32)
        self.ct = sitk.Clamp(sitk.Cast(ct, sitk.sitkFloat32), sitk.sitkFloat32, PAIRING.low, PAIRING.high)
        coarse = [_coarser(image, BODY_MM) for image in (self.mr, self.ct)]
        self.mr_body, self.ct_body = (find_body(image, what) for image, what in zip(coarse, ("MR", "CT"), strict=True))
        self.mask = sitk.BinaryDilate(self.mr_body.mask, [int(np.ceil(MARGIN_MM / s)) for s in coarse[0].GetSpacing()])
        self.mr = _around(self.mr, self.mask)

    def at(self, level_mm: float) -> tuple[sitk.Image, sitk.Image, sitk.Image]:
        """Return MR, CT and the MR's mask at a spacing of about `level_mm`, nowhere finer than the images."""
        fixed = _coarser(self.mr, level_mm)
        return fixed, _coarser(self.ct, level_mm), resample(self.mask, Grid.of(fixed), nearest=True, fill=0)


def _coarser(image: sitk.Image, level_mm: float) -> sitk.Image:
    """Return the means of blocks of voxels, about `level_mm` wide; at least four blocks along each axis."""
    most = np.maximum(1, np.array(image.GetSize()) // 4)
    blocks = np.clip(np.round(level_mm / np.array(image.GetSpacing())), 1, most).astype(int)
    return sitk.BinShrink(image, blocks.tolist())


def _around(image: sitk.Image, mask: sitk.Image) -> sitk.Image:
    """Return the part of an image that holds a mask on a coarser grid of the same axes."""
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.Execute(mask)
    box = np.array(shape.GetBoundingBox(1))
    ratio = np.array(mask.GetSpacing()) / image.GetSpacing()
    first = np.maximum(0, np.floor(box[:3] * ratio)).astype(int)
    last = np.minimum(image.GetSize(), np.ceil((box[:3] + box[3:]) * ratio)).astype(int)
    return sitk.RegionOfInterest(image, (last - first).tolist(), first.tolist())


def _refined(
    start: sitk.Transform,
    level: Level,
    fixed: sitk.Image,
    moving: sitk.Image,
    mask: sitk.Image,
    threads: int | None,
) -> sitk.Euler3DTransform:
    """Return a start after gradient steps; unchanged if the two images hardly overlap there."""
    method = sitk.ImageRegistrationMethod()
    if threads:
        method.SetNumberOfThreads(threads)
    method.SetMetricAsMattesMutualInformation(level.bins)
    method.SetMetricUseMovingImageGradientFilter(False)  # a whole image of vectors for a few samples
    method.SetMetricFixedMask(_in_radii(mask))
    share = level.samples / max(1.0, float(sitk.GetArrayViewFromImage(mask).sum()))
    if share < 1:
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(share, SEED)
    method.SetInterpolator(sitk.sitkLinear)
    first, last = level.first_mm / RADIUS_MM, level.last_mm / RADIUS_MM
    method.SetOptimizerAsRegularStepGradientDescent(first, last, level.steps, 0.5, 1e-8)
    moved = _scaled(start, 1 / RADIUS_MM)
    method.SetInitialTransform(moved, True)
    try:
        method.Execute(_in_radii(fixed), _in_radii(moving))
    except RuntimeError as error:
        if any(words in str(error) for words in NO_OVERLAP):
            return sitk.Euler3DTransform(start)
        raise
    return _scaled(moved, RADIUS_MM)


def _in_radii(image: sitk.Image) -> sitk.Image:
    """Return an image in units of `RADIUS_MM`."""
    found = sitk.Image(image)
    found.SetSpacing([v / RADIUS_MM for v in image.GetSpacing()])
    found.SetOrigin([v / RADIUS_MM for v in image.GetOrigin()])
    return found


def _scaled(transform: sitk.Transform, factor: float) -> sitk.Euler3DTransform:
    """Return a rigid transform in another unit of length."""
    found = sitk.Euler3DTransform(transform)
    found.SetCenter([v * factor for v in found.GetCenter()])
    found.SetTranslation([v * factor for v in found.GetTranslation()])
    return found


def _best(found: Sequence[sitk.Transform], score: Score, count: int) -> list[sitk.Transform]:
    """Return the best poses, no two of them alike."""
    ranked = sorted(((score(one), n) for n, one in enumerate(found)), reverse=True)
    if ranked[0][0] <= 0:
        raise MrictError(
            "MR and CT do not overlap in any pose that was tried; expected two scans of one part of one person; "
            "check that they belong together, or give --transform"
        )
    corners = [(x, y, z) for x in (-80.0, 80.0) for y in (-80.0, 80.0) for z in (-80.0, 80.0)]
    kept: list[sitk.Transform] = []
    for _, number in ranked:
        moved = np.array([found[number].TransformPoint(c) for c in corners])
        gaps = [np.abs(moved - [one.TransformPoint(c) for c in corners]).max() for one in kept]
        if min(gaps, default=np.inf) > ALIKE_MM and len(kept) < count:
            kept.append(found[number])
    return kept


def _middle(image: sitk.Image) -> np.ndarray:
    """Return the centre of an image's box, LPS mm."""
    return np.array(image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()]))


def _check(image: sitk.Image, what: str) -> None:
    size = image.GetSize()
    extent = np.multiply(size, image.GetSpacing())
    if image.GetDimension() != 3 or min(size) < LEAST_VOXELS or extent.min() < LEAST_MM:
        raise MrictError(
            f"{what}: {'×'.join(map(str, size))} voxels, {'×'.join(f'{e:.0f}' for e in extent)} mm; expected a volume "
            f"of at least {LEAST_VOXELS} voxels and {LEAST_MM:g} mm along each axis; give another series"
        )
    low, high = (float(f(sitk.GetArrayViewFromImage(image))) for f in (np.min, np.max))
    if not np.isfinite(high - low) or high <= low:
        raise MrictError(f"{what} with values {low:g} to {high:g}: expected contrast; give another series")

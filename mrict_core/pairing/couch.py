"""Tell a body on a CT from the couch, headrest, cushions and mask frame around it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from mrict_core.data import masks

COARSE_MM = 2.0  # voxels in which thick and thin are told apart
OPENING_MM = 4.0  # radius: shells of couches and frames are thinner than twice this
SMALL_MM = 80.0  # a thin part that is longer belongs to a couch or frame; shorter ones are ears, a nose, fingers
LAYER_MM = 20.0  # of a couch below the body; what is thicker is no couch
SEEN_MM = 30.0  # of a couch's top on either side of the body, to continue it below
FIT_VOXELS = 1.0  # of that top around its parabola, root mean square
Spacing = Sequence[float]


def near(stack: np.ndarray, spacing_mm: Spacing, reach_mm: float) -> np.ndarray:
    """Return where a voxel of a boolean stack (N, rows, cols) is within `reach_mm`, bool of its shape."""
    if not stack.any() or stack.all():
        return stack.copy()
    image = sitk.GetImageFromArray(np.ascontiguousarray(stack).view(np.uint8))
    image.SetSpacing([float(s) for s in spacing_mm[::-1]])
    squares = sitk.SignedMaurerDistanceMap(image, insideIsPositive=False, squaredDistance=True, useImageSpacing=True)
    return sitk.GetArrayViewFromImage(squares) <= reach_mm**2


def opened(stack: np.ndarray, spacing_mm: Spacing, reach_mm: float) -> np.ndarray:
    """Return a stack opened with a ball; the edge of the image cuts nothing off."""
    return near(~near(~stack, spacing_mm, reach_mm), spacing_mm, reach_mm)


def without_couch(tissue: np.ndarray, spacing_mm: Spacing, axial: bool) -> np.ndarray:
    """Return the body (bool) in all that is denser than air (N, rows, cols), its cavities not filled.

    The largest part that a ball of `OPENING_MM` fits into, and thin parts up to `SMALL_MM` long on it. Of axial slices
    with rows from front to back, the top of a couch that touches the body is continued below it, as a parabola, and
    cut off.
    """
    body = tissue & _thick_part(tissue, spacing_mm)
    thin = tissue & ~body
    small = _short_parts(thin, spacing_mm)
    body |= small
    for index, top in _tops(thin & ~small, body, spacing_mm) if axial else ():
        below = np.arange(body.shape[1])[:, None] >= top
        if np.count_nonzero(body[index] & below, axis=0).max() * spacing_mm[1] <= LAYER_MM:
            body[index] &= ~below
    return masks.largest(body)


def _thick_part(tissue: np.ndarray, spacing_mm: Spacing) -> np.ndarray:
    """Return the largest part that the ball fits into, and a margin of one voxel of about `COARSE_MM`."""
    steps = [max(1, min(n, int(COARSE_MM / s))) for n, s in zip(tissue.shape, spacing_mm, strict=True)]
    coarse = np.ascontiguousarray(tissue[tuple(slice(step // 2, None, step) for step in steps)])
    spacing = np.multiply(spacing_mm, steps)
    reach_mm = max(OPENING_MM, 1.01 * max(spacing[1:]))  # a smaller ball than a pixel opens nothing
    part = ndimage.binary_dilation(masks.largest(opened(coarse, spacing, reach_mm)), np.ones((3, 3, 3)))
    for axis, step in enumerate(steps):
        part = np.repeat(part, step, axis)
    short = [(0, max(0, whole - n)) for whole, n in zip(tissue.shape, part.shape, strict=True)]
    return np.pad(part, short, "edge")[tuple(map(slice, tissue.shape))]


def _short_parts(thin: np.ndarray, spacing_mm: Spacing) -> np.ndarray:
    """Return the connected parts of a stack that are at most `SMALL_MM` long along every axis."""
    labels = sitk.ConnectedComponent(sitk.GetImageFromArray(thin.view(np.uint8)))
    shapes = sitk.LabelShapeStatisticsImageFilter()
    shapes.Execute(labels)
    extents = [np.multiply(shapes.GetBoundingBox(label)[3:], spacing_mm[::-1]) for label in shapes.GetLabels()]
    short = np.array([False, *(extent.max() <= SMALL_MM for extent in extents)])  # labels count from 1 on
    return short[sitk.GetArrayViewFromImage(labels)]


def _tops(couch: np.ndarray, body: np.ndarray, spacing_mm: Spacing) -> Iterator[tuple[int, np.ndarray]]:
    """Yield slices with a couch on both sides of the body's middle, and the row (cols,) of its top below the body."""
    for index in np.flatnonzero(couch.any(axis=(1, 2)) & body.any(axis=(1, 2))):
        rows, cols = np.nonzero(body[index])
        below = couch[index].copy()
        below[: int(rows.mean())] = False
        seen = np.flatnonzero(below.any(axis=0))
        first, last = cols.min(), cols.max()
        wide = SEEN_MM / spacing_mm[2]
        left, right = (np.count_nonzero(side) for side in (seen < cols.mean(), seen > cols.mean()))
        if min(left, right) < wide:
            continue
        tops = below[:, seen].argmax(axis=0)
        parabola = np.polynomial.Polynomial.fit(seen, tops, 2)
        if np.sqrt(np.mean((parabola(seen) - tops) ** 2)) > FIT_VOXELS:
            continue
        top = np.full(body.shape[2], np.inf)
        between = np.arange(max(first, seen.min()), min(last, seen.max()) + 1)
        top[between] = np.round(parabola(between))
        yield int(index), top

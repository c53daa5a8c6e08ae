"""Deformable registration on top of a rigid one: B-splines (Rueckert et al., IEEE Trans Med Imaging 18:712, 1999)."""

from __future__ import annotations

import SimpleITK as sitk

from mrict_core.pairing.itk_grids import Grid
from mrict_core.pairing.similarity import Score

NODE_MM = 60.0  # between nodes, at least: smooth without a penalty; nearer ones fit noise
BINS, SAMPLES, SEED = 32, 30_000, 1
STEPS, FIRST_MM, LAST_MM = 25, 0.15, 0.01  # root mean square over the nodes; few steps end before noise is fitted
LEAST_GAIN = 0.02  # of the mutual information: less is noise, and the rigid result is kept
LEAST_JACOBIAN = 0.3  # tissue that shrinks to less than this, or folds, is no anatomy


def deform(
    rigid: sitk.Transform, fixed: sitk.Image, moving: sitk.Image, mask: sitk.Image, threads: int | None = None
) -> tuple[sitk.Transform, str]:
    """Return a deformation followed by `rigid`, or `rigid` itself where it fits no better or folds; and what was done.

    fixed (MR), mask (uint8, its body with a margin) and moving (CT, clipped) as for the rigid registration, about 4 mm.
    """
    nodes = [max(1, int(n * s / NODE_MM)) for n, s in zip(fixed.GetSize(), fixed.GetSpacing(), strict=True)]
    spline = sitk.BSplineTransformInitializer(fixed, nodes, 3)
    method = sitk.ImageRegistrationMethod()
    if threads:
        method.SetNumberOfThreads(threads)
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricUseMovingImageGradientFilter(False)
    method.SetMetricFixedMask(mask)
    share = SAMPLES / max(1.0, float(sitk.GetArrayViewFromImage(mask).sum()))
    if share < 1:
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(share, SEED)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetMovingInitialTransform(rigid)
    method.SetInitialTransform(spline, True)
    whole = len(spline.GetParameters()) ** 0.5  # a step is a length in the space of all parameters
    method.SetOptimizerAsRegularStepGradientDescent(FIRST_MM * whole, LAST_MM * whole, STEPS, 0.6, 1e-9)
    method.Execute(fixed, moving)
    return _kept(rigid, spline, Score(fixed, moving, mask), _least_jacobian(spline, mask))


def _kept(rigid: sitk.Transform, spline: sitk.Transform, score: Score, least: float) -> tuple[sitk.Transform, str]:
    """Return both transforms together if that is better and folds nothing, else the rigid one; and a line on it."""
    together = sitk.CompositeTransform([rigid, spline])  # the last one is applied first
    before, after = score(rigid), score(together)
    found = f"mutual information {before:.3f} rigid, {after:.3f} with it; least Jacobian {least:.2f}"
    if least < LEAST_JACOBIAN:
        return rigid, f"deformation not used, it folds or crushes tissue: {found}; rigid kept"
    if after < before * (1 + LEAST_GAIN):
        return rigid, f"deformation not used, it fits no better: {found}; rigid kept"
    return together, f"deformed: {found}"


def _least_jacobian(spline: sitk.Transform, mask: sitk.Image) -> float:
    """Return the least determinant of the Jacobian in the mask; the outermost voxels have none."""
    grid = Grid.of(mask)
    field = sitk.TransformToDisplacementField(
        spline, sitk.sitkVectorFloat64, grid.size, grid.origin, grid.spacing_mm, grid.direction
    )
    inner = (slice(1, -1),) * 3
    found = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(field))[inner]
    inside = sitk.GetArrayViewFromImage(mask)[inner] > 0
    return float(found[inside].min()) if inside.any() else 1.0

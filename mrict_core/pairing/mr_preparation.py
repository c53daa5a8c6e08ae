"""Optional preparation of an MR before pairing: bias correction and clipping."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from mrict_core.errors import MrictError
from mrict_core.pairing.bodies import as_mask, checked_grid

SHRINK, SHRUNK_MM = 4, 6.0  # N4's usual factor, as the field is smooth; coarse voxels are shrunk less
ITERATIONS = (50, 50, 30)  # on its levels
SMALLEST_VOXELS = 8  # along an axis after shrinking; the spline needs some


def correct_bias(mr: sitk.Image, body: sitk.Image) -> sitk.Image:
    """Return an MR divided by its bias field, estimated by N4 inside `body` (Tustison et al., IEEE TMI 29:1310, 2010).

    float32 on the MR's grid; its median inside the body is kept. The field is found on every `SHRINK`-th
    voxel, or about every `SHRUNK_MM`. Raises MrictError for different grids, an empty body and too few slices.
    """
    inside, values = _inside(mr, body)
    if min(mr.GetSize()) < SMALLEST_VOXELS:
        raise MrictError(
            f"mr: {'×'.join(map(str, mr.GetSize()))} voxels; bias correction expects at least {SMALLEST_VOXELS} along "
            "every axis; leave it out"
        )
    floor = max(float(values.max()) * 1e-4, 1e-6)  # N4 takes logarithms
    image = sitk.Maximum(sitk.Cast(mr, sitk.sitkFloat32), floor)
    factors = [
        max(1, min(SHRINK, round(SHRUNK_MM / spacing), n // SMALLEST_VOXELS))
        for n, spacing in zip(mr.GetSize(), mr.GetSpacing(), strict=True)
    ]
    mask = as_mask(inside, mr)
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations(ITERATIONS)
    n4.Execute(sitk.Shrink(image, factors), sitk.Shrink(mask, factors))
    field = sitk.Exp(sitk.Cast(n4.GetLogBiasFieldAsImage(image), sitk.sitkFloat32))
    corrected = sitk.Cast(mr, sitk.sitkFloat32) / field
    before = float(np.median(values))
    after = float(np.median(sitk.GetArrayViewFromImage(corrected).T[inside]))
    return corrected * (before / after) if before > 0 and after > 0 else corrected


def clip(mr: sitk.Image, body: sitk.Image, low: float = 0.0, high: float = 99.5) -> sitk.Image:
    """Return an MR (float32) clipped to two percentiles of its values inside `body`.

    Raises MrictError for different grids, an empty body or percentiles out of order.
    """
    if not 0 <= low < high <= 100:
        raise MrictError(f"percentiles {low:g} and {high:g}: expected 0 to 100, the lower one first; give others")
    _, values = _inside(mr, body)
    bottom, top = (float(v) for v in np.percentile(values, (low, high)))
    if low == 0:  # air outside the body is darker
        bottom = float(sitk.GetArrayViewFromImage(mr).min())
    return sitk.Clamp(sitk.Cast(mr, sitk.sitkFloat32), sitk.sitkFloat32, bottom, top)


def _inside(mr: sitk.Image, body: sitk.Image) -> tuple[np.ndarray, np.ndarray]:
    """Return the body (nx, ny, nz), and the MR's values inside it."""
    volumes = checked_grid({"MR": mr, "body": body})
    inside = volumes["body"].array > 0
    if not inside.any():
        raise MrictError("mr: its body is empty; expected the mask of a body; draw it again")
    return inside, volumes["MR"].array[inside]

"""The multi-scale structural similarity of SynthRAD2025, inside a mask.

Written from the definition; where it is ambiguous, from the challenge's published code (SynthRAD2025/metrics and
/evaluation on GitHub):

- clip to R, the lower end of R outside the mask, shift to start at 0;
- pad volumes and mask by their edge values to at least 97 voxels along every axis, half on either side;
- five scales; at each the map L^wl (C S)^w with w = 0.0448, 0.2856, 0.3001, 0.2363, 0.1333, window 7, uniform, sample
  covariance, K1 0.01, K2 0.03, data_range L; no factor of the map goes below 0;
- the mean of the map inside the mask after cropping 3 voxels from every face, clipped to [0, 1]; the product over the
  scales;
- from scale to scale a 2x2x2 mean filter ("same", zeros before the first voxel) and every second voxel; of the mask
  every second voxel.

`luminance`: the challenge's code applies the luminance factor with w at every scale ("every_scale"), although its
comment says only the last ("last_scale", as Wang et al. 2003). `exponents`: its code raises the map to the power voxel
by voxel and then averages ("per_voxel"); Wang et al. average first ("per_scale").
"""

from __future__ import annotations

import numpy as np

from mrict_core.errors import MrictError, unknown_name
from mrict_core.metrics import windows
from mrict_core.metrics.windows import K1, K2

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
SIDE_MIN = 97  # voxels: (7 - 1) * 2^4 + 1, one whole window at the last scale
LUMINANCE = ("every_scale", "last_scale")
EXPONENTS = ("per_voxel", "per_scale")


def masked_ms_ssim(
    ct: np.ndarray,
    sct: np.ndarray,
    inside: np.ndarray,
    low: float,
    high: float,
    luminance: str = "every_scale",
    exponents: str = "per_voxel",
) -> float:
    """Return the MS-SSIM of two checked volumes (3-D, HU) inside a mask (bool), range [low, high] HU."""
    for kind, given, allowed in (("luminance", luminance, LUMINANCE), ("exponents", exponents, EXPONENTS)):
        if given not in allowed:
            raise unknown_name(kind, given, allowed)
    real, fake = (np.where(inside, np.clip(v, low, high), np.float32(low)) - np.float32(low) for v in (ct, sct))
    padding = [((gap := max(0, SIDE_MIN - n)) // 2, gap - gap // 2) for n in ct.shape]
    real, fake, inside = (np.pad(volume, padding, mode="edge") for volume in (real, fake, inside))
    product = 1.0
    for scale, weight in enumerate(WEIGHTS):
        last = scale == len(WEIGHTS) - 1
        if scale:
            real, fake, inside = _halved(real), _halved(fake), inside[::2, ::2, ::2]
        weight_l = weight if last or luminance == "every_scale" else 0.0
        mean = _map_mean(real, fake, inside, high - low, weight_l, weight, exponents, scale)
        product *= float(np.clip(mean, 0.0, 1.0)) ** (1.0 if exponents == "per_voxel" else weight)
    return product


def _map_mean(
    real: np.ndarray,
    fake: np.ndarray,
    inside: np.ndarray,
    width: float,
    weight_l: float,
    weight: float,
    exponents: str,
    scale: int,
) -> float:
    """Return the mean of one scale's map inside the mask; an exponent of 0 omits the factor."""
    c1, c2 = (K1 * width) ** 2, (K2 * width) ** 2

    def planes(x: np.ndarray, y: np.ndarray, _: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.ascontiguousarray(x, np.float64), np.ascontiguousarray(y, np.float64)

    def values(ux: np.ndarray, uy: np.ndarray, variances: np.ndarray, covariance: np.ndarray) -> np.ndarray:
        # C S = (2 cov + c2) / (var + var + c2); C is positive, so S below 0 is the product below 0
        structure = np.clip((2 * covariance + c2) / (np.maximum(variances, 0.0) + c2), 0.0, None)
        light = (2 * ux * uy + c1) / (ux * ux + uy * uy + c1) if weight_l else 1.0
        return (light * structure) ** weight if exponents == "per_voxel" else light * structure

    found = windows.map_mean(real, fake, inside, values, planes)
    if not found.count:
        raise MrictError(
            f"the mask has no voxel at scale {scale + 1} of the MS-SSIM (every {2**scale}. voxel along each axis, "
            "away from the faces); score a larger or thicker mask, or use --protocol synthrad2023"
        )
    return found.mean


def _halved(volume: np.ndarray) -> np.ndarray:
    """Return 2x2x2 means at every second voxel: voxel 2j and the one before it, 0 before the first."""
    for axis in range(3):
        even = np.moveaxis(volume, axis, 0)[::2]
        before = np.zeros_like(even)
        before[1:] = np.moveaxis(volume, axis, 0)[1::2][: len(even) - 1]
        volume = np.moveaxis((even + before) / 2, 0, axis)
    return volume

"""Cone-beam CT of a phantom: what scatter, a small detector and noise make of its CT."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from mrict_core.data.phantom.fields import Grid
from mrict_core.hu import AIR_FLOOR_HU, AIR_HU, CEILING_HU

SCATTER_MM = 45.0  # how far scatter spreads: far smoother than any organ
CUPPING_HU = (60.0, 160.0)  # how much darker the middle of a thick body is; the range over patients
GAIN = (0.94, 1.02)  # error of the calibration: of the step from air to water
NOISE_HU = (25.0, 45.0)
NOISE_VOXELS = 0.7  # its correlation length
FIELD_RADIUS_MM = (115.0, 135.0)  # of the cylinder that the detector sees: all of a head, not all of a pelvis


def image_cbct(ct: np.ndarray, body: np.ndarray, grid: Grid, rng: np.random.Generator) -> np.ndarray:
    """Return a CBCT in HU, float32 whole numbers, on the grid of `ct` (HU) with the outline `body` (0 or 1).

    Simple on purpose: cupping by smoothed tissue, a wrong gain, correlated noise that grows with thickness, and
    -1024 outside an upright cylinder. No streaks, no motion, no cone artefacts.
    """
    inside = np.asarray(body, np.float32)
    thickness = ndimage.gaussian_filter(inside, SCATTER_MM / grid.spacing_mm, truncate=2.5, mode="constant")
    cupping = rng.uniform(*CUPPING_HU) * thickness * inside
    noise = ndimage.gaussian_filter(rng.standard_normal(ct.shape, dtype=np.float32), NOISE_VOXELS, truncate=3.0)
    noise *= rng.uniform(*NOISE_HU) / noise.std() * (0.4 + thickness)
    image = AIR_HU + rng.uniform(*GAIN) * (np.asarray(ct, np.float32) - AIR_HU) - cupping + noise
    image = np.rint(image).clip(AIR_FLOOR_HU, CEILING_HU)
    return np.where(_field(grid, rng), image, np.float32(AIR_FLOOR_HU)).astype(np.float32)


def _field(grid: Grid, rng: np.random.Generator) -> np.ndarray:
    """Return where the detector sees (bool): an upright cylinder around the centre of the image."""
    middle = (np.array(grid.shape) - 1) / 2
    steps = np.meshgrid(
        *(np.arange(n) - m for n, m in zip(grid.shape, middle, strict=True)), indexing="ij", sparse=True
    )
    across = [sum(grid.affine[row, axis] * steps[axis] for axis in range(3)) for row in (0, 1)]
    return np.hypot(*across) <= rng.uniform(*FIELD_RADIUS_MM)

"""The scanners of three centres: MR and CT images from tissue labels.

MR: spoiled gradient echo at steady state (Ernst; Haase et al., J Magn Reson 67:258, 1986)

    S = PD * sin(a) * (1 - E1) / (1 - cos(a) * E1) * exp(-TE / T2*),   E1 = exp(-TR / T1)

times a smooth receive field, with signal loss next to air (susceptibility) and Rician noise (Gudbjartsson and Patz,
Magn Reson Med 34:910, 1995). CT: HU with texture by tissue, blur and correlated noise. Both are averaged from
sub-voxels and blurred by a point spread (partial volume).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy import ndimage

from mrict_core.data.phantom.anatomy import rotation
from mrict_core.data.phantom.fields import Grid, WaveField
from mrict_core.data.phantom.tissues import Tissue, column, patient_hu
from mrict_core.hu import AIR_FLOOR_HU, CEILING_HU

CT_NOISE_VOXEL_MM3 = 1.5  # the voxel for which `Centre.ct_noise_hu` is given
MR_FULL_SCALE = 1000.0  # signal of bright fat at unit gain; scanners store whole numbers


@dataclass(frozen=True)
class Centre:
    """One hospital's scanners."""

    axes: str  # file order: direction of each array axis (L/R, P/A, S/I)
    tilt_deg: tuple[float, float, float]  # of the acquired box about x, y, z; zeros: a straight affine
    in_plane_factor: float  # of the spec's voxel size
    slice_factor: float
    tr_ms: float
    te_ms: float
    flip_deg: float
    mr_noise: float  # standard deviation as a fraction of fat's signal
    mr_blur: float  # point spread's sigma in voxels
    bias: float  # rms of the log of the receive field
    ct_noise_hu: float
    ct_blur: float


CENTRES: dict[str, Centre] = {
    "A": Centre("LPS", (0, 0, 0), 1.0, 1.0, 22.0, 4.6, 28.0, 0.018, 0.45, 0.10, 9.0, 0.40),
    "B": Centre("PSR", (0, 0, 0), 1.08, 0.94, 9.5, 3.0, 13.0, 0.034, 0.60, 0.18, 16.0, 0.55),
    "C": Centre("RAS", (6.0, 0, 4.0), 0.96, 1.06, 30.0, 8.5, 35.0, 0.012, 0.35, 0.14, 24.0, 0.30),
}

# field of view: R-L, A-P, S-I extent and its centre in RAS+ mm
FIELD_OF_VIEW_MM = {
    "brain": ((182.0, 219.0, 194.0), (0.0, 1.5, -9.0)),
    "pelvis": ((402.0, 272.0, 196.0), (0.0, -10.0, -8.0)),
}


def acquisition_grid(region: str, centre: Centre, in_plane_mm: float, slice_mm: float) -> Grid:
    """Return the centre's voxel grid; in-plane size along R-L and A-P, slice distance along S-I, in any file order."""
    extent, middle = FIELD_OF_VIEW_MM[region]
    size = np.array([in_plane_mm * centre.in_plane_factor] * 2 + [slice_mm * centre.slice_factor])
    count = np.ceil(np.array(extent) / size - 1e-9).astype(int)
    world = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
    turn = rotation(centre.tilt_deg)
    affine = np.eye(4)
    for axis, letter in enumerate(centre.axes):
        n, sign = world[letter]
        affine[:3, axis] = turn[:, n] * sign * size[n]
    shape = tuple(int(count[world[letter][0]]) for letter in centre.axes)
    affine[:3, 3] = np.array(middle) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(np.round(affine, 6) + 0.0, shape)


def spgr(centre: Centre, t1_ms: np.ndarray, t2s_ms: np.ndarray, pd: np.ndarray) -> np.ndarray:
    """Return the spoiled-gradient-echo signal (relative to the full magnetisation of water) of each tissue."""
    flip = np.deg2rad(centre.flip_deg)
    e1 = np.exp(-centre.tr_ms / t1_ms)
    return pd * np.sin(flip) * (1 - e1) / (1 - np.cos(flip) * e1) * np.exp(-centre.te_ms / t2s_ms)


def down(fine: np.ndarray, factor: int) -> np.ndarray:
    """Average blocks of `factor`³ sub-voxels."""
    return _block_sum(fine, factor) / np.float32(factor**3)


def _block_sum(fine: np.ndarray, factor: int) -> np.ndarray:
    """Sum blocks of `factor`³ sub-voxels in the array's dtype (a strided sum is far faster than a reduction)."""
    parts = (fine[a::factor, b::factor, c::factor] for a, b, c in product(range(factor), repeat=3))
    total = next(parts).copy()
    for part in parts:
        total += part
    return total


def majority(fine: np.ndarray, factor: int) -> np.ndarray:
    """Return the most frequent label of each block of `factor`³ sub-voxels (uint8; the lower label on a tie)."""
    if factor == 1:
        return fine
    best = np.zeros([n // factor for n in fine.shape], np.uint8)
    result = np.zeros_like(best)
    for label in np.unique(fine):
        count = _block_sum((fine == label).view(np.uint8), factor)
        result[count > best] = label
        np.maximum(best, count, out=best)
    return result


def _point_spread(fine: np.ndarray, sigma_voxels: float, factor: int) -> np.ndarray:
    return down(ndimage.gaussian_filter(fine, sigma_voxels * factor, truncate=3.0, mode="nearest"), factor)


def image_mr(labels: np.ndarray, grid: Grid, factor: int, centre: Centre, rng: np.random.Generator) -> np.ndarray:
    """Return the MR image, float32 whole numbers >= 0, for fine labels on `grid` refined by `factor`."""
    fine_grid = grid.refined(factor)
    count = len(Tissue)
    t1 = column("t1_ms") * (1 + 0.05 * np.clip(rng.standard_normal(count), -2, 2))
    t2s = column("t2s_ms") * (1 + 0.06 * np.clip(rng.standard_normal(count), -2, 2))
    pd = column("pd") * (1 + 0.02 * np.clip(rng.standard_normal(count), -2, 2))
    reference = spgr(centre, *(np.array([column(c)[Tissue.FAT]]) for c in ("t1_ms", "t2s_ms", "pd")))[0]
    signal = spgr(centre, t1, t2s, pd) / reference
    bias = WaveField(rng, (260, 600), centre.bias, 8)
    grain = WaveField(rng, (7, 24), 0.035, 32)
    gain = MR_FULL_SCALE * rng.uniform(0.7, 1.4)
    fine = signal.astype(np.float32)[labels]
    fine *= 1 + grain.on(fine_grid)
    air = (labels == Tissue.CAVITY_AIR).astype(np.float32)
    air = ndimage.gaussian_filter(air, 3.5 / fine_grid.spacing_mm, truncate=2.5, mode="constant")
    fine *= np.exp(np.float32(-0.16 * centre.te_ms) * air)
    image = _point_spread(fine, centre.mr_blur, factor) * np.exp(bias.on(grid))
    real = image + np.float32(centre.mr_noise) * rng.standard_normal(image.shape, dtype=np.float32)
    imaginary = np.float32(centre.mr_noise) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.rint(np.float32(gain) * np.hypot(real, imaginary))


def image_ct(
    labels: np.ndarray, grid: Grid, factor: int, centre: Centre, region: str, rng: np.random.Generator
) -> np.ndarray:
    """Return the CT image, int16 HU as 12 bits hold them, for fine labels on `grid` refined by `factor`."""
    fine_grid = grid.refined(factor)
    hu = patient_hu(region, rng).astype(np.float32)
    texture = column("hu_texture").astype(np.float32)
    fine = hu[labels]
    grain = WaveField(rng, (4, 14), 0.8, 40).on(fine_grid)
    grain += WaveField(rng, (25, 80), 0.8, 24).on(fine_grid)
    fine += texture[labels] * grain
    image = _point_spread(fine, centre.ct_blur, factor)
    noise = ndimage.gaussian_filter(rng.standard_normal(image.shape, dtype=np.float32), 0.6, truncate=3.0)
    # averaging over larger voxels lowers correlated noise less than white noise (exponent -0.5)
    coarser = (np.prod(grid.spacing_mm) / CT_NOISE_VOXEL_MM3) ** -0.25
    image += noise * np.float32(centre.ct_noise_hu * coarser / noise.std())
    return np.rint(image).clip(AIR_FLOOR_HU, CEILING_HU).astype(np.int16)

"""The SynthRAD metrics by their definitions, over whole volumes and window by window."""

from __future__ import annotations

import itertools

import numpy as np
from scipy.ndimage import uniform_filter
from scipy.signal import fftconvolve
from skimage.metrics import structural_similarity

LOW, HIGH = np.float32(-1024), np.float32(3000)
WIDTH = 4024.0
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the five scales of MS-SSIM


def scores(ct: np.ndarray, sct: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Return mae_hu, psnr_db and ssim of float32 volumes in HU inside mask > 0."""
    inside = mask > 0
    mae_hu = np.abs(ct - sct)[inside].mean(dtype=np.float64)
    real, fake = np.clip(ct, LOW, HIGH), np.clip(sct, LOW, HIGH)
    mse = np.square((real - fake)[inside], dtype=np.float64).mean()
    real, fake = (np.where(inside, volume, LOW) - LOW for volume in (real, fake))
    _, values = structural_similarity(real, fake, win_size=7, data_range=WIDTH, full=True)
    cropped = (slice(3, -3),) * 3
    return {
        "mae_hu": float(mae_hu),
        "psnr_db": float(10 * np.log10(WIDTH**2 / mse)),
        "ssim": float(values[cropped][inside[cropped]].mean(dtype=np.float64)),
    }


def direct_ssim(real: np.ndarray, fake: np.ndarray, mask: np.ndarray) -> float:
    """The definition, window by window in float64, in as many dimensions as the arrays have."""
    real, fake = (np.where(mask > 0, np.clip(a, -1024, 3000), -1024) + 1024.0 for a in (real, fake))
    c1, c2 = (0.01 * 4024) ** 2, (0.03 * 4024) ** 2
    values = []
    for centre in itertools.product(*(range(3, length - 3) for length in real.shape)):
        if not mask[centre]:
            continue
        window = tuple(slice(i - 3, i + 4) for i in centre)
        x, y = real[window].ravel(), fake[window].ravel()
        (vx, vxy), (_, vy) = np.cov(x, y, ddof=1)
        mx, my = x.mean(), y.mean()
        values.append((2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    return float(np.mean(values))


def direct_ms_ssim(ct, sct, mask, high=3071.0, luminance="every_scale", exponents="per_voxel") -> float:
    """The definition with general filters over whole volumes, float64."""
    width = high + 1024
    real, fake = (np.where(mask, np.clip(a, -1024, high), -1024) + 1024 for a in (ct, sct))
    gaps = [max(0, 97 - n) for n in ct.shape]
    real, fake, mask = (np.pad(a, [(g // 2, g - g // 2) for g in gaps], mode="edge") for a in (real, fake, mask))
    c1, c2 = (0.01 * width) ** 2, (0.03 * width) ** 2
    product = 1.0
    for scale, weight in enumerate(WEIGHTS):
        ux, uy, uxx, uyy, uxy = (uniform_filter(a, 7) for a in (real, fake, real**2, fake**2, real * fake))
        vx, vy, vxy = (343 / 342 * d for d in (uxx - ux**2, uyy - uy**2, uxy - ux * uy))
        sx, sy = np.sqrt(np.clip(vx, 0, None)), np.sqrt(np.clip(vy, 0, None))
        light = (2 * ux * uy + c1) / (ux**2 + uy**2 + c1)
        contrast = (2 * sx * sy + c2) / (vx + vy + c2)
        structure = np.clip((vxy + c2 / 2) / (sx * sy + c2 / 2), 0, None)
        weight_l = weight if luminance == "every_scale" or scale == 4 else 0.0
        inner = (slice(3, -3),) * 3
        keep = mask[inner].astype(bool)
        if exponents == "per_voxel":
            powered = light**weight_l * contrast**weight * structure**weight
            product *= np.clip(powered[inner][keep].mean(), 0, 1)
        else:
            plain_map = (light if weight_l else 1) * contrast * structure
            product *= np.clip(plain_map[inner][keep].mean(), 0, 1) ** weight
        real, fake = (fftconvolve(a, np.ones((2, 2, 2)) / 8, mode="same")[::2, ::2, ::2] for a in (real, fake))
        mask = mask[::2, ::2, ::2]
    return float(product)

"""The SynthRAD2023 metrics written straight from their definition, with scikit-image's map over the whole volume."""

from __future__ import annotations

import numpy as np
from skimage.metrics import structural_similarity

LOW, HIGH = np.float32(-1024), np.float32(3000)
WIDTH = 4024.0


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

"""The SynthRAD2023 image metrics: one value per 3-D case.

Written from the challenge's published definition (Huijben et al., Medical Image Analysis 97, 2024, 103276) in the form
it has had since 14 July 2023. `L` below is the width of the HU range, `M` the scoring mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mrict_core.errors import MrictError

HU_LOW = -1024.0
HU_HIGH = 3000.0
DYNAMIC_RANGE_HU = HU_HIGH - HU_LOW
SSIM_WINDOW = 7
_PAD = SSIM_WINDOW // 2


@dataclass(frozen=True)
class SsimScore:
    """A structural similarity and how it was taken: "3D", or "2D" per slice where the volume is thin."""

    value: float
    dimensionality: str


def mae_hu(ct: np.ndarray, sct: np.ndarray, mask: np.ndarray) -> float:
    """Return the mean absolute error inside the mask, in HU, without clipping.

    mae = sum over M of |CT - sCT| / |M|. `ct`, `sct`: HU, one 3-D shape; `mask`: the same shape, M is mask > 0.
    """
    ct, sct, inside = _checked(ct, sct, mask)
    return float(np.abs(ct[inside] - sct[inside]).mean(dtype=np.float64))


def psnr_db(ct: np.ndarray, sct: np.ndarray, mask: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio inside the mask, in dB; infinity where the clipped volumes are equal.

    psnr = 10 log10(L^2 / mean over M of (clip CT - clip sCT)^2), both clipped to [-1024, 3000] HU, L = 4024.
    Arguments as in `mae_hu`.
    """
    ct, sct, inside = _checked(ct, sct, mask)
    difference = _clip(ct[inside]) - _clip(sct[inside])
    mse = float(np.square(difference, dtype=np.float64).mean())
    return float(10.0 * np.log10(DYNAMIC_RANGE_HU**2 / mse)) if mse > 0.0 else float("inf")


def ssim(ct: np.ndarray, sct: np.ndarray, mask: np.ndarray) -> SsimScore:
    """Return the structural similarity inside the mask.

    Both volumes are clipped to [-1024, 3000] HU, set to -1024 outside M and shifted by 1024. The map has a uniform
    7x7x7 window, sample covariance, K1 0.01, K2 0.03 and data_range 4024, in float32; the value is its float64 mean
    over M after cropping 3 voxels from every face (M is not eroded). Where one axis is thinner than 7 voxels the map is
    taken per slice along that axis, 7x7, and averaged over M the same way. Arguments as in `mae_hu`.
    """
    ct, sct, inside = _checked(ct, sct, mask)
    thin = [axis for axis, length in enumerate(ct.shape) if length < SSIM_WINDOW]
    if len(thin) > 1:
        raise MrictError(
            f"SSIM needs {SSIM_WINDOW} voxels or more along two axes, the volume has {_size(ct)}; score a larger volume"
        )
    real, fake = (np.where(inside, _clip(volume), np.float32(HU_LOW)) - np.float32(HU_LOW) for volume in (ct, sct))
    if thin:
        real, fake, inside = (np.moveaxis(volume, thin[0], 0) for volume in (real, fake, inside))
        pairs = list(zip(real, fake, inside, strict=True))
    else:
        pairs = [(real, fake, inside)]
    values = np.concatenate([_masked_map(*pair) for pair in pairs])
    if not values.size:
        raise MrictError(f"the mask lies within {_PAD} voxels of the volume's faces, where SSIM has no value; pad it")
    return SsimScore(float(values.mean(dtype=np.float64)), "2D" if thin else "3D")


def _masked_map(real: np.ndarray, fake: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return the map's values inside the mask, away from the faces (2-D or 3-D)."""
    from skimage.metrics import structural_similarity

    interior = (slice(_PAD, -_PAD),) * real.ndim
    if not inside[interior].any():
        return np.empty(0, np.float32)
    _, values = structural_similarity(
        real,
        fake,
        win_size=SSIM_WINDOW,
        gaussian_weights=False,
        use_sample_covariance=True,
        K1=0.01,
        K2=0.03,
        data_range=DYNAMIC_RANGE_HU,
        full=True,
    )
    return values[interior][inside[interior]]


def _clip(hu: np.ndarray) -> np.ndarray:
    return np.clip(hu, np.float32(HU_LOW), np.float32(HU_HIGH))


def _checked(ct: np.ndarray, sct: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return both volumes in float32 and the mask as bool."""
    ct, sct = np.asarray(ct, dtype=np.float32), np.asarray(sct, dtype=np.float32)
    inside = np.asarray(mask) > 0
    if ct.ndim != 3 or ct.shape != sct.shape or ct.shape != inside.shape:
        raise MrictError(
            f"the metrics compare 3-D volumes of one shape: CT has {_size(ct)}, sCT {_size(sct)}, "
            f"mask {_size(inside)}; bring the sCT to the CT's grid"
        )
    if not inside.any():
        raise MrictError("the scoring mask is empty: there is no voxel to score; check the mask file")
    for role, volume in (("CT", ct), ("sCT", sct)):
        if not np.isfinite(volume).all():
            count = int(np.size(volume) - np.isfinite(volume).sum())
            raise MrictError(f"the {role} holds {count} NaN or infinite voxels; it cannot be scored")
    return ct, sct, inside


def _size(array: np.ndarray) -> str:
    return "×".join(str(length) for length in array.shape)

"""The SynthRAD image metrics: one value per 3-D case.

Written from the challenges' published definitions: 2023 (Huijben et al., Medical Image Analysis 97, 2024, 103276) in
the form it has had since 14 July 2023, and 2025. `M` below is the scoring mask, mask > 0; `R` the HU range, `L` its
width. Ranges are named and never inferred from the data.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mrict_core.errors import MrictError, unknown_name
from mrict_core.metrics import windows
from mrict_core.metrics.ms_ssim import masked_ms_ssim
from mrict_core.metrics.windows import PAD, WINDOW


@dataclass(frozen=True)
class HuRange:
    """A range of HU that volumes are clipped to."""

    name: str
    low: float
    high: float

    @property
    def width(self) -> float:
        return self.high - self.low


RANGES = {
    r.name: r
    for r in (
        HuRange("synthrad2023", -1024.0, 3000.0),
        HuRange("synthrad2025", -1024.0, 3071.0),  # of the challenge's evaluation
        HuRange("synthrad2025_metrics", -1024.0, 3000.0),  # of its published metrics code
    )
}
PROTOCOLS = {  # protocol => its metrics; each takes the range of its own name unless told otherwise
    "synthrad2023": ("mae_hu", "psnr_db", "ssim"),
    "synthrad2025": ("mae_hu", "psnr_db", "ms_ssim"),
}
HU_RANGE = RANGES["synthrad2023"]


@dataclass(frozen=True)
class SsimScore:
    """A structural similarity and how it was taken: "3D", or "2D" per slice where the volume is thin."""

    value: float
    dimensionality: str


def score_case(
    ct: np.ndarray,
    sct: np.ndarray,
    mask: np.ndarray,
    protocol: str = "synthrad2023",
    *,
    hu_range: str = "",
    luminance: str = "every_scale",
    exponents: str = "per_voxel",
) -> dict[str, float | str]:
    """Return all metrics of a protocol by name; with SSIM also `ssim_dimensionality`, "3D" or "2D".

    hu_range: a name of `RANGES`, "" for the protocol's own; it bounds PSNR and the structural similarity, never the
    MAE. luminance, exponents: of MS-SSIM, see `ms_ssim`. Volumes as in `mae_hu`.
    """
    if protocol not in PROTOCOLS:
        raise unknown_name("scoring protocol", protocol, PROTOCOLS)
    chosen = range_of(hu_range or protocol)
    ct, sct, inside = checked_volumes(ct, sct, mask)
    scores: dict[str, float | str] = {}
    scores["mae_hu"], scores["psnr_db"] = _voxel_scores(ct, sct, inside, chosen)
    if "ms_ssim" in PROTOCOLS[protocol]:
        scores["ms_ssim"] = masked_ms_ssim(ct, sct, inside, chosen.low, chosen.high, luminance, exponents)
    else:
        found = _ssim(ct, sct, inside, chosen)
        scores |= {"ssim": found.value, "ssim_dimensionality": found.dimensionality}
    return scores


def range_of(name: str) -> HuRange:
    """Return a HU range by name; an unknown name is an error with the nearest one."""
    if name not in RANGES:
        raise unknown_name("HU range", name, RANGES)
    return RANGES[name]


def mae_hu(ct: np.ndarray, sct: np.ndarray, mask: np.ndarray) -> float:
    """Return the mean absolute error inside the mask, in HU, without clipping.

    mae = sum over M of |CT - sCT| / |M|. `ct`, `sct`: HU, one 3-D shape; `mask`: the same shape, M is mask > 0.
    """
    return _voxel_scores(*checked_volumes(ct, sct, mask), HU_RANGE)[0]


def psnr_db(ct: np.ndarray, sct: np.ndarray, mask: np.ndarray, hu_range: HuRange = HU_RANGE) -> float:
    """Return the peak signal-to-noise ratio inside the mask, in dB; infinity where the clipped volumes are equal.

    psnr = 10 log10(L^2 / mean over M of (clip CT - clip sCT)^2), both clipped to R. Arguments as in `mae_hu`.
    """
    return _voxel_scores(*checked_volumes(ct, sct, mask), hu_range)[1]


def ssim(ct: np.ndarray, sct: np.ndarray, mask: np.ndarray, hu_range: HuRange = HU_RANGE) -> SsimScore:
    """Return the structural similarity inside the mask (2023).

    Both volumes are clipped to R, set to its lower end outside M and shifted to start at 0. The map has a uniform
    7x7x7 window, sample covariance, K1 0.01, K2 0.03 and data_range L; the value is its mean over M after cropping 3
    voxels from every face (M is not eroded). Where one axis is thinner than 7 voxels the map is taken per slice along
    that axis, 7x7, and averaged over M the same way. Arguments as in `mae_hu`.
    """
    return _ssim(*checked_volumes(ct, sct, mask), hu_range)


def ms_ssim(
    ct: np.ndarray,
    sct: np.ndarray,
    mask: np.ndarray,
    *,
    hu_range: HuRange = RANGES["synthrad2025"],
    luminance: str = "every_scale",
    exponents: str = "per_voxel",
) -> float:
    """Return the multi-scale structural similarity inside the mask (2025); see `mrict_core.metrics.ms_ssim`."""
    return masked_ms_ssim(*checked_volumes(ct, sct, mask), hu_range.low, hu_range.high, luminance, exponents)


def checked_volumes(ct: np.ndarray, sct: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return both volumes in float32 and the mask as bool; raise MrictError for what cannot be scored."""
    ct, sct = np.asarray(ct, dtype=np.float32), np.asarray(sct, dtype=np.float32)
    mask = np.asarray(mask)
    inside = mask if mask.dtype == bool else mask > 0
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


def _voxel_scores(ct: np.ndarray, sct: np.ndarray, inside: np.ndarray, hu_range: HuRange) -> tuple[float, float]:
    """Return (MAE in HU, PSNR in dB): differences in float32, means in float64."""
    real, fake = ct[inside], sct[inside]
    mae = float(np.abs(real - fake).mean(dtype=np.float64))
    low, high = np.float32(hu_range.low), np.float32(hu_range.high)
    difference = np.clip(real, low, high) - np.clip(fake, low, high)
    mse = float(np.square(difference, dtype=np.float64).mean())
    return mae, float(10.0 * np.log10(hu_range.width**2 / mse)) if mse > 0.0 else float("inf")


def _ssim(ct: np.ndarray, sct: np.ndarray, inside: np.ndarray, hu_range: HuRange) -> SsimScore:
    thin = [axis for axis, length in enumerate(ct.shape) if length < WINDOW]
    if len(thin) > 1:
        raise MrictError(
            f"SSIM needs {WINDOW} voxels or more along two axes, the volume has {_size(ct)}; score a larger volume"
        )
    if thin:
        ct, sct, inside = (np.moveaxis(volume, thin[0], 0) for volume in (ct, sct, inside))

    def planes(real: np.ndarray, fake: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shifted = (np.where(mask, np.clip(p, hu_range.low, hu_range.high) - hu_range.low, 0.0) for p in (real, fake))
        return tuple(np.ascontiguousarray(plane, np.float64) for plane in shifted)

    found = windows.map_mean(ct, sct, inside, windows.ssim_map(hu_range.width), planes, depth=1 if thin else WINDOW)
    if not found.count:
        raise MrictError(f"the mask lies within {PAD} voxels of the volume's faces, where SSIM has no value; pad it")
    return SsimScore(found.mean, "2D" if thin else "3D")


def _size(array: np.ndarray) -> str:
    return "×".join(str(length) for length in array.shape)

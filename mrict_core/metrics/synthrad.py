"""The SynthRAD image metrics: one value per 3-D case.

Written from the challenges' published definitions: 2023 (Huijben et al., Medical Image Analysis 97, 2024, 103276) as
of 14 July 2023, and 2025. `M` below is the scoring mask, mask > 0; `R` the HU range, `L` its width. Ranges are named
and never inferred from the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from mrict_core.errors import MrictError
from mrict_core.hu import SYNTHRAD2023, SYNTHRAD2025, HuRange
from mrict_core.metrics import windows
from mrict_core.metrics.case import checked_volumes, size_text
from mrict_core.metrics.metric import Metric
from mrict_core.metrics.ms_ssim import masked_ms_ssim
from mrict_core.metrics.windows import PAD, WINDOW

if TYPE_CHECKING:
    from mrict_core.metrics.case import Case


@dataclass(frozen=True)
class SsimScore:
    """A structural similarity and how it was computed: "3D", or "2D" per slice for thin volumes."""

    value: float
    dimensionality: str


def mae_hu(ct: np.ndarray, sct: np.ndarray, mask: np.ndarray) -> float:
    """Return the mean absolute error inside the mask, in HU, without clipping.

    mae = sum over M of |CT - sCT| / |M|. `ct`, `sct`: HU, one 3-D shape; `mask`: the same shape, M is mask > 0.
    """
    return _voxel_scores(*checked_volumes(ct, sct, mask), SYNTHRAD2023)[0]


def psnr_db(ct: np.ndarray, sct: np.ndarray, mask: np.ndarray, hu_range: HuRange = SYNTHRAD2023) -> float:
    """Return the peak signal-to-noise ratio inside the mask, in dB; infinity if the clipped volumes are equal.

    psnr = 10 log10(L^2 / mean over M of (clip CT - clip sCT)^2), both clipped to R. Arguments as in `mae_hu`.
    """
    return _voxel_scores(*checked_volumes(ct, sct, mask), hu_range)[1]


def ssim(ct: np.ndarray, sct: np.ndarray, mask: np.ndarray, hu_range: HuRange = SYNTHRAD2023) -> SsimScore:
    """Return the structural similarity inside the mask (2023).

    Both volumes are clipped to R, set to its lower end outside M and shifted to start at 0. The map has a uniform
    7x7x7 window, sample covariance, K1 0.01, K2 0.03 and data_range L; the value is its mean over M after cropping 3
    voxels from every face (M is not eroded). If one axis is shorter than 7 voxels, the map is computed per slice along
    that axis, 7x7, and averaged over M in the same way. Arguments as in `mae_hu`.
    """
    return _ssim(*checked_volumes(ct, sct, mask), hu_range)


def ms_ssim(
    ct: np.ndarray,
    sct: np.ndarray,
    mask: np.ndarray,
    *,
    hu_range: HuRange = SYNTHRAD2025,
    luminance: str = "every_scale",
    exponents: str = "per_voxel",
) -> float:
    """Return the multi-scale structural similarity inside the mask (2025); see `mrict_core.metrics.ms_ssim`."""
    return masked_ms_ssim(*checked_volumes(ct, sct, mask), hu_range.low, hu_range.high, luminance, exponents)


def _voxel_scores(ct: np.ndarray, sct: np.ndarray, inside: np.ndarray, hu_range: HuRange) -> tuple[float, float]:
    """Return (MAE in HU, PSNR in dB): differences in float32, means in float64."""
    real, fake = ct[inside], sct[inside]
    mae = float(np.abs(real - fake).mean(dtype=np.float64))
    difference = hu_range.clip(real) - hu_range.clip(fake)
    mse = float(np.square(difference, dtype=np.float64).mean())
    return mae, float(10.0 * np.log10(hu_range.width**2 / mse)) if mse > 0.0 else float("inf")


def _ssim(ct: np.ndarray, sct: np.ndarray, inside: np.ndarray, hu_range: HuRange) -> SsimScore:
    thin = [axis for axis, length in enumerate(ct.shape) if length < WINDOW]
    if len(thin) > 1:
        raise MrictError(
            f"SSIM needs at least {WINDOW} voxels along two axes, the volume has {size_text(ct)}; score a larger volume"
        )
    if thin:
        ct, sct, inside = (np.moveaxis(volume, thin[0], 0) for volume in (ct, sct, inside))

    def planes(real: np.ndarray, fake: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shifted = (np.where(mask, hu_range.clip(p) - hu_range.low, 0.0) for p in (real, fake))
        return tuple(np.ascontiguousarray(plane, np.float64) for plane in shifted)

    found = windows.map_mean(ct, sct, inside, windows.ssim_map(hu_range.width), planes, depth=1 if thin else WINDOW)
    if not found.count:
        raise MrictError(
            f"the mask is within {PAD} voxels of the volume's faces, where SSIM is undefined; pad the volume"
        )
    return SsimScore(found.mean, "2D" if thin else "3D")


def _voxels(case: Case) -> tuple[float, float]:
    return case.once(_voxel_scores, case.hu_range or SYNTHRAD2023)


def structure(case: Case) -> SsimScore:
    """Return the SSIM of a case, computed in 3-D or per slice."""
    return case.once(_ssim, case.hu_range or SYNTHRAD2023)


def _ms_ssim(case: Case) -> float:
    chosen = case.hu_range or SYNTHRAD2025
    return masked_ms_ssim(*case.volumes, chosen.low, chosen.high, case.luminance, case.exponents)


_MASK = "the data set's own mask, mask > 0, on the original grid"
_FORM = "SynthRAD2023 definition after 14 July 2023; numbers published earlier are not comparable"
_CASES = "mean over the cases; SD with ddof 1"
_SSIM_RANGE = "both clipped to [{low}, {high}] HU, {low} outside the mask; data_range {width}"
_row = partial(Metric, mask=_MASK, dimensionality="3D", aggregation=_CASES)
_BOTH = ("synthrad2023", "synthrad2025", "leaderboard", "compare", "controls", "model_card")

METRICS = (
    _row(
        *("mae_hu", "MAE (HU)", "masked mean absolute error", "HU", 1, "lower", (*_BOTH, "validation")),
        range="HU without clipping",
        note=_FORM,
        value=lambda case: _voxels(case)[0],
    ),
    _row(
        *("psnr_db", "PSNR (dB)", "masked peak signal-to-noise ratio", "dB", 2, "higher", _BOTH),
        range="both clipped to [{low}, {high}] HU; peak {width}",
        clip=SYNTHRAD2023,
        note=f"{_FORM}; equal volumes score infinity, which is null in json and excluded from the mean",
        absent="the two images are equal: the ratio is infinite",
        value=lambda case: _voxels(case)[1],
        error=lambda db: 10 ** (-db / 20),
    ),
    _row(
        *("ssim", "SSIM", "masked structural similarity", "1", 4, "higher"),
        panels=("synthrad2023", "leaderboard", "compare", "controls", "model_card"),
        range=_SSIM_RANGE,
        clip=SYNTHRAD2023,
        mask=f"{_MASK}; map averaged inside it after cropping 3 voxels from every face",
        note=f"uniform 7x7x7 window, sample covariance, K1 0.01, K2 0.03; {_FORM}",
        value=lambda case: structure(case).value,
    ),
    _row(
        *("ssim_2d", "SSIM", "masked structural similarity of slices", "1", 4, "higher", ("thin",)),
        range=_SSIM_RANGE,
        clip=SYNTHRAD2023,
        mask=f"{_MASK}; maps averaged inside it after cropping 3 pixels from every edge of the slices",
        dimensionality="2D",
        aggregation=f"pooled over the masked pixels of a case's slices; {_CASES}",
        note="replaces ssim if a volume is thinner than 7 voxels: uniform 7x7 window per slice along the thin axis, "
        "same constants; not a SynthRAD number",
    ),
    _row(
        *("ms_ssim", "MS-SSIM", "masked multi-scale structural similarity", "1", 4, "higher", ("synthrad2025",)),
        range=_SSIM_RANGE,
        clip=SYNTHRAD2025,
        mask=f"{_MASK}; map averaged inside it at every scale after cropping 3 voxels from every face",
        note="five scales, uniform 7x7x7 window, sample covariance, K1 0.01, K2 0.03; SynthRAD2025 definition as in "
        "its code: luminance at every scale, exponents voxel by voxel",
        value=_ms_ssim,
    ),
)

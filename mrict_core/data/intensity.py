"""Intensities of the input: normalisation, padding, and what values an MR or a CBCT may have."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mrict_core.data.checks.hu_values import is_ct, spread_over
from mrict_core.data.images.padding import background_beside
from mrict_core.errors import MrictError
from mrict_core.hu import HALF_WATER_HU
from mrict_core.modalities import MR, Modality
from mrict_core.paths import shown

MR_PERCENTILES = (0.5, 99.5)
PADDING_SHARE = 0.01  # of an MR's voxels; fewer are stray values
PADDING_GAP = 0.001  # largest share of voxels between the padding and half of it
PADDING_SURE, PADDING_EDGES = -900.0, 0.05  # no MR reaches it by itself; resampling blurs the edge of padding


def robust_mr_range(mr: np.ndarray, body: np.ndarray, path: Path | str = "MR") -> tuple[float, float]:
    """Return the MR values that become -1 and 1: percentiles of the whole volume inside the body mask.

    MR units differ between scans, not within one: one range per volume keeps neighbouring slices comparable.
    """
    inside = np.asarray(mr)[np.asarray(body, bool)]
    if inside.size == 0:
        raise MrictError(f"{shown(path)}: its body mask is empty; expected tissue brighter than air; check the file")
    low, high = map(float, np.percentile(inside, MR_PERCENTILES))
    if not high > low:
        low, high = float(inside.min()), float(inside.max())
    if not high > low:
        raise MrictError(f"{shown(path)}: constant {low:g} inside the body; expected tissue contrast; check the file")
    return low, high


def input_range(array: np.ndarray, body: np.ndarray, path: Path | str, modality: Modality = MR) -> tuple[float, float]:
    """Return the values that become -1 and 1: the window of a modality with a scale, else `robust_mr_range`."""
    window = modality.window
    return (window.low, window.high) if window else robust_mr_range(array, body, path)


def normalise_mr(mr: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map MR values from [low, high] to [-1, 1] float32, clipped."""
    unit = (np.asarray(mr, np.float32) - np.float32(low)) * np.float32(2.0 / (high - low)) - 1.0
    return np.clip(unit, -1.0, 1.0).astype(np.float32)


def minmax_slice(mr_slice: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """Map one slice to [0, 1] by its own minimum and maximum, as the predecessor did."""
    values = np.asarray(mr_slice, np.float64)
    low = values.min()
    return ((values - low) / (values.max() - low + eps)).astype(np.float32)


def without_padding(mr: np.ndarray) -> np.ndarray:
    """Return an MR whose padding, one negative value far below all others (-1, -1024, -32768), is set to background.

    Background is as dark as the neighbouring air (`padding.background_beside`). A CT is returned unchanged.
    """
    low = float(np.min(mr))
    if low >= 0:
        return mr
    values = spread_over(mr)
    between = np.mean((values > low) & (values <= low / 2))
    limit = PADDING_EDGES if low <= PADDING_SURE else PADDING_GAP
    if np.mean(values == low) < PADDING_SHARE or between > limit or is_ct(values):
        return mr
    padded = mr <= low / 2
    if padded.all():
        return mr
    level = background_beside(mr, padded)
    return np.where(padded, np.float32(level), np.maximum(mr, np.float32(min(level, 0))))  # resampled edges


def check_mr(mr: np.ndarray, path: Path | str) -> None:
    """Raise `MrictError` for an MR that is constant, binary or looks like a CT in HU; padding is ignored."""
    if is_ct(spread_over(mr)):
        raise MrictError(
            f"{shown(path)}: values {np.min(mr):g}…{np.max(mr):g} look like a CT in HU (air near -1000, fat below 0); "
            "expected MR intensities; check that mr and ct are not swapped"
        )
    mr = without_padding(mr)
    low, high = float(np.min(mr)), float(np.max(mr))
    if low == high:
        raise MrictError(f"{shown(path)}: MR has the constant value {low:g}; expected an image; export it again")
    if not any(np.any((plane > low) & (plane < high)) for plane in np.moveaxis(mr, np.argmax(np.abs(mr.strides)), 0)):
        raise MrictError(
            f"{shown(path)}: holds only the values {low:g} and {high:g}, like a mask; expected MR intensities; "
            "check that mr and mask are not swapped"
        )


def check_input(array: np.ndarray, path: Path | str, modality: Modality = MR) -> None:
    """Raise `MrictError` for an input that cannot be what its modality says; see `check_mr` and `check_cbct`."""
    (check_cbct if modality.window else check_mr)(array, path)


def check_cbct(cbct: np.ndarray, path: Path | str) -> None:
    """Raise `MrictError` for a CBCT that is constant, binary or without air near -1000: its values are not HU."""
    low, high = float(np.min(cbct)), float(np.max(cbct))
    expected = "expected a CBCT in HU, with air near -1000"
    if low == high:
        raise MrictError(f"{shown(path)}: CBCT has the constant value {low:g}; {expected}; export it again")
    if np.unique(spread_over(cbct)).size < 3:
        raise MrictError(f"{shown(path)}: holds only the values {low:g} and {high:g}, like a mask; {expected}")
    if low > HALF_WATER_HU or high < 0:
        raise MrictError(f"{shown(path)}: values {low:g}…{high:g}; {expected}; rescale it, or export it again")

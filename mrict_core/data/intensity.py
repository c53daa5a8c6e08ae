"""Intensities: HU windows, MR normalisation and the checks on both. The ranges of scores are in metrics/."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mrict_core.data import ranks
from mrict_core.errors import MrictError
from mrict_core.paths import shown

AIR_HU = -1024
MR_PERCENTILES = (0.5, 99.5)
MIN_PLAUSIBLE_HU = -3100  # scanners pad outside the field of view with values down to -3024
OUTSIDE_MAX_HU = 300  # of the median outside the mask, which is air (or padding)
AIR_BELOW_HU = -200  # every CT of a body shows lower values: air around it or fat beside gas
TISSUE_MEDIAN_HU = (-500.0, 700.0)  # of the voxels inside the mask; soft tissue lies near 0, an offset moves it by 1000


def _as_float(values: Any) -> Any:
    """Return a float32 array, or a float32 tensor for a tensor (which has `float()`, as an array has not)."""
    return values.float() if hasattr(values, "float") else np.asarray(values, np.float32)


@dataclass(frozen=True)
class HuWindow:
    """The HU range that the networks' [-1, 1] stands for."""

    low: float
    high: float

    def to_unit(self, hu: Any) -> Any:
        """Map HU (array or tensor, any shape) to [-1, 1] float32; values outside the window are clipped to it."""
        return (_as_float(hu).clip(self.low, self.high) - self.low) * (2.0 / (self.high - self.low)) - 1.0

    def to_hu(self, unit: Any) -> Any:
        """Map [-1, 1] (array or tensor) to HU float32: the inverse of `to_unit` inside the window, to 0.001 HU."""
        return (_as_float(unit) + 1.0) * ((self.high - self.low) / 2.0) + self.low


WINDOWS = {
    "patient": HuWindow(-1024.0, 3000.0),  # SynthRAD2023's evaluation range
    "predecessor": HuWindow(-1000.0, 1000.0),
}


def robust_mr_range(mr: np.ndarray, body: np.ndarray, path: Path | str = "MR") -> tuple[float, float]:
    """Return the MR values that become -1 and 1: percentiles over the whole volume inside the body mask.

    MR units differ from scan to scan, but not within one: one range per volume keeps neighbouring slices comparable.
    """
    inside = np.asarray(mr)[np.asarray(body, bool)]
    if inside.size == 0:
        raise MrictError(f"{shown(path)}: its body mask is empty; expected tissue brighter than air; check the file")
    low, high = (float(ranks.percentile(inside, np.float64(percent))) for percent in MR_PERCENTILES)
    if not high > low:
        low, high = float(inside.min()), float(inside.max())
    if not high > low:
        raise MrictError(f"{shown(path)}: constant {low:g} inside the body; expected tissue contrast; check the file")
    return low, high


def normalise_mr(mr: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map MR values from [low, high] to [-1, 1] float32, clipped."""
    unit = (np.asarray(mr, np.float32) - np.float32(low)) * np.float32(2.0 / (high - low)) - 1.0
    return np.clip(unit, -1.0, 1.0).astype(np.float32)


def minmax_slice(mr_slice: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """Map one slice to [0, 1] by its own minimum and maximum, as the predecessor did."""
    values = np.asarray(mr_slice, np.float64)
    low = values.min()
    return ((values - low) / (values.max() - low + eps)).astype(np.float32)


def _planes(volume: np.ndarray, *others: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield the planes of volumes of one shape side by side; those of the first lie in one piece each."""
    axis = int(np.argmax(np.abs(volume.strides)))
    yield from zip(*(np.moveaxis(array, axis, 0) for array in (volume, *others)), strict=True)


def _plausible_halves(ct: np.ndarray, low: float, mask: np.ndarray) -> bool:
    """Return True where counting shows that no median of `check_hu` can be amiss: quicker than medians.

    A median cannot lie beyond a level that fewer than half of the values exceed.
    """
    if low > AIR_BELOW_HU or low < MIN_PLAUSIBLE_HU:
        return False
    inside = below = above = bright = 0
    for plane, kept in _planes(ct, mask):
        inside += np.count_nonzero(kept)
        below += np.count_nonzero(kept & (plane < TISSUE_MEDIAN_HU[0]))
        above += np.count_nonzero(kept & (plane > TISSUE_MEDIAN_HU[1]))
        bright += np.count_nonzero(~kept & (plane > OUTSIDE_MAX_HU))
    return 2 * max(below, above) < inside and 2 * bright < ct.size - inside


def check_mr(mr: np.ndarray, path: Path | str) -> None:
    """Raise `MrictError` for an MR that is constant, binary or that looks like a CT in HU."""
    low, high = float(np.min(mr)), float(np.max(mr))
    if low == high:
        raise MrictError(f"{shown(path)}: MR has the constant value {low:g}; expected an image; export it again")
    if not any(np.any((plane > low) & (plane < high)) for (plane,) in _planes(mr)):
        raise MrictError(
            f"{shown(path)}: holds the values {low:g} and {high:g} alone, as a mask does; expected MR intensities; "
            "check that mr and mask are not exchanged"
        )
    if low <= -900 and float(np.percentile(mr, 5)) < -500:
        raise MrictError(
            f"{shown(path)}: values {low:g}…{high:g} look like a CT in HU; expected MR intensities; "
            "check that mr and ct are not exchanged"
        )


def check_hu(ct: np.ndarray, path: Path | str, mask: np.ndarray | None = None) -> None:
    """Raise `MrictError` for a CT that is not in HU.

    Looked for: constant images, 8-bit or unit scaling, stored values still offset by 1024, an MR in the CT's place,
    values below every scanner's padding. With `mask`, also a median inside it that no body part has.
    """
    low, high = float(np.min(ct)), float(np.max(ct))
    expected = "expected HU (air -1000, water 0)"
    name, values = shown(path), f"values {low:g}…{high:g}"
    if low == high:
        raise MrictError(f"{name}: CT has the constant value {low:g}; {expected}; export it again")
    if low >= 0 and high <= 255:
        raise MrictError(f"{name}: {values} look scaled to 8 bits, or are an MR; {expected}; export the CT unwindowed")
    if high - low <= 10:
        raise MrictError(f"{name}: {values} look normalised; {expected}; export the CT in HU")
    if mask is not None and _plausible_halves(ct, low, mask):
        return
    tissue = float(np.median(ct[mask])) if mask is not None and np.any(mask) else None
    if low > AIR_BELOW_HU:
        offset = tissue is not None and abs(tissue - 1024) < 300
        cause = "offset by 1024: subtract 1024" if offset else "stored values offset by 1024 (subtract 1024), or an MR"
        raise MrictError(f"{name}: {values} hold no air, {cause}; {expected}; apply the rescale intercept")
    if low < MIN_PLAUSIBLE_HU:
        raise MrictError(f"{name}: {values} reach below {MIN_PLAUSIBLE_HU}; {expected}; check slope and intercept")
    if tissue is not None and not TISSUE_MEDIAN_HU[0] <= tissue <= TISSUE_MEDIAN_HU[1]:
        raise MrictError(
            f"{name}: median inside the mask is {tissue:g}; {expected}; check slope and intercept, and that mask fits"
        )
    around = float(np.median(ct[~mask])) if mask is not None and not np.all(mask) else low
    if around > OUTSIDE_MAX_HU:
        raise MrictError(
            f"{name}: median outside the mask is {around:g}; {expected}; check the sign, and that mask fits"
        )

"""Is this a synthetic CT in HU? What a score must not be taken of, and what must be said beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mrict_core.errors import MrictError
from mrict_core.paths import shown

OFFSET_HU = 1024.0  # between stored values and HU
OFFSET_TOLERANCE_HU = 150.0
OFFSET_GAIN = 0.5  # taking the offset away must at least halve the error
EIGHT_BIT = (0.0, 255.0)
UNIT_WIDTH = 2.5  # [-1, 1] or [0, 1], with some overshoot
AIR_BELOW_HU = -900.0
MIN_MASK_VOXELS = 1000  # fewer give no number that means something
CONSTANT_SD_HU = 1.0


def check_sct(sct: np.ndarray, ct: np.ndarray, mask: np.ndarray, path: Path | str) -> None:
    """Raise `MrictError` for an sCT that is not in HU: stored values, 8-bit or unit scaling.

    All volumes have one shape, `ct` is in HU. A model may be as bad as it likes: only what a file's scaling explains is
    refused. An offset by 1024 is one that, taken away, at least halves the error inside the mask.
    """
    real, fake = (np.asarray(volume, np.float32)[mask > 0] for volume in (ct, sct))
    low, high = float(np.min(sct)), float(np.max(sct))
    name, values = shown(path), f"values {low:g}…{high:g}"
    expected = "expected HU (air -1000, water 0)"
    if low != high and high - low <= UNIT_WIDTH:
        raise MrictError(f"{name}: {values} look normalised; {expected}; map the network's output back to HU")
    if low != high and low >= EIGHT_BIT[0] and high <= EIGHT_BIT[1]:
        raise MrictError(f"{name}: {values} look scaled to 8 bits; {expected}; save the sCT unwindowed, in HU")
    if low == high:
        return
    offset = float(np.median(fake - real))
    if abs(abs(offset) - OFFSET_HU) > OFFSET_TOLERANCE_HU:
        return
    sign = 1.0 if offset > 0 else -1.0
    before, after = (float(np.abs(fake - sign * shift - real).mean()) for shift in (0.0, OFFSET_HU))
    if after < OFFSET_GAIN * before and fake.std() > CONSTANT_SD_HU:
        side, remedy = ("above", "subtracting") if sign > 0 else ("below", "adding")
        raise MrictError(
            f"{name}: {abs(offset):.0f} HU {side} the CT at the median, and {remedy} 1024 takes the error from "
            f"{before:.0f} to {after:.0f} HU: stored values; {expected}; apply the rescale intercept"
        )


def sct_remarks(sct: np.ndarray, mask: np.ndarray) -> list[str]:
    """Return what must stand beside the scores of an sCT in HU: plausible of a collapsed model, but worth a look."""
    fake = np.asarray(sct, np.float32)[mask > 0]
    remarks = []
    if fake.std() < CONSTANT_SD_HU:
        remarks.append(f"sCT is constant inside the mask ({float(fake.mean()):.0f} HU)")
    elif fake.max() < AIR_BELOW_HU:
        remarks.append(f"sCT is all air inside the mask (at most {float(fake.max()):.0f} HU)")
    return remarks

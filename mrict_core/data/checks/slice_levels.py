"""Slices of a CT that differ from their neighbours: a lost offset, a constant, air instead of the body."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mrict_core.data.checks.hu_values import ALL_AIR_HU, SURE_AIR_HU
from mrict_core.data.images.orders import SliceOrder
from mrict_core.errors import MrictError
from mrict_core.paths import shown

MIN_SLICES, MIN_SIDE = 5, 8  # fewer or narrower is not a stack of slices
MIN_VOXELS, MIN_SHARE = 30, 0.2  # of the mask in a slice; relative to its largest slice, as the ends of a body vary
SLICE_SAMPLE = 4000
FLOOR_SAMPLE = 200_000
SIDE = 2  # neighbours on either side
# Wide enough that `python -m benchmarks --only checks` reports no sound slice. In a thick slice at the top of the skull
# the median is bone, but the 10th percentile is not: both must move.
OFFSET_HU, OFFSET_DIFFERENCE = 100.0, 0.3  # air and tissue of a slice shifted alike
SURE_HU = 700.0  # more than any anatomy shifts a median between neighbours
LEVEL_HU, SPREAD_RATIO, AIR_SHARE = 300.0, 4.0, 0.3
ALL_AIR = 0.9
NO_AIR_SHARE = 0.005  # of a whole slice, surroundings included
LOWEST_HU = -2200.0  # air with the intercept applied twice; below is padding
NO_AIR_HU = -300.0  # the darkest part of a slice without air is fat
NAMED = 12  # slices listed in a message


def check_slices(ct: np.ndarray, mask: np.ndarray, affine: np.ndarray, path: Path | str) -> list[str]:
    """Return a line for every kind of odd slice of a CT (nx, ny, nz) in HU inside its mask; numbers count from 0.

    Checks the file's last axis and the patient's axial slices. Raises `MrictError` for slices about 1000 HU off.
    """
    found = []
    for axis in sorted({SliceOrder.axial(affine).axes[0], 2}):
        if ct.shape[axis] >= MIN_SLICES and min(np.delete(ct.shape, axis)) >= MIN_SIDE:
            found += _odd_slices(np.moveaxis(ct, axis, 0), np.moveaxis(mask, axis, 0), f"axis {axis}", path)
    return found


def _odd_slices(ct: np.ndarray, mask: np.ndarray, axis: str, path: Path | str) -> list[str]:
    counts = np.array([np.count_nonzero(kept) for kept in mask])
    used = counts >= max(MIN_VOXELS, MIN_SHARE * counts.max(initial=0))
    lows, levels, highs, air, floor, around = np.array(
        [_levels(image, kept) if ok else (np.nan,) * 6 for image, kept, ok in zip(ct, mask, used, strict=True)]
    ).T
    outside = ct[~mask]
    if outside.size and np.percentile(outside[:: outside.size // FLOOR_SAMPLE + 1], 10) > NO_AIR_HU:
        floor[:] = np.nan  # a background of 0, or tissue all around: the darkest part is not air
    spreads = highs - lows
    constant = spreads == 0
    if constant[used].all():
        return []  # a constant image, reported elsewhere

    def line(odd: np.ndarray, what: str) -> str:
        numbers = np.flatnonzero(odd)
        listed = ", ".join(map(str, numbers[:NAMED])) + ", …" * (numbers.size > NAMED)
        return f"slices {listed} ({numbers.size} of {len(odd)}, {axis}, counted from 0) {what}"

    lines = []
    if constant.any():
        values = ", ".join(f"{v:g}" for v in np.unique(levels[constant])[:3])
        lines.append(line(constant, f"are constant inside the mask ({values} HU)"))
    left = used & ~constant
    full = left & (air >= ALL_AIR)
    all_air = full & (air - _beside(air, left & ~full) > AIR_SHARE)
    if all_air.any():
        lines.append(line(all_air, "are all air inside the mask"))
    left &= ~all_air
    beside = _beside(around, left & (around > NO_AIR_SHARE))
    airless = (around <= NO_AIR_SHARE) & (beside > AIR_SHARE)
    usual = float(np.nanpercentile(floor[left], 25)) if np.isfinite(floor[left]).any() else np.nan
    moved = _moved(levels, floor - usual, left)
    steps = np.array([values - _beside(values, left & ~moved) for values in (lows, levels, highs)])
    step = np.where(np.ptp(np.sign(steps), axis=0) == 0, steps[1], 0) * (np.abs(steps).min(axis=0) > LEVEL_HU)
    lifted = left & (step != 0) & _apart(levels, left & ~moved, LEVEL_HU)  # all of the slice, not its share of bone
    sure = (moved & (np.abs(steps[1]) > SURE_HU)) | (lifted & (np.abs(steps).min(axis=0) > SURE_HU))
    if sure.any():
        raise MrictError(
            f"{shown(path)}: "
            + line(sure, f"are {np.median(steps[1][sure]):+.0f} HU from their neighbours inside the mask")
            + ": a rescale intercept lost slice by slice; expected HU in every slice; export the CT again"
        )
    between = (usual < ALL_AIR_HU) & (floor > usual + OFFSET_HU) & (floor < NO_AIR_HU)
    scaled = left & ~moved & (between | (floor < usual - OFFSET_HU))
    kinds = (
        (
            scaled,
            lambda odd: f"have air at {np.median(floor[odd]):.0f}, the others at {usual:.0f} HU",
        ),
        (moved, lambda odd: f"are {np.median(steps[1][odd]):+.0f} HU from their neighbours, air and tissue alike"),
        (lifted, lambda odd: f"are {np.median(steps[1][odd]):+.0f} HU from their neighbours"),
        (
            _apart(np.log(spreads + 1), left, np.log(SPREAD_RATIO)),
            lambda odd: "vary more or less than their neighbours",
        ),
        (airless, lambda odd: f"hold no air at all, their neighbours {np.median(beside[odd]):.0%}"),
        (_apart(air, left, AIR_SHARE), lambda odd: "have another share of air inside the mask than their neighbours"),
    )
    for odd, what in kinds:
        if (odd & left).any():
            lines.append(line(odd & left, what(odd & left)))
            left &= ~odd
    return lines


def _levels(image: np.ndarray, kept: np.ndarray) -> tuple[float, ...]:
    """Percentiles 10, 50, 90 and the share of air inside the mask, the darkest level and share of air overall."""
    inside, everywhere = (values[:: values.size // SLICE_SAMPLE + 1] for values in (image[kept], image.ravel()))
    low, median, high = np.percentile(inside, (10, 50, 90))
    if low == high:  # a few other values beside a constant
        low, high = inside.min(), inside.max()
    scanned = everywhere[everywhere >= LOWEST_HU]
    floor = np.percentile(scanned, 2) if scanned.size else np.nan
    shares = (np.mean(values < SURE_AIR_HU) if values.size else np.nan for values in (inside, scanned))
    air, around = map(float, shares)
    return float(low), float(median), float(high), air, float(floor), around


def _neighbours(k: int, use: np.ndarray) -> tuple[Sequence[int], Sequence[int]]:
    """Return up to `SIDE` usable slices before and after slice k."""
    places = np.flatnonzero(use)
    return places[places < k][-SIDE:], places[places > k][:SIDE]


def _beside(values: np.ndarray, use: np.ndarray) -> np.ndarray:
    """Return, for every slice, the median of its nearest usable neighbours."""
    sides = [np.concatenate(_neighbours(k, use)) for k in range(len(values))]
    return np.array([np.median(values[side]) if side.size else np.nan for side in sides])


def _apart(values: np.ndarray, use: np.ndarray, by: float) -> np.ndarray:
    """Return which slices differ by more than `by` from the range of their neighbours on both sides."""
    odd = np.zeros(len(values), bool)
    for k in np.flatnonzero(use):
        before, after = _neighbours(k, use)
        if len(before) and len(after):
            near = values[np.concatenate((before, after))]
            odd[k] = values[k] > near.max() + by or values[k] < near.min() - by
    return odd


def _moved(levels: np.ndarray, step: np.ndarray, use: np.ndarray) -> np.ndarray:
    """Return which slices have their tissue shifted as much as their air, which is `step` from the usual level.

    Air has one level in all slices of a sound CT; in a slice without air the darkest part is tissue and shifts alone.
    """
    away = use & (np.abs(step) > OFFSET_HU)
    tissue = levels - _beside(levels, use & ~away)
    near = np.abs(tissue - step) <= np.maximum(OFFSET_HU, OFFSET_DIFFERENCE * np.abs(step))
    return away & near & (np.abs(tissue) > OFFSET_HU / 2)

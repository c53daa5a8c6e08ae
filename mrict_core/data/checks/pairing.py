"""Is a CT aligned with its MR? Mutual information over small shifts, flips and slice orders; air in the body."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from skimage.measure import block_reduce

from mrict_core.hu import AIR_BELOW_HU, PAIRING

COARSE_MM = 3.5  # voxels are averaged to about this size
REACH_VOXELS = 6  # of that size
BINS = 24
MARGIN = 1.1  # gain in mutual information by another pose; docs/quality.md shows how sound pairs vary
SURE_AIR_BELOW_HU = -500.0  # partly air at most
Pose = Callable[[np.ndarray], np.ndarray]


def check_pair(mr: np.ndarray, ct: np.ndarray, spacing_mm: Sequence[float]) -> list[str]:
    """Return a line if the CT (nx, ny, nz) fits its MR clearly better moved, mirrored or reordered.

    `spacing_mm`: of the file axes. Rotations, and shifts below about half of `COARSE_MM`, are not tested.
    """
    factors = [max(1, min(n, round(COARSE_MM / s))) for n, s in zip(mr.shape, spacing_mm, strict=True)]
    flat = (factors[0], factors[1], 1)  # slice orders need every slice
    orders = _orders(mr.shape[2]) if min(mr.shape) > 1 else ()
    steps_mm = np.multiply(factors, spacing_mm)
    ct = PAIRING.clip(ct)
    found: list[tuple[float, str]] = []
    for blocks, poses in ((tuple(factors), _moves(mr.shape, factors, steps_mm)), (flat, orders)):
        fixed, moving = _binned(block_reduce(mr, blocks, np.mean)), _binned(block_reduce(ct, blocks, np.mean))
        here = _information(fixed, moving)
        found += [(_information(fixed, pose(moving)) / max(here, 1e-9), name) for name, pose in poses]
    gain, name = max(found, default=(0.0, ""))
    if gain < MARGIN:
        return []
    return [f"fits its MR better {name} ({gain - 1:.0%} more mutual information): check that they belong together"]


def _binned(volume: np.ndarray) -> np.ndarray:
    """Return a volume in `BINS` equal steps from its minimum to its 99th percentile."""
    low, high = float(volume.min()), float(np.percentile(volume, 99))
    return ((volume - low) * (BINS / max(high - low, 1e-9))).clip(0, BINS - 1).astype(np.intp)


def _information(fixed: np.ndarray, moving: np.ndarray) -> float:
    both = np.bincount((fixed * BINS + moving).ravel(), minlength=BINS**2).reshape(BINS, BINS) / fixed.size
    apart = both.sum(1, keepdims=True) * both.sum(0, keepdims=True)
    seen = both > 0
    return float((both[seen] * np.log(both[seen] / apart[seen])).sum())


def _moves(shape: Sequence[int], factors: Sequence[int], steps_mm: np.ndarray) -> Iterator[tuple[str, Pose]]:
    """Yield shifts and flips along the axes that have enough voxels."""
    for axis in range(3):
        reach = min(REACH_VOXELS, shape[axis] // factors[axis] // 4)
        if reach < 2:
            continue
        for by in (*range(-reach, 0), *range(1, reach + 1)):
            name = f"moved by about {by * steps_mm[axis]:+.0f} mm along axis {axis}"
            yield name, lambda volume, by=by, axis=axis: _shifted(volume, by, axis)
        yield f"mirrored along axis {axis}", lambda volume, axis=axis: np.flip(volume, axis)


def _shifted(volume: np.ndarray, by: int, axis: int) -> np.ndarray:
    """Return a binned volume moved by whole voxels; the lowest bin, air, moves in."""
    moved = np.roll(volume, by, axis)
    np.moveaxis(moved, axis, 0)[slice(None, by) if by > 0 else slice(by, None)] = 0
    return moved


def _orders(count: int) -> Iterator[tuple[str, Pose]]:
    """Yield the permutations that undo interleaved slices along the last axis."""
    for first in (0, 1):
        order = np.concatenate((np.arange(first, count, 2), np.arange(1 - first, count, 2)))
        for name, places in (("every other slice first", order), ("interleaved", np.argsort(order))):
            if count > 2 * REACH_VOXELS:
                yield f"with its slices {name}", lambda volume, places=places: volume[:, :, places]


def overlap(ct: np.ndarray, mask: np.ndarray, body: np.ndarray) -> tuple[float, float]:
    """Return the share of the MR's body that is air on the CT, and of the CT's tissue outside that body, in `mask`."""
    inside, seen = np.asarray(mask) > 0, np.asarray(body) > 0
    common, tissue = inside & seen, inside & (ct > AIR_BELOW_HU)
    air = np.count_nonzero(common & (ct < SURE_AIR_BELOW_HU)) / max(1, np.count_nonzero(common))
    return air, np.count_nonzero(tissue & ~seen) / max(1, np.count_nonzero(tissue))

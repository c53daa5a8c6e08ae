"""Order statistics of large arrays: exactly what `np.median` and `np.percentile` give, without moving the whole array.

A sorted sample brackets the value looked for; one pass counts what lies below the bracket and takes out what lies in
it, a few per cent of the array (Floyd and Rivest, Commun ACM 18:165, 1975). A bracket that missed is widened to all.
"""

from __future__ import annotations

import math

import numpy as np

SAMPLE = 1 << 14
MARGIN = 256  # places in the sample: four standard deviations of a rank's place, at most
BLOCK = 1 << 16  # values; small enough for the cache
WHOLE_BELOW = 1 << 17  # values; fewer are partitioned as they are


def ordered(values: np.ndarray, first: int, last: int) -> tuple[np.generic, np.generic]:
    """Return the values at places `first` and `last` (the same or the next) of sorted `values` (n,); none is NaN."""
    if values.size < WHOLE_BELOW:
        found = np.partition(values, (first, last))
        return found[first], found[last]
    sample = np.sort(values[:: values.size // SAMPLE])
    place = first * sample.size // values.size
    low = sample[max(place - MARGIN, 0)]
    high = sample[min(place + MARGIN, sample.size - 1)]
    if place < MARGIN:
        low = values.min()
    if place + MARGIN >= sample.size:
        high = values.max()
    below, found = 0, []
    for start in range(0, values.size, BLOCK):
        block = values[start : start + BLOCK]
        under = block < low
        below += int(np.count_nonzero(under))
        found.append(block[(block <= high) ^ under])  # low <= high: what is under one is under both
    inside = np.concatenate(found)
    if not below <= first <= last < below + inside.size:
        below, inside = 0, values.copy()
    inside.partition((first - below, last - below))
    return inside[first - below], inside[last - below]


def median_between(values: np.ndarray, start: int, stop: int) -> float:
    """Return `np.median` of the sorted values' places `start` to `stop` (exclusive), NaN where there are none."""
    count = stop - start
    if not count:
        return math.nan
    middle = ordered(values, start + (count - 1) // 2, start + count // 2)
    return float(np.mean(np.array(middle[1:] if count % 2 else middle)))


def median(values: np.ndarray) -> float:
    """Return `np.median(values)` of (n,) values without NaN."""
    return median_between(values, 0, values.size)


def percentile(values: np.ndarray, percent: float, count: int | None = None) -> np.generic:
    """Return `np.percentile` of the `count` smallest (None: of all) of (n,) float values without NaN.

    It is numpy's linear interpolation, in the type of the values; `percent` as `np.float64` gives a float64, as numpy
    does for a sequence of percentages.
    """
    count = values.size if count is None else count
    place = (count - 1) * (percent / 100)
    first = min(math.floor(place), count - 1)
    low, high = ordered(values, first, min(first + 1, count - 1))
    weight = place - first
    step = high - low
    return high - step * (1 - weight) if weight >= 0.5 else low + step * weight

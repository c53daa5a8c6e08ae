"""ITK's Otsu threshold of a volume: from counts where the voxels are whole numbers, else by ITK itself.

ITK searches the bin of every voxel. A volume of whole numbers has few distinct ones, and the same 128 bins are filled
from their counts.
"""

from __future__ import annotations

import numpy as np

BINS = 128
MARGIN = 100  # ITK widens the histogram at its upper end by this part of a bin
NEAR = 1e-9  # variances nearer than this, relative: which is the larger is left to ITK
AT_EDGE = 2e-7  # of the range: a voxel nearer to a bin's edge than this, some steps of float32, is left to ITK
SPAN_MAX = 1 << 16  # distinct whole numbers that are worth counting


def whole_counts(volume: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return (values, counts) of a volume of whole numbers in ascending order, None for any other volume."""
    low, high = float(volume.min()), float(volume.max())
    if high - low >= SPAN_MAX or low < -(2**24) or high > 2**24:
        return None
    counts = np.zeros(int(high) - int(low) + 1, np.int64)
    for plane in np.moveaxis(volume, int(np.argmax(volume.strides)), 0):
        places = plane.astype(np.int64)
        if not np.array_equal(places, plane):
            return None
        places -= int(low)
        counts += np.bincount(places.ravel(order="K"), minlength=counts.size)
    values = np.flatnonzero(counts)
    return values + int(low), counts[values]


def itk_level(values: np.ndarray, counts: np.ndarray) -> float | None:
    """Return ITK's threshold of so many of each value, None where rounding could decide it."""
    low, high = float(values[0]), float(values[-1])
    high += (high - low) / BINS / MARGIN
    width = np.float32(np.float64(np.float32(high - low)) / BINS)  # ITK's `Histogram::Initialize` steps in float32
    edges = low + (np.arange(BINS + 1, dtype=np.float32) * width).astype(np.float64)
    edges[-1] = high
    places = np.searchsorted(edges[:-1], values, "right") - 1
    gap = np.minimum(np.abs(values - edges[places + 1]), np.where(places, values - edges[places], np.inf))
    if gap.min() < AT_EDGE * (high - low):
        return None
    frequency = np.bincount(places, counts, BINS)
    lower = np.cumsum(frequency)[:-1]
    moments = frequency * (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(moments)[:-1]
    upper, above = counts.sum() - lower, moments.sum() - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (below / lower - above / upper) ** 2 * lower * upper
    between = np.nan_to_num(between, nan=-1.0)
    best = int(np.argmax(between))
    rivals = between >= between[best] * (1 - NEAR)
    rivals &= lower != lower[best]  # an empty bin changes nothing: the first of equal ones is ITK's choice
    return None if rivals.any() else float(edges[best + 1])


def foreground(volume: np.ndarray) -> np.ndarray:
    """Return where a volume (any order of axes, finite) lies above ITK's Otsu threshold with 128 bins, as bool."""
    counted = whole_counts(volume)
    level = itk_level(*counted) if counted and counted[0].size > 1 else None
    return by_itk(volume) if level is None else volume > np.float64(level)


def by_itk(volume: np.ndarray) -> np.ndarray:
    """Return the same from `SimpleITK.OtsuThreshold`, voxels in float64 as the predecessor had them."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.asarray(volume, np.float64).T)
    return sitk.GetArrayFromImage(sitk.OtsuThreshold(image, 0, 1, BINS)).T > 0

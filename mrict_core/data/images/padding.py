"""Padding, voxels outside the scanned image: set to background as dark as the neighbouring air."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from mrict_core.errors import MrictError
from mrict_core.paths import shown

BESIDE = 2  # voxels
DARK = 0.15  # of the step from the darkest to the bright (their percentile): below it is air


def background_beside(array: np.ndarray, padded: np.ndarray) -> float:
    """Return the value for padding: the median of the neighbouring voxels if they are dark, else 0 or the minimum.

    With the minimum, noisy MR air would look too dark, and the body mask would become a little larger.
    """
    kept = array[~padded]
    beside = array[ndimage.binary_dilation(padded, iterations=BESIDE) & ~padded]
    lowest, bright, level = float(kept.min()), float(np.percentile(kept, 95)), float(np.median(beside))
    return level if level - lowest < DARK * (bright - lowest) else min(lowest, 0.0)


def fill_nan(array: np.ndarray, path: Path, keep: bool = False) -> tuple[str, ...]:
    """Set NaN that reaches the border of the volume to background (`keep`: leave it), and return a note.

    Infinite voxels, and NaN inside the image, raise MrictError.
    """
    parts, _ = ndimage.label(np.isnan(array))
    faces = [np.take(parts, end, axis).ravel() for axis in range(3) for end in (0, -1)]
    outside = np.isin(parts, np.setdiff1d(np.concatenate(faces), 0))
    bad = int(np.count_nonzero(~np.isfinite(array) & ~outside))
    if bad or outside.all():
        raise MrictError(
            f"{shown(path)}: {bad or array.size} voxels are NaN or infinite; expected numbers; export it again"
        )
    if keep:
        return ()
    array[outside] = level = background_beside(array, outside)
    return (f"{np.count_nonzero(outside)} voxels on its border are NaN: taken as background ({level:g})",)

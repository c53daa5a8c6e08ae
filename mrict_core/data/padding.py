"""Padding: what a file holds where there was no image. It becomes background, and a remark says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from mrict_core.errors import MrictError
from mrict_core.paths import shown

if TYPE_CHECKING:
    from mrict_core.data.volumes import Volume

HIGHEST_PADDING = -100  # of an MR: nothing measured lies so far below 0 alone
NEAR_ZERO = 1 / 20  # of the padding: the rest of the image begins above it
STRAY = 5  # per cent of the rest that may lie below: edges blended with the padding by a resampling


def fill_nan(array: np.ndarray, path: Path) -> tuple[str, ...]:
    """Set NaN that reaches the border of the volume to its least value, in place, and return a remark.

    Infinite voxels, and NaN inside the image, raise MrictError.
    """
    nan = np.isnan(array)
    parts, _ = ndimage.label(nan)
    outer = np.unique(np.concatenate([face.ravel() for face in _faces(parts)]))
    outside = nan & np.isin(parts, outer)
    inside = int(np.count_nonzero(~np.isfinite(array) & ~outside))
    if inside or outside.all():
        count = inside or array.size
        raise MrictError(f"{shown(path)}: {count} voxels are NaN or infinite; expected numbers; export it again")
    lowest = float(array[~outside].min())
    array[outside] = lowest
    return (f"{np.count_nonzero(outside)} voxels on its border are NaN: taken as background ({lowest:g})",)


def without_padding(mr: Volume) -> Volume:
    """Return an MR whose padding (-1000, -1024, -2000, -32768 … on its border) is background, with a remark.

    Padding is a whole number far below all the rest, which begins near 0 or above; edges blended with it go with it.
    """
    lowest = float(mr.array.min())
    if lowest > HIGHEST_PADDING or lowest != round(lowest) or not any((f == lowest).any() for f in _faces(mr.array)):
        return mr
    rest, level = mr.array[mr.array > lowest], lowest * NEAR_ZERO
    if not rest.size or (typical := float(np.percentile(rest, STRAY))) < level:
        return mr
    background = float(rest[rest >= min(0.0, typical)].min())
    padded = mr.array < min(background, level)
    remark = (
        f"{np.count_nonzero(padded)} voxels of {lowest:g} or near it are padding: taken as background ({background:g})"
    )
    return replace(mr, array=np.where(padded, np.float32(background), mr.array), remarks=(*mr.remarks, remark))


def _faces(array: np.ndarray) -> list[np.ndarray]:
    return [np.take(array, end, axis) for axis in range(3) for end in (0, -1)]

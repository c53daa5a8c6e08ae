"""Binary masks of stacks (N, rows, cols): opening and closing with a disk, holes, components.

Eight slices at a time are the eight bits of one byte image, and a disk is a row of growing runs: a closing is some
hundred ORs of shifted images, whatever the number of slices that lie on one another.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy import ndimage

BITS = 8
OUTSIDE = 2  # the flood's colour; 0 and 1 are the mask's


def disk_runs(reach: tuple[int, int]) -> list[int]:
    """Return the half-width in columns of each row of OpenCV's elliptic element that reaches `reach` rows, columns."""
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach[1] + 1, 2 * reach[0] + 1))
    return [(int(count) - 1) // 2 for count in disk.sum(axis=1)]


def _dilate(image: np.ndarray, runs: list[int]) -> np.ndarray:
    """Return the dilation (R, C) of a bit image (R + 2 rows, C + 2 columns) that brings its surroundings along."""
    up, aside = len(runs) // 2, max(runs)
    rows, cols = image.shape[0] - 2 * up, image.shape[1] - 2 * aside
    out = np.zeros((rows, cols), np.uint8)
    run = image[:, aside : aside + cols].copy()
    for width in range(aside + 1):
        if width:
            run |= image[:, aside - width : aside - width + cols]
            run |= image[:, aside + width : aside + width + cols]
        for down, half in enumerate(runs):
            if half == width:
                out |= run[down : down + rows]
    return out


def _erode(image: np.ndarray, runs: list[int]) -> np.ndarray:
    return ~_dilate(~image, runs)


def _bits(slices: np.ndarray) -> np.ndarray:
    """Return up to eight slices (n, rows, cols) of bool as the bits of one image."""
    image = np.zeros(slices.shape[1:], np.uint8)
    for bit, mask in enumerate(slices):
        image |= mask.view(np.uint8) << np.uint8(bit)
    return image


def _by_bits(stack: np.ndarray, reach: tuple[int, int], closing: bool) -> np.ndarray:
    runs, out = disk_runs(reach), np.empty(stack.shape, bool)
    margin = [(len(runs) // 2,) * 2, (max(runs),) * 2]
    for start in range(0, len(stack), BITS):
        image = np.pad(_bits(stack[start : start + BITS]), margin)
        if closing:
            image = _erode(_dilate(np.pad(image, margin), runs), runs)
        else:
            image = _dilate(np.pad(_erode(image, runs), margin), runs)
        for bit, mask in enumerate(out[start : start + BITS]):
            np.not_equal(image & np.uint8(1 << bit), 0, out=mask)
    return out


def opened(stack: np.ndarray, reach: tuple[int, int]) -> np.ndarray:
    """Open every slice of a bool stack with a disk that reaches `reach` (rows, columns); outside lies nothing."""
    return _by_bits(stack, reach, closing=False)


def closed(stack: np.ndarray, reach: tuple[int, int]) -> np.ndarray:
    """Close every slice of a bool stack with a disk that reaches `reach` (rows, columns); outside lies nothing."""
    return _by_bits(stack, reach, closing=True)


def filled(stack: np.ndarray) -> np.ndarray:
    """Fill what no path of edge neighbours within its slice leads out of.

    No cavity is left in three dimensions either: one that is closed there is closed in each of its slices.
    """
    rows, cols = stack.shape[1:]
    out, canvas = np.empty(stack.shape, bool), np.zeros((rows + 2, cols + 2), np.uint8)
    for mask, result in zip(stack, out, strict=True):
        canvas[...] = 0
        canvas[1:-1, 1:-1] = mask
        cv2.floodFill(canvas, None, (0, 0), OUTSIDE, flags=4)
        np.not_equal(canvas[1:-1, 1:-1], OUTSIDE, out=result)
    return out


def box_of(stack: np.ndarray) -> tuple[slice, slice, slice]:
    """Return the smallest box that holds every voxel of a mask; the whole of an empty one."""
    box = []
    for axis, length in enumerate(stack.shape):
        used = np.flatnonzero(stack.any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(int(used[0]), int(used[-1]) + 1) if used.size else slice(0, length))
    return tuple(box)


def largest(stack: np.ndarray) -> np.ndarray:
    """Return the largest component (face neighbours); of equal ones the first by row, column, then slice."""
    box = box_of(stack)
    labels, count = ndimage.label(stack[box])
    if count < 2:
        return stack
    sizes = np.bincount(labels.ravel())[1:]
    best = 1 + np.flatnonzero(sizes == sizes.max())
    if best.size > 1:
        by_row = np.moveaxis(labels, 0, 2)
        best = by_row.ravel()[[int(np.argmax(np.isin(by_row, best)))]]
    out = np.zeros(stack.shape, bool)
    np.equal(labels, best[0], out=out[box])
    return out

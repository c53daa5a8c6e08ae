"""Crop and pad slices to a square canvas at native spacing, and exactly back. Slices are never resampled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from mrict_core.data.images.orders import SliceOrder
from mrict_core.errors import MrictError
from mrict_core.hu import AIR_FLOOR_HU


@dataclass(frozen=True)
class CropPad:
    """A canvas on a slice: canvas pixel (r, c) is slice pixel (r + top, c + left); negative offsets pad."""

    size: int
    rows: int  # of the slice
    cols: int
    top: int
    left: int

    def _overlap(self) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Return (index on the slice, index on the canvas) of the pixels they share."""
        on_slice, on_canvas = [], []
        for start, length in ((self.top, self.rows), (self.left, self.cols)):
            first, last = max(start, 0), min(start + self.size, length)
            last = max(first, last)
            on_slice.append(slice(first, last))
            on_canvas.append(slice(first - start, last - start))
        return tuple(on_slice), tuple(on_canvas)

    def apply(self, stack: np.ndarray, fill: float) -> np.ndarray:
        """Map slices (N, rows, cols) to canvases (N, size, size) of the same type; `fill` outside the slice."""
        if stack.shape[1:] != (self.rows, self.cols):
            raise MrictError(f"slices of shape {stack.shape[1:]}, expected {(self.rows, self.cols)}")
        canvas = np.full((len(stack), self.size, self.size), fill, stack.dtype)
        source, target = self._overlap()
        canvas[:, target[0], target[1]] = stack[:, source[0], source[1]]
        return canvas

    def collect(self, slices: Iterable[np.ndarray], count: int, fill: float, dtype: Any) -> np.ndarray:
        """Return `count` canvases (N, size, size) of `dtype` from single slices: `apply` without their stack."""
        canvas = np.full((count, self.size, self.size), fill, dtype)
        source, target = self._overlap()
        for image, place in zip(slices, canvas, strict=True):
            across = image.strides[0] < image.strides[1]
            place[target] = cv2.transpose(image.T)[source] if across else image[source]
        return canvas

    def invert(self, canvas: np.ndarray, fill: float) -> np.ndarray:
        """Map canvases (N, size, size) back to slices (N, rows, cols); `fill` in what was cropped."""
        if canvas.shape[1:] != (self.size, self.size):
            raise MrictError(f"canvases of shape {canvas.shape[1:]}, expected {(self.size, self.size)}")
        stack = np.full((len(canvas), self.rows, self.cols), fill, canvas.dtype)
        target, source = self._overlap()
        stack[:, target[0], target[1]] = canvas[:, source[0], source[1]]
        return stack


def predecessor_crop(rows: int, cols: int, size: int) -> CropPad:
    """Return the predecessor's centred canvas.

    For odd differences, a crop removes and padding adds the extra row at the top and the extra column on the right.
    """
    up = -(-abs(rows - size) // 2)
    aside = abs(cols - size) // 2
    return CropPad(size, rows, cols, top=up if rows > size else -up, left=aside if cols > size else -aside)


def centred_crop(body: np.ndarray, size: int) -> CropPad:
    """Return the canvas centred on the bounding box of `body` (N, rows, cols) over all slices.

    One canvas per volume keeps slices aligned; an empty mask centres on the slice.
    """
    top, left = ((first + last - size) // 2 for first, last in _bounds(body))
    return CropPad(size, *body.shape[1:], top, left)


def _bounds(mask: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield (first, last + 1) of the used rows, then columns; all of them for an empty mask."""
    for axis in (1, 2):
        used = np.flatnonzero(mask.any(axis=(0, 3 - axis)))
        yield (int(used[0]), int(used[-1]) + 1) if used.size else (0, mask.shape[axis])


def whole_crop(body: np.ndarray, held: np.ndarray, size: int) -> CropPad:
    """Return `centred_crop(body, size)`, enlarged if it would crop a pixel of `held`."""
    crop = centred_crop(body, size)
    (first, last), (left, right) = _bounds(held)
    reach = max(0, crop.top - first, last - crop.top - size, crop.left - left, right - crop.left - size)
    return centred_crop(body, size + 2 * reach)


def restore_volume(
    hu_slices: np.ndarray, z: np.ndarray, shape: tuple[int, int, int], order: SliceOrder, crop: CropPad
) -> np.ndarray:
    """Return HU canvases (N, S, S) at slices `z` on the grid of their file, `shape`; air elsewhere."""
    if len(hu_slices) != len(z):
        raise MrictError(f"{len(hu_slices)} slices, expected {len(z)}")
    stack = np.full((shape[order.axes[0]], crop.rows, crop.cols), AIR_FLOOR_HU, hu_slices.dtype)
    stack[z] = crop.invert(hu_slices, AIR_FLOOR_HU)
    return np.ascontiguousarray(order.to_array(stack))

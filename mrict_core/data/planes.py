"""Coronal and sagittal slices of a patient whose axial slices are in the dataset cache."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

TURNS = {"coronal": (1, 0, 2), "sagittal": (2, 0, 1)}  # axes of an axial stack (S, P, L) that become slices, rows, cols
FULL_MM = 60.0  # shorter sides show too little: at 20 mm twice the error, see docs/synthesis.md


def full_planes(planes: Iterable[str], sides_mm: Sequence[float]) -> list[str]:
    """Return the planes whose slices have no side below `FULL_MM`; all of them if every plane has.

    sides_mm: of the axial stack, along its slices, rows and columns.
    """
    slices, rows, cols = sides_mm
    shortest = {"axial": min(rows, cols), "coronal": min(slices, cols), "sagittal": min(slices, rows)}
    return [plane for plane in planes if shortest[plane] >= FULL_MM] or list(planes)


@dataclass(frozen=True)
class Cut:
    """Slices of one plane through a stack of axial slices, on a canvas of square pixels.

    The orientation is that of `orders.PLANES`: the head is up. Rows, which run along the axial slices' normal, are
    resampled to the size of the columns' pixels and centred on the canvas.
    """

    plane: str  # "coronal" | "sagittal"
    count: int  # axial slices
    spacing_mm: tuple[float, float, float]  # of axial slices, rows and columns

    @property
    def pixel_mm(self) -> float:
        """Side of the square pixels."""
        return self.spacing_mm[TURNS[self.plane][2]]

    @property
    def rows(self) -> int:
        """Rows of the slices after resampling."""
        return max(1, round(self.count * self.spacing_mm[0] / self.pixel_mm))

    def stack(self, axial: np.ndarray) -> np.ndarray:
        """Return a view of axial slices as slices of the plane.  # (N, S, S) => (S, N, S)"""
        return axial[::-1].transpose(TURNS[self.plane])

    def canvas(self, images: np.ndarray, height: int, fill: float, *, nearest: bool = False) -> np.ndarray:
        """Return slices of the plane on canvases of `height` rows; taller ones lose rows at both ends.

        # (C, N, S) => (C, height, S) float32
        """
        made = np.full((len(images), height, images.shape[2]), fill, np.float32)
        source, target = self._overlap(height)
        for image, canvas in zip(images, made, strict=True):
            canvas[target] = self._resized(image, self.rows, nearest)[source]
        return made

    def axial(self, canvases: np.ndarray) -> np.ndarray:
        """Return axial slices from canvases of all slices of the plane; NaN in rows that the canvas lost.

        # (S, height, S) => (N, S, S) float32
        """
        source, target = self._overlap(canvases.shape[1])
        stack = np.empty((len(canvases), self.count, canvases.shape[2]), np.float32)
        for canvas, image in zip(canvases, stack, strict=True):
            whole = np.full((self.rows, canvas.shape[1]), np.nan, np.float32)
            whole[source] = canvas[target]
            image[...] = self._resized(whole, self.count, False)
        return stack.transpose(np.argsort(TURNS[self.plane]))[::-1]

    def tall(self, size: int, multiple: int) -> int:
        """Return the height of a canvas that loses no row: `size`, or else the least multiple of `multiple`."""
        return size if self.rows <= size else multiple * -(-self.rows // multiple)

    def _overlap(self, height: int) -> tuple[slice, slice]:
        """Return the rows that slice and canvas share, on the slice and on the canvas."""
        top = (self.rows - height) // 2
        first, last = max(0, top), min(self.rows, top + height)
        return slice(first, last), slice(first - top, last - top)

    def _resized(self, image: np.ndarray, rows: int, nearest: bool) -> np.ndarray:
        if len(image) == rows:
            return image
        how = cv2.INTER_NEAREST if nearest else cv2.INTER_AREA if rows < len(image) else cv2.INTER_LINEAR
        return cv2.resize(np.asarray(image, np.float32), (image.shape[1], rows), interpolation=how)

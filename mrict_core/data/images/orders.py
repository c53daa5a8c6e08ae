"""Slice orders: from a volume to slices and exactly back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np

# plane => directions of slices, rows and columns: head or face up, the patient's right on the left
PLANES = {"axial": "SPL", "coronal": "PIL", "sagittal": "LIP"}
OPPOSITE = dict(zip("RLAPSI", "LRPAIS", strict=True))


def spacing_of(affine: np.ndarray) -> tuple[float, float, float]:
    """Return the voxel size in mm along the three file axes."""
    return tuple(float(v) for v in np.linalg.norm(np.asarray(affine)[:3, :3], axis=0))


def own_plane(shape: Sequence[int], affine: np.ndarray, usual: str = "axial") -> str:
    """Return the plane of a volume's slices: `usual`, or, of a volume one voxel thick, the plane of its one slice."""
    thin = [axis for axis, length in enumerate(shape) if length == 1]
    for plane, codes in PLANES.items():
        if thin == [SliceOrder.toward(affine, codes).axes[0]]:
            return plane
    return usual


def sides(plane: str) -> str:
    """Return what is at the left, right, top and bottom of a plane's slices: RLAP in axial ones."""
    _, down, right = PLANES[plane]
    return OPPOSITE[right] + right + OPPOSITE[down] + down


@dataclass(frozen=True)
class SliceOrder:
    """Which file axis becomes slice, row and column, and which of them are flipped."""

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    @classmethod
    def toward(cls, affine: np.ndarray, codes: str) -> SliceOrder:
        """Return the order whose slices, rows and columns run toward the three `codes` (of R L A P S I).

        Oblique axes count by their nearest code.
        """
        orientations = nib.orientations
        wanted = orientations.axcodes2ornt(tuple(codes))
        change = orientations.ornt_transform(orientations.io_orientation(affine), wanted)
        axes, flips = [0, 0, 0], [False, False, False]
        for file_axis, (place, direction) in enumerate(change):
            axes[int(place)], flips[int(place)] = file_axis, bool(direction < 0)
        return cls(tuple(axes), tuple(flips))

    @classmethod
    def axial(cls, affine: np.ndarray) -> SliceOrder:
        """Return the axial order: slices inferior -> superior, rows anterior -> posterior, columns right -> left."""
        return cls.toward(affine, PLANES["axial"])

    @classmethod
    def own(cls, shape: Sequence[int], affine: np.ndarray) -> SliceOrder:
        """Return the order of a volume's slices: axial, or the plane of its one slice."""
        return cls.toward(affine, PLANES[own_plane(shape, affine)])

    @classmethod
    def raw(cls) -> SliceOrder:
        """Return the predecessor's order: axis 2 of the file, not reoriented."""
        return cls((2, 0, 1), (False, False, False))

    def _flip(self, stack: np.ndarray) -> np.ndarray:
        return np.flip(stack, [a for a in range(3) if self.flips[a]])

    def to_slices(self, array: np.ndarray) -> np.ndarray:
        """Return a view (N, rows, cols) of an array (nx, ny, nz) in file order."""
        return self._flip(np.transpose(array, self.axes))

    def to_array(self, stack: np.ndarray) -> np.ndarray:
        """Return a view (nx, ny, nz) in file order of slices (N, rows, cols): the exact inverse."""
        return np.transpose(self._flip(stack), np.argsort(self.axes))

    def spacing_mm(self, affine: np.ndarray) -> tuple[float, float, float]:
        """Return the distance of slices, rows and columns in mm."""
        spacing = spacing_of(affine)
        return tuple(spacing[a] for a in self.axes)

"""Solid shapes as signed distances (mm, negative inside), and the canvas to paint anatomy with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np

from mrict_core.data.phantom.fields import Box, Grid, WaveField
from mrict_core.data.phantom.tissues import Tissue

Point = Sequence[float]
Distance = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
WARP_LIMIT_MM = 9.0


@dataclass(frozen=True)
class Shape:
    """A bounded solid in atlas millimetres: `distance(x, y, z)` is below 0 inside, valid between `low` and `high`."""

    low: np.ndarray
    high: np.ndarray
    distance: Distance

    def grown(self, mm: float) -> Shape:
        """Return the shape with its surface moved outwards by `mm`."""
        return Shape(self.low - mm, self.high + mm, lambda x, y, z: self.distance(x, y, z) - np.float32(mm))


def ellipsoid(centre: Point, radii: Point) -> Shape:
    """Return an axis-aligned ellipsoid; its distance is exact on the surface to first order."""
    c, r = np.asarray(centre, np.float32), np.asarray(radii, np.float32)

    def distance(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        u, v, w = (x - c[0]) / r[0], (y - c[1]) / r[1], (z - c[2]) / r[2]
        k0 = np.sqrt(u * u + v * v + w * w)
        u, v, w = u / r[0], v / r[1], w / r[2]
        k1 = np.sqrt(u * u + v * v + w * w)
        return k0 * (k0 - 1) / np.maximum(k1, np.float32(1e-6))

    return Shape(c - r, c + r, distance)


def capsule(start: Point, end: Point, radius: float, end_radius: float | None = None) -> Shape:
    """Return a rounded rod from `start` to `end`, tapering linearly to `end_radius`."""
    a, b = np.asarray(start, np.float32), np.asarray(end, np.float32)
    taper = np.float32((radius if end_radius is None else end_radius) - radius)
    axis = b - a
    length2 = np.float32(axis @ axis)

    def distance(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        u, v, w = x - a[0], y - a[1], z - a[2]
        t = np.clip((u * axis[0] + v * axis[1] + w * axis[2]) / length2, 0, 1)
        u, v, w = u - t * axis[0], v - t * axis[1], w - t * axis[2]
        return np.sqrt(u * u + v * v + w * w) - (np.float32(radius) + t * taper)

    reach = max(radius, radius + float(taper))
    return Shape(np.minimum(a, b) - reach, np.maximum(a, b) + reach, distance)


def chain(points: Sequence[Point], radii: Sequence[float], blend_mm: float = 0.0) -> Shape:
    """Return capsules joined end to end through `points` with a radius at each point."""
    ends = zip(pairwise(points), pairwise(radii), strict=True)
    return union([capsule(a, b, ra, rb) for (a, b), (ra, rb) in ends], blend_mm)


def smooth_min(a: np.ndarray, b: np.ndarray, blend_mm: float) -> np.ndarray:
    """Return the minimum of two distances, rounded over `blend_mm` (polynomial; 0: the plain minimum)."""
    if not blend_mm:
        return np.minimum(a, b)
    h = np.maximum(np.float32(blend_mm) - np.abs(a - b), 0)
    return np.minimum(a, b) - h * h * np.float32(0.25 / blend_mm)


def smooth_max(a: np.ndarray, b: np.ndarray, blend_mm: float) -> np.ndarray:
    """Return the rounded maximum: the intersection of two solids."""
    return -smooth_min(-a, -b, blend_mm)


def step(value: np.ndarray, width: float) -> np.ndarray:
    """Return a smooth 0-to-1 step of `value` at 0, `width` wide."""
    return 0.5 + 0.5 * np.tanh(value / np.float32(width))


def union(shapes: Sequence[Shape], blend_mm: float = 0.0) -> Shape:
    """Return the union of shapes, rounded over `blend_mm` where they meet."""

    def distance(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        result = shapes[0].distance(x, y, z)
        for shape in shapes[1:]:
            result = smooth_min(result, shape.distance(x, y, z), blend_mm)
        return result

    low = np.min([s.low for s in shapes], axis=0) - blend_mm
    return Shape(low, np.max([s.high for s in shapes], axis=0) + blend_mm, distance)


class Canvas:
    """Labels on a grid, painted in atlas coordinates (before the patient's pose, size and smooth deformation).

    `x`, `y`, `z` (float32, mm; right, anterior, superior) are the atlas position of every voxel, `labels` (uint8) the
    tissue, `depth` the signed distance to the skin (mm, negative inside). Later strokes cover earlier ones.
    """

    def __init__(self, grid: Grid, rotation: np.ndarray, scale: np.ndarray, warp: Sequence[WaveField]):
        self.grid = grid
        rows = np.diag(1 / scale) @ rotation
        self.to_world = np.linalg.inv(rows)
        self.x, self.y, self.z = (self._warped(rows[n], warp[n]) for n in range(3))
        self.labels = np.zeros(grid.shape, np.uint8)
        self.depth = np.empty(0, np.float32)

    def _warped(self, row: np.ndarray, warp: WaveField) -> np.ndarray:
        position = np.clip(warp.on(self.grid), -WARP_LIMIT_MM, WARP_LIMIT_MM)
        for part in self.grid.axes(row):
            position += part.astype(np.float32)
        return position

    def box(self, low: np.ndarray, high: np.ndarray) -> Box | None:
        """Return an index box that covers the atlas box from `low` to `high`; None outside the grid."""
        low, high = np.asarray(low) - WARP_LIMIT_MM, np.asarray(high) + WARP_LIMIT_MM
        corners = np.array(list(product(*zip(low, high, strict=True))))
        return self.grid.box_of(corners @ self.to_world.T)

    def at(self, box: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the atlas coordinates in `box`."""
        return self.x[box], self.y[box], self.z[box]

    def world(self) -> list[np.ndarray]:
        """Return the scanner's x, y, z of every voxel (mm), for couches, which do not follow the patient's pose."""
        return [sum(self.grid.axes(row)).astype(np.float32) for row in np.eye(3)]

    def paint(self, tissue: Tissue, shape: Shape, under_skin_mm: float = 0.0, only: Sequence[Tissue] = ()) -> None:
        """Paint `shape` where it is at least `under_skin_mm` below the skin; with `only`, over these tissues."""
        self.paint_layers(shape, [(0.0, tissue)], under_skin_mm, only)

    def paint_layers(
        self,
        shape: Shape,
        layers: Sequence[tuple[float, Tissue]],
        under_skin_mm: float = 0.0,
        only: Sequence[Tissue] = (),
    ) -> None:
        """Paint nested layers of one shape; each is (depth below its surface in mm, tissue), outermost first."""
        box = self.box(shape.low, shape.high)
        if box is None:
            return
        distance = shape.distance(*self.at(box))
        allowed = self.depth[box] < -under_skin_mm
        labels = self.labels[box]
        if only:
            allowed &= np.isin(labels, [int(t) for t in only])
        for inset, tissue in layers:
            labels[allowed & (distance < -inset)] = tissue

    def bone(self, shape: Shape, shell_mm: float, under_skin_mm: float = 3.0) -> None:
        """Paint a bone: a cortical shell `shell_mm` thick around spongy bone."""
        self.paint_layers(shape, [(0.0, Tissue.CORTICAL_BONE), (shell_mm, Tissue.SPONGY_BONE)], under_skin_mm)

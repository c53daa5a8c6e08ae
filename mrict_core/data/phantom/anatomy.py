"""One patient's pose, size and deformation, and the random generators of the parts of the anatomy."""

from __future__ import annotations

import hashlib

import numpy as np

from mrict_core.data.phantom.fields import Grid, WaveField
from mrict_core.data.phantom.shapes import Canvas, Point, Shape, ellipsoid


def stream(patient_id: str, seed: int, purpose: str) -> np.random.Generator:
    """Return the random generator of one purpose for one patient, independent of all other streams."""
    digest = hashlib.blake2b(f"{seed}/{patient_id}/{purpose}".encode(), digest_size=16).digest()
    return np.random.default_rng(np.frombuffer(digest, np.uint32).tolist())


SIDES = (1, -1)  # right, left


class Person:
    """One patient's random anatomy, drawn in a fixed order and independent of the grid."""

    def __init__(self, patient_id: str, seed: int, region: str):
        self.patient_id, self.seed = patient_id, seed
        rng = stream(patient_id, seed, "pose")
        head = region == "brain"
        self.scale = 1 + np.clip(rng.normal(0, 0.03, 3), -0.05, 0.05) + np.clip(rng.normal(0, 0.02), -0.03, 0.03)
        self.angles_deg = np.clip(rng.normal(0, (4.0, 2.5, 4.0) if head else (2.0, 1.5, 1.5)), -8, 8)
        self.warp = [WaveField(rng, (80, 170) if head else (120, 300), 2.0 if head else 3.0, 12) for _ in range(3)]

    def rng(self, purpose: str) -> np.random.Generator:
        """Return the random generator of one part of this patient."""
        return stream(self.patient_id, self.seed, purpose)

    def canvas(self, grid: Grid) -> Canvas:
        """Return an empty canvas for this patient on `grid`."""
        return Canvas(grid, rotation(self.angles_deg), self.scale, self.warp)


def rotation(angles_deg: Point) -> np.ndarray:
    """Return the rotation about x (nod), then y (tilt), then z (turn), angles in degrees, shape (3, 3)."""
    result = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(angles_deg)):
        a, b = [n for n in range(3) if n != axis]
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        result = turn @ result
    return result


class Dice:
    """Random sizes and positions around typical ones; left and right differ as in real patients."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng

    def about(self, value: float, spread: float = 0.1) -> float:
        """Return `value` times 1 ± `spread` (uniform)."""
        return float(value * self.rng.uniform(1 - spread, 1 + spread))

    def chance(self, probability: float) -> bool:
        """Return True with the given probability."""
        return bool(self.rng.random() < probability)

    def near(self, point: Point, mm: float = 1.0) -> np.ndarray:
        """Return `point` moved by up to `mm` along each axis."""
        return np.asarray(point, float) + self.rng.uniform(-mm, mm, 3)

    def ellipsoid(self, centre: Point, radii: Point, mm: float = 1.0, spread: float = 0.12) -> Shape:
        """Return an ellipsoid with its centre and radii varied."""
        return ellipsoid(self.near(centre, mm), np.asarray(radii) * self.rng.uniform(1 - spread, 1 + spread, 3))


def mirrored(point: Point, side: int) -> tuple[float, float, float]:
    """Return a point of the patient's right (+x) on `side` +1 (right) or -1 (left)."""
    return (side * point[0], point[1], point[2])


def offset(x: float, y: float, z: float) -> np.ndarray:
    """Return a displacement (mm)."""
    return np.array((x, y, z), dtype=float)

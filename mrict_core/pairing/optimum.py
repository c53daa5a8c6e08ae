"""How far a CT is from where it fits its MR best: mutual information over rigid poses at about 3 mm.

Mutual information after Mattes et al., IEEE Trans Med Imaging 22:120, 2003: points at random places, a histogram with
linear weights between neighbouring bins. The pose is searched with SciPy's bounded Powell method.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import SimpleITK as sitk
from scipy import ndimage, optimize
from scipy.spatial.transform import Rotation

from mrict_core.hu import AIR_FLOOR_HU

COARSE_MM = 3.0
SMOOTHING_MM = 1.5
MARGIN_MM = 6.0  # around the bodies: the skin's step belongs to the comparison
POINTS = 8_000
BINS = 32
CUT_SHARE = 0.25  # of a body's largest cross-section: one that ends by itself is smaller in its last slices
INSIDE_MIN = 0.5  # of the points must fall into the CT's field
REACH = np.array([8.0] * 3 + [8.0] * 3)  # mm and degrees
START_STEP = 6.0  # mm and degrees: a coarse start in every direction of every axis
MIRRORS = tuple(signs for signs in itertools.product((1, -1), repeat=3) if signs != (1, 1, 1))
AXES = ("left-right", "front-back", "head-foot")  # of LPS
SHARPNESS_STEP_MM = 4.0
# HU => bins: soft tissue, where most of a body differs by few HU, takes half of them
LEVELS_HU = (AIR_FLOOR_HU, -200.0, 200.0, 1500.0)
LEVELS = (0.0, 0.15, 0.65, 1.0)
MR_PERCENTILES = (0.5, 99.0)


@dataclass(frozen=True)
class Optimum:
    """The best pose near the one given, and how the mutual information (nats) falls around it."""

    pose: np.ndarray  # (6,) mm along and degrees about the patient's axes, LPS, that the CT is off by
    offset_mm: float  # mean displacement over the body
    offset_deg: float
    here: float  # mutual information of the pair as it is
    best: float
    mirrored: float  # of the best mirror image of the CT
    mirror: str  # in words
    sharpness: float  # share of `best` that is lost by a shift of `SHARPNESS_STEP_MM`, the least of six directions


@dataclass(frozen=True)
class Comparison:
    """Points of the MR with their grey values, and the CT to sample at these points after a move."""

    points: np.ndarray  # (N, 3) LPS mm
    fixed: np.ndarray  # (N,) bins from 0 to BINS - 1
    moving: np.ndarray  # (z, y, x) bins
    seen: np.ndarray  # (z, y, x) 1 where the CT has data
    to_index: np.ndarray  # (3, 3) of the CT's grid, mm => voxels
    origin: np.ndarray
    inside: np.ndarray  # (N,) bool, points in the body
    centre: np.ndarray = field(default_factory=lambda: np.zeros(3))

    def information(self, pose: Sequence[float], mirror: Sequence[int] = (1, 1, 1)) -> float:
        """Return the mutual information (nats) with the CT sampled at moved points; 0 if most leave its field."""
        index = self._moved(pose, mirror)
        seen = ndimage.map_coordinates(self.seen, index, order=0, mode="constant", cval=0, prefilter=False) > 0
        if np.count_nonzero(seen) < INSIDE_MIN * len(self.points):
            return 0.0
        moving = ndimage.map_coordinates(self.moving, index[:, seen], order=1, mode="nearest", prefilter=False)
        return mutual_information(self.fixed[seen], moving)

    def displacement_mm(self, pose: Sequence[float]) -> float:
        """Return the mean distance that a pose moves the body's points by, mm."""
        offsets = self.points[self.inside] - self.centre
        moved = offsets @ _turn(pose).T + np.asarray(pose[:3])
        return float(np.linalg.norm(moved - offsets, axis=1).mean())

    def _moved(self, pose: Sequence[float], mirror: Sequence[int]) -> np.ndarray:
        matrix = _turn(pose) * np.asarray(mirror)
        shift = self.centre + np.asarray(pose[:3]) - self.origin
        both = self.to_index @ np.column_stack((matrix, shift))
        return (both[:, :3] @ (self.points - self.centre).T + both[:, 3:])[::-1]  # numpy's order z, y, x


def _turn(pose: Sequence[float]) -> np.ndarray:
    return Rotation.from_euler("xyz", pose[3:], degrees=True).as_matrix()


def mutual_information(fixed: np.ndarray, moving: np.ndarray) -> float:
    """Return the mutual information (nats) of bins (N,), whose fractions are shared between neighbouring bins."""
    low, lower = moving.astype(np.intp).clip(0, BINS - 2), fixed.astype(np.intp).clip(0, BINS - 2)
    above, upper = moving - low, fixed - lower
    cell = lower * BINS + low
    weights = ((1 - upper) * (1 - above), (1 - upper) * above, upper * (1 - above), upper * above)
    steps = (0, 1, BINS, BINS + 1)
    both = sum(
        np.bincount(cell + step, weight, BINS * BINS) for step, weight in zip(steps, weights, strict=True)
    ).reshape(BINS, BINS) / len(cell)
    apart = both.sum(1, keepdims=True) * both.sum(0, keepdims=True)
    some = both > 0
    return float((both[some] * np.log(both[some] / apart[some])).sum())


def coarse(image: sitk.Image) -> sitk.Image:
    """Return an image with voxels averaged to about `COARSE_MM`, float32; thin axes keep at least two voxels."""
    factors = [
        max(1, min(n // 2, round(COARSE_MM / s))) for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True)
    ]
    return sitk.BinShrink(sitk.Cast(image, sitk.sitkFloat32), factors)


def mr_field(grey: np.ndarray, body: np.ndarray) -> np.ndarray:
    """Return where an MR has data (bool), of its values and its body.

    Slices of one value at an end of an axis are outside its field if the body is cut there; where the body ends by
    itself, they are a background that was set to zero, in which a misplaced CT must count.
    """
    found = np.ones(grey.shape, bool)
    for axis in range(grey.ndim):
        others = tuple(other for other in range(grey.ndim) if other != axis)
        area, varied = body.sum(axis=others), np.flatnonzero(grey.max(axis=others) > grey.min(axis=others))
        if not varied.size:
            continue
        first, last = varied[0], varied[-1] + 1
        along = np.moveaxis(found, axis, 0)
        for end, outside in ((area[first : first + 2], slice(None, first)), (area[last - 2 : last], slice(last, None))):
            if end.max() > CUT_SHARE * area.max():
                along[outside] = False
    return found


def compare(mr: sitk.Image, ct: sitk.Image, mr_body: sitk.Image, ct_body: sitk.Image, field: sitk.Image) -> Comparison:
    """Return the comparison of a pair on one grid; all around the CT's body is air, so that no couch is compared."""
    bare = sitk.Mask(sitk.Cast(ct, sitk.sitkFloat32), sitk.Cast(ct_body, sitk.sitkUInt8), float(AIR_FLOOR_HU))
    small = {name: coarse(image) for name, image in (("mr", mr), ("ct", bare), ("body", mr_body), ("field", field))}
    spacing = np.array(small["ct"].GetSpacing())
    sigma = (SMOOTHING_MM / spacing)[::-1]
    grey, hu = (ndimage.gaussian_filter(sitk.GetArrayFromImage(small[n]), sigma) for n in ("mr", "ct"))
    body = sitk.GetArrayFromImage(small["body"]) > 0.5
    signal = mr_field(sitk.GetArrayFromImage(small["mr"]), body)
    seen = (sitk.GetArrayFromImage(small["field"]) > 0.5).astype(np.uint8)
    reach = ndimage.distance_transform_edt(~body, sampling=spacing[::-1]) <= MARGIN_MM
    index, inside = _places(reach & (seen > 0) & signal, body)
    frame = np.array(small["ct"].GetDirection()).reshape(3, 3) * spacing
    origin = np.array(small["ct"].GetOrigin())
    points = index[:, ::-1] @ frame.T + origin
    low, high = np.percentile(grey[body], MR_PERCENTILES) if body.any() else (0.0, 1.0)
    values = ndimage.map_coordinates(grey, index.T, order=1, mode="nearest", prefilter=False)
    fixed = ((values - low) / max(high - low, 1e-9)).clip(0, 1) * (BINS - 1)
    moving = (np.interp(hu, LEVELS_HU, LEVELS) * (BINS - 1)).astype(np.float32)
    centre = points[inside].mean(axis=0) if inside.any() else points.mean(axis=0)
    return Comparison(points, fixed, moving, seen, np.linalg.inv(frame), origin, inside, centre)


def _places(reach: np.ndarray, body: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return random places (N, 3) in voxels within `reach`, off the grid's nodes, and which are in the body.

    At the nodes a CT on the same grid is not interpolated, which alone would make the pose as it is look best.
    """
    rng = np.random.default_rng(0)
    voxels = np.argwhere(reach)
    chosen = voxels[rng.permutation(len(voxels))[:POINTS]]
    return chosen + rng.uniform(-0.5, 0.5, chosen.shape), body[tuple(chosen.T)]


def find_optimum(pair: Comparison) -> Optimum:
    """Return the best pose within `REACH` of a pair as it is."""
    still = np.zeros(6)
    here = pair.information(still)
    steps = [sign * START_STEP * axis for axis in np.eye(6) for sign in (1, -1)]
    far = max(steps, key=pair.information)
    starts = [still] if here > pair.information(far) else [still, far]
    best, pose = max((_refined(pair, start) for start in starts), key=lambda one: one[0])
    mirror = max(MIRRORS, key=lambda signs: pair.information(still, signs))
    mirrored = _refined(pair, still, mirror)[0]
    shifts = [sign * SHARPNESS_STEP_MM * axis for axis in np.eye(6)[:3] for sign in (1, -1)]
    around = max(pair.information(pose + shift) for shift in shifts)
    return Optimum(
        pose=pose,
        offset_mm=pair.displacement_mm(pose),
        offset_deg=float(np.rad2deg(Rotation.from_euler("xyz", pose[3:], degrees=True).magnitude())),
        here=here,
        best=best,
        mirrored=mirrored,
        mirror=" and ".join(name for name, sign in zip(AXES, mirror, strict=True) if sign < 0),
        sharpness=1 - around / best if best > 0 else 0.0,
    )


def _refined(pair: Comparison, start: np.ndarray, mirror: Sequence[int] = (1, 1, 1)) -> tuple[float, np.ndarray]:
    found = optimize.minimize(
        lambda pose: -pair.information(pose, mirror),
        start,
        method="Powell",
        bounds=list(zip(-REACH, REACH, strict=True)),
        options={"xtol": 0.05, "ftol": 3e-4, "maxfev": 400},
    )
    return -float(found.fun), np.asarray(found.x)

"""Where a registration starts: bodies, their centres and axes, and rigid transforms that bring them together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from mrict_core.errors import MrictError
from mrict_core.hu import AIR_BELOW_HU

OPEN_MM, CLOSE_MM = 6.0, 12.0  # opening removes couch and noise; closing bridges bone and air at the skin
TURN_DEG = 15.0
SLIDES_MM = (-90.0, -45.0, 45.0, 90.0)  # along the body: the two fields of view may show different parts of it
LEAST_BODY = 0.002  # of the image


@dataclass(frozen=True)
class Body:
    """A body in an image: centre of mass (LPS mm), principal axes (columns, longest first) and half lengths (mm)."""

    mask: sitk.Image
    centre: np.ndarray
    axes: np.ndarray
    lengths: np.ndarray


def find_body(image: sitk.Image, what: str) -> Body:
    """Return the largest bright part of a coarse image (about 4 mm), filled. MrictError if there is none.

    what: MR (threshold by Otsu) or CT (above `AIR_BELOW_HU`).
    """
    bright = image > AIR_BELOW_HU if what == "CT" else sitk.OtsuThreshold(image, 0, 1, 128)
    parts = sitk.RelabelComponent(sitk.ConnectedComponent(_open(bright)))
    body = sitk.Cast(parts == 1, sitk.sitkUInt8)
    body = sitk.BinaryMorphologicalClosing(body, _voxels(image, CLOSE_MM))
    body = sitk.BinaryFillhole(body)
    count = int(sitk.GetArrayViewFromImage(body).sum())
    if count < LEAST_BODY * image.GetNumberOfPixels():
        raise MrictError(f"no body found on the {what}; expected a scan of a person; check its series")
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.Execute(body)
    axes = np.reshape(shape.GetPrincipalAxes(1), (3, 3)).T[:, ::-1]
    lengths = np.sqrt(np.maximum(shape.GetPrincipalMoments(1)[::-1], 0))
    return Body(body, np.array(shape.GetCentroid(1)), axes, lengths)


def _open(bright: sitk.Image) -> sitk.Image:
    return sitk.BinaryMorphologicalOpening(sitk.Cast(bright, sitk.sitkUInt8), _voxels(bright, OPEN_MM))


def _voxels(image: sitk.Image, reach_mm: float) -> list[int]:
    """Return a radius in voxels; 0 along an axis that is too coarse for it."""
    return [int(reach_mm / spacing / 2 + 0.5) for spacing in image.GetSpacing()]


def rigid(centre: np.ndarray, target: np.ndarray, turn: Rotation | None = None) -> sitk.Euler3DTransform:
    """Return the rigid transform that turns about `centre` (LPS mm) and brings it to `target`."""
    found = sitk.Euler3DTransform()
    found.SetCenter(centre.tolist())
    if turn is not None:
        found.SetMatrix(turn.as_matrix().ravel().tolist(), 1e-6)
    found.SetTranslation((target - centre).tolist())
    return found


def starts(mr: Body, ct: Body, mr_middle: np.ndarray, ct_middle: np.ndarray) -> list[sitk.Euler3DTransform]:
    """Return rigid transforms (MR points to CT points) to start from; all turn about the MR body's centre.

    The headers' own space, the images' centres, the bodies' centres with turns and slides, and the principal axes.
    """
    middle = rigid(mr.centre, mr.centre + ct_middle - mr_middle)
    found = [rigid(mr.centre, mr.centre), middle, rigid(mr.centre, ct.centre)]
    for axis, sign in product(range(3), (-1, 1)):
        turn = Rotation.from_rotvec(np.eye(3)[axis] * np.deg2rad(sign * TURN_DEG))
        found.append(rigid(mr.centre, ct.centre, turn))
    found += [rigid(mr.centre, ct.centre + np.array([0, 0, slide])) for slide in SLIDES_MM]
    found += [rigid(mr.centre, ct.centre, turn) for turn in _principal(mr, ct)]
    return found


def _principal(mr: Body, ct: Body) -> Iterator[Rotation]:
    """Yield the turns that bring the principal axes together: axes have no sign, so there are four."""
    for first, second in product((-1, 1), (-1, 1)):
        frames = []
        for axes, signs in ((mr.axes, (1, 1)), (ct.axes, (first, second))):
            longest, middle = axes[:, 0] * signs[0], axes[:, 1] * signs[1]
            frames.append(np.column_stack([longest, middle, np.cross(longest, middle)]))
        yield Rotation.from_matrix(frames[1] @ frames[0].T)

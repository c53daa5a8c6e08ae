"""Structures of a DICOM RTSTRUCT as masks on a CT's grid: contours read by pydicom, filled by scikit-image.

rt-utils, the usual library, reads only the CT series that the contours were drawn on, and fails for slices that are not
square.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from skimage.draw import polygon2mask

from mrict_core.data.dicom.values import check_deflated, opened, text_of
from mrict_core.errors import MrictError
from mrict_core.paths import printable, shown

TARGET_TYPES = ("PTV", "CTV", "GTV")  # of RT ROI Interpreted Type, the first that is there is the target
FLAT = 0.1  # of a voxel: a contour's points lie in a plane of voxels
CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")


@dataclass(frozen=True)
class Structure:
    """One structure: its name, its type (PTV, ORGAN …; "" for none), its closed contours as points (n, 3), LPS mm."""

    name: str
    kind: str
    contours: tuple[np.ndarray, ...]


def read_structures(path: Path | str) -> dict[str, Structure]:
    """Return {name: structure} of an RTSTRUCT file; those without closed contours are left out.

    Raises MrictError for another file, repeated names and damaged contours.
    """
    path = Path(path)
    with opened(path):
        check_deflated(path)
        header = pydicom.dcmread(path)
        if text_of(header, "Modality") != "RTSTRUCT":
            raise MrictError(f"{shown(path)}: not an RTSTRUCT; expected DICOM structures; give their file")
        names = {int(roi.ROINumber): text_of(roi, "ROIName") for roi in header.get("StructureSetROISequence", ())}
        kinds = {
            int(seen.ReferencedROINumber): text_of(seen, "RTROIInterpretedType")
            for seen in header.get("RTROIObservationsSequence", ())
        }
        found: dict[str, Structure] = {}
        for drawn in header.get("ROIContourSequence", ()):
            number = int(drawn.ReferencedROINumber)
            name, contours = printable(names.get(number, "")), _contours(drawn, path)
            if name in found:
                raise MrictError(f"{shown(path)}: two structures are named {name}; expected one; rename one")
            if name and contours:
                found[name] = Structure(name, kinds.get(number, "").upper(), contours)
    if not found:
        raise MrictError(f"{shown(path)}: no structure with closed contours; expected at least a target")
    return found


def _contours(drawn: Any, path: Path) -> tuple[np.ndarray, ...]:
    found = []
    for contour in drawn.get("ContourSequence", ()):
        if text_of(contour, "ContourGeometricType").replace(" ", "") not in CLOSED:
            continue
        points = np.asarray(contour.get("ContourData", ()), float)
        if points.size % 3 or points.size < 9 or not np.isfinite(points).all():
            raise MrictError(f"{shown(path)}: a contour is damaged; expected three or more points; export it again")
        found.append(points.reshape(-1, 3))
    return tuple(found)


def mask_of(structure: Structure, like: sitk.Image) -> sitk.Image:
    """Return a structure as a mask (0 and 1) on the grid of a CT, whose slices its contours must be parallel to.

    Contours of one plane are joined by exclusive or, so that holes stay holes. A slice takes the nearest plane of
    contours, if one is within half of their distance: they may be drawn on thicker slices than the CT has now.
    Raises MrictError for contours in other planes, and for a structure outside the CT.
    """
    to_index = np.linalg.inv(np.reshape(like.GetDirection(), (3, 3)) * like.GetSpacing())
    places = [(points - like.GetOrigin()) @ to_index.T for points in structure.contours]
    flat = [axis for axis in range(3) if all(np.ptp(place[:, axis]) <= 2 * FLAT for place in places)]
    if not flat:
        raise MrictError(
            f"{structure.name}: its contours are not parallel to the CT's slices; expected the CT they were drawn "
            "on, or one with the same axes"
        )
    axis = flat[-1]
    size = like.GetSize()
    filled = {position: _filled(drawn, tuple(np.delete(size, axis))) for position, drawn in _planes(places, axis)}
    mask = np.zeros(size, bool)
    positions = np.array(sorted(filled))
    reach = max(float(np.median(np.diff(positions))) / 2 if len(positions) > 1 else 0.5, 0.5)
    for k in range(size[axis]):
        nearest = positions[np.argmin(np.abs(positions - k))]
        if abs(nearest - k) <= reach + 1e-6:
            mask[(slice(None),) * axis + (k,)] = filled[float(nearest)]
    if not mask.any():
        raise MrictError(f"{structure.name}: lies outside the CT; expected structures of this CT; check the files")
    image = sitk.GetImageFromArray(mask.T.astype(np.uint8))
    image.CopyInformation(like)
    return image


def _planes(places: list[np.ndarray], axis: int) -> list[tuple[float, list[np.ndarray]]]:
    """Return (position, its contours without the axis) of every plane; rounding in the file does not part contours."""
    planes: list[tuple[float, list[np.ndarray]]] = []
    for place in sorted(places, key=lambda place: float(place[:, axis].mean())):
        position = float(place[:, axis].mean())
        if not planes or position - planes[-1][0] > FLAT:
            planes.append((position, []))
        planes[-1][1].append(np.delete(place, axis, axis=1))
    return planes


def _filled(contours: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Return the voxels of a plane whose centres are in an odd number of contours."""
    inside = np.zeros(shape, bool)
    for contour in contours:
        inside ^= polygon2mask(shape, contour)
    return inside

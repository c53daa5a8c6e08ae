"""The bodies on a CT and an MR, the metal on a CT, and the mask in which a pair is scored.

All functions take SimpleITK images of any orientation and return `uint8` images (0 and 1) on the input's grid. Volumes
may be one voxel thick.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import SimpleITK as sitk

from mrict_core.data import masks
from mrict_core.data.cache.patient import body_of
from mrict_core.data.images.grids import check_same_grid
from mrict_core.data.images.headers import ItkFrame
from mrict_core.data.images.orders import SliceOrder, own_plane
from mrict_core.data.images.volumes import Volume
from mrict_core.errors import MrictError
from mrict_core.hu import AIR_BELOW_HU, BODY_ABOVE_HU, METAL_ABOVE_HU
from mrict_core.pairing.couch import near, without_couch

BODY_MIN_MM = 30.0  # the smallest body is longer than this along its two longest axes
BLOOM_MM = 4.0  # metal's blurred edge
STREAK_REACH_MM = 60.0  # in slices with metal: farther streaks are mild
STREAK_ABOVE_HU = 1800.0  # cortical bone ends below


def as_volume(image: sitk.Image, name: str) -> Volume:
    """Return an image as a `Volume` of float32, its path `name`; MrictError unless 3-D and scalar."""
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise MrictError(
            f"{name}: {image.GetDimension()} axes and {image.GetNumberOfComponentsPerPixel()} values for each voxel; "
            "expected a volume of one value; export one volume"
        )
    frame = ItkFrame(image.GetOrigin(), image.GetSpacing(), image.GetDirection())
    return Volume(np.asarray(sitk.GetArrayFromImage(image).T, np.float32), frame.affine, Path(name), frame)


def checked_grid(images: dict[str, sitk.Image]) -> dict[str, Volume]:
    """Return images by their names as volumes; raise MrictError unless they share one grid."""
    volumes = {name: as_volume(image, name) for name, image in images.items()}
    check_same_grid({name: (volume.shape, volume.affine, volume.path) for name, volume in volumes.items()})
    return volumes


def as_mask(array: np.ndarray, image: sitk.Image) -> sitk.Image:
    """Return a boolean array (nx, ny, nz) as a `uint8` image on the grid of `image`."""
    mask = sitk.GetImageFromArray(np.ascontiguousarray(array.T).view(np.uint8))
    mask.CopyInformation(image)
    return mask


def ct_body(ct: sitk.Image) -> sitk.Image:
    """Return the body on a CT in HU: without couch, headrest, cushions and mask frame; cavities filled.

    See `couch.without_couch`; then concavities are closed as on the MR (`masks.body_mask`), and holes of the slices in
    all three planes are filled. Raises MrictError if there is no body.
    """
    volume = as_volume(ct, "ct")
    order = SliceOrder.own(volume.shape, volume.affine)
    spacing, stack = order.spacing_mm(volume.affine), order.to_slices(volume.array)
    axial = own_plane(volume.shape, volume.affine) == "axial"
    body = without_couch(np.ascontiguousarray(stack > BODY_ABOVE_HU), spacing, axial)
    body = filled_in_planes(masks.disked(filled_in_planes(body), cv2.MORPH_CLOSE, masks.CLOSING_MM, spacing[1:]))
    if sorted(_lengths_mm(body, spacing))[1] < BODY_MIN_MM:
        low, high = np.percentile(volume.array, (0.1, 99.9))
        raise MrictError(
            f"ct: no body found, 99.8 % of its values are in {low:.0f} to {high:.0f}; expected HU, air at -1000 and "
            "tissue near 0; give a CT in HU"
        )
    return as_mask(order.to_array(body), ct)


def _lengths_mm(body: np.ndarray, spacing_mm: Sequence[float]) -> list[float]:
    """Return the extent of a body (N, rows, cols) along each axis."""
    along = (np.flatnonzero(body.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1)))
    return [s * (at[-1] - at[0] + 1) if at.size else 0.0 for at, s in zip(along, spacing_mm, strict=True)]


def filled_in_planes(stack: np.ndarray) -> np.ndarray:
    """Return a stack with the holes of its slices along each of the three axes filled."""
    for axis in range(3):
        stack = np.moveaxis(masks.filled(np.moveaxis(stack, axis, 0)), 0, axis)
    return stack


def mr_body(mr: sitk.Image) -> sitk.Image:
    """Return the body on an MR by `masks.body_mask`, as in preprocessing; cavities filled.

    Raises MrictError for an MR without contrast or a body.
    """
    return as_mask(body_of(as_volume(mr, "mr")), mr)


def metal(ct: sitk.Image) -> sitk.Image:
    """Return metal on a CT in HU (above `METAL_ABOVE_HU`) with its blurred edge and its streaks; empty without metal.

    Streaks: in axial slices with metal, up to `STREAK_REACH_MM` from it in the slice and inside the body, what is as
    dark as air or brighter than bone. Air in a cavity so near cannot be told from a streak and counts as one.
    """
    volume = as_volume(ct, "ct")
    dense = volume.array > METAL_ABOVE_HU
    if not dense.any():
        return as_mask(dense, ct)
    order = SliceOrder.axial(volume.affine)
    spacing, stack = order.spacing_mm(volume.affine), order.to_slices(volume.array)
    core = order.to_slices(dense)
    body = order.to_slices(sitk.GetArrayFromImage(ct_body(ct)).T > 0)
    odd = body & ((stack < AIR_BELOW_HU) | (stack > STREAK_ABOVE_HU))
    marked = near(core, spacing, BLOOM_MM)
    for index in np.flatnonzero(core.any(axis=(1, 2))):
        plane = slice(index, index + 1)
        marked[plane] |= odd[plane] & near(core[plane], spacing, STREAK_REACH_MM)
    return as_mask(order.to_array(marked), ct)


def scoring_mask(mr_body: sitk.Image, ct_body: sitk.Image, field: sitk.Image, margin_mm: float = 0.0) -> sitk.Image:
    """Return where a pair is scored: both bodies, with a margin, and only where the CT has data (`field`).

    margin_mm: around the intersection, as data sets draw it (SynthRAD2023 has one). All images are on one grid, else
    MrictError. The mask of two bodies without a common voxel is empty.
    """
    if not 0 <= margin_mm < np.inf:
        raise MrictError(f"margin of {margin_mm:g} mm: expected 0 or more")
    given = {"MR's body": mr_body, "CT's body": ct_body, "CT's field": field}
    volumes = checked_grid(given)
    on_mr, on_ct, known = (v.array > 0 for v in volumes.values())
    both = on_mr & on_ct
    if margin_mm:
        both = near(both.T, volumes["MR's body"].spacing_mm[::-1], margin_mm).T
    return as_mask(both & known, mr_body)

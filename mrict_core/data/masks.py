"""Masks: the body on the MR alone, the predecessor's union of MR and CT, and the check of the data set's mask."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from scipy import ndimage
from skimage import filters, morphology

from mrict_core.errors import MrictError
from mrict_core.paths import shown

SMOOTHING_MM = 1.0
JOINING_MM = 5.0  # bridges the dark skull where sinuses or the edge of the image open the ring of the scalp
OPENING_MM = 2.0
CLOSING_MM = 10.0
TISSUE_FRACTION = 0.15  # of the step from air to the median tissue
NOISE_SIGMAS = 4.0
AIR_PERCENTILE = 70  # the darkest part of what is not tissue: the rest is bone, sinuses and blurred edges
MIN_OBJECT_VOXELS = 64
IN_BODY_MIN = 0.3  # of the mask: outlines are drawn with a margin, but not far from the body
OF_BODY_MIN = 0.05  # of the body: a mask of one organ is allowed, a few stray voxels are not


def check_mask(mask: np.ndarray, path: Path | str) -> np.ndarray:
    """Return the mask as bool; raise `MrictError` unless it holds exactly two values, 0 and another (1 or 255)."""
    values = np.unique(mask)
    if values.size == 1:
        cause = "is empty" if values[0] == 0 else "covers every voxel"
        raise MrictError(f"{shown(path)}: mask {cause}; expected the body outline; draw or export it again")
    if values.size > 2 or values[0] != 0:
        few = ", ".join(f"{v:g}" for v in values[:4]) + (" …" if values.size > 4 else "")
        raise MrictError(f"{shown(path)}: mask holds {values.size} values ({few}); expected 0 and 1; binarise it")
    return np.asarray(mask) > 0


def check_mask_fits(mask: np.ndarray, body: np.ndarray, path: Path | str) -> None:
    """Raise `MrictError` where the data set's mask and the body found on the images hardly overlap."""
    both = np.count_nonzero((mask > 0) & (body > 0))
    for whole, share, name in ((mask, IN_BODY_MIN, "mask"), (body, OF_BODY_MIN, "body")):
        if both < share * max(np.count_nonzero(whole), 1):
            part = f"{both} of {np.count_nonzero(whole)} voxels of the {name}"
            raise MrictError(
                f"{shown(path)}: mask and the body seen on the MR share {part}; expected the outline of that body; "
                "check that mr and mask belong together and that air is dark on the MR"
            )


def _fill(mask: np.ndarray, structure: np.ndarray) -> np.ndarray:
    """Fill what the background cannot reach from outside, moving along `structure`."""
    padded = np.pad(mask, [(1, 1), (1, 1), (0, 0)])
    labels, _ = ndimage.label(~padded, structure)
    edges = [labels[0], labels[-1], labels[:, 0], labels[:, -1]]
    if structure[1, 1].all():  # cavities open to the first or last slice are not holes in 3-D
        edges += [labels[..., 0], labels[..., -1]]
    outside = np.unique(np.concatenate([e.ravel() for e in edges]))
    return ~np.isin(labels, outside[outside > 0])[1:-1, 1:-1]


def _fill_holes(mask: np.ndarray) -> np.ndarray:
    """Fill holes in every axial slice, then the cavities that close only in 3-D."""
    cross = ndimage.generate_binary_structure(3, 1)
    in_plane = cross.copy()
    in_plane[1, 1, [0, 2]] = False
    filled = _fill(mask, in_plane)
    return _fill(filled, cross) if mask.shape[2] > 2 else filled


def _largest(mask: np.ndarray) -> np.ndarray:
    labels, count = ndimage.label(mask)
    if count < 2:
        return mask
    return labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))


def _morph(mask: np.ndarray, operation: int, reach_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """Open or close every axial slice with a disk of radius `reach_mm`."""
    reach = [max(1, round(reach_mm / s)) for s in spacing_mm[:2]]
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach[1] + 1, 2 * reach[0] + 1))
    margin = max(reach) + 1
    padded = np.pad(mask, [(margin, margin), (margin, margin), (0, 0)]).astype(np.uint8)
    done = [cv2.morphologyEx(np.ascontiguousarray(padded[..., k]), operation, disk) for k in range(mask.shape[2])]
    return np.stack(done, axis=2)[margin:-margin, margin:-margin] > 0


def _tissue_threshold(smooth: np.ndarray) -> float:
    """Return the level between air and tissue: low, for dim skin and coil shading, but above the noise of the air."""
    clipped = np.minimum(smooth, np.percentile(smooth, 99))  # one bright vessel or fat layer must not set the scale
    bright = clipped > filters.threshold_otsu(clipped.ravel())  # flat: three slices look like an RGB image to it
    tissue = float(np.median(smooth[bright]))
    dark = smooth[~bright]
    air = dark[dark <= np.percentile(dark, AIR_PERCENTILE)]
    level = float(np.median(air))
    noise = 1.4826 * float(np.median(np.abs(air - level)))
    return level + max(TISSUE_FRACTION * (tissue - level), NOISE_SIGMAS * noise)


def body_mask(mr: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return the body (bool) on an MR (nx, ny, nz) whose axis 2 counts axial slices; nz may be 1.

    Smoothing, a threshold between air and tissue, gaps across the skull bridged, thin strands cut, the largest
    component, concavities such as nostrils and ear canals closed, holes filled per slice and in 3-D.
    The CT has no part in it: a network that sees this mask sees nothing of its target. An image without contrast
    gives an empty mask.
    """
    mr = np.asarray(mr, np.float32)
    if mr.min() == mr.max():
        return np.zeros(mr.shape, bool)
    sigma = [SMOOTHING_MM / s if n > 1 else 0.0 for s, n in zip(spacing_mm, mr.shape, strict=True)]
    smooth = ndimage.gaussian_filter(mr, sigma)
    mask = _morph(smooth > _tissue_threshold(smooth), cv2.MORPH_CLOSE, JOINING_MM, spacing_mm)
    mask = _largest(_morph(_fill_holes(mask), cv2.MORPH_OPEN, OPENING_MM, spacing_mm))
    return _fill_holes(_morph(mask, cv2.MORPH_CLOSE, CLOSING_MM, spacing_mm))


def _otsu(volume: np.ndarray) -> np.ndarray:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.asarray(volume, np.float64).T)
    return sitk.GetArrayFromImage(sitk.OtsuThreshold(image, 0, 1, 128)).T > 0


def otsu_mask(volume: np.ndarray) -> np.ndarray:
    """Return the predecessor's mask (bool) of one volume: Otsu, holes filled, specks removed."""
    filled = ndimage.binary_fill_holes(_otsu(volume))
    return morphology.remove_small_objects(filled, max_size=MIN_OBJECT_VOXELS - 1, connectivity=1)


def union_otsu_mask(mr: np.ndarray, ct: np.ndarray) -> np.ndarray:
    """Return the predecessor's mask (bool): that of MR and that of CT, united.

    It sees the CT, so it must not be used on a network's input outside the `predecessor` protocol.
    """
    return otsu_mask(mr) | otsu_mask(ct)

"""The masks of `mrict_core.data.masks` by their definition: whole volumes, one library call per step."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from skimage import filters, morphology

from mrict_core.data.masks import (
    AIR_PERCENTILE,
    CLOSING_MM,
    JOINING_MM,
    MIN_OBJECT_VOXELS,
    NOISE_SIGMAS,
    OPENING_MM,
    SMOOTHING_MM,
    TISSUE_FRACTION,
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
    """Return the largest component; of equals the first by slice, row, then column."""
    labels, count = ndimage.label(np.moveaxis(mask, 2, 0))
    if count < 2:
        return mask
    return np.moveaxis(labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:])), 0, 2)


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
    clipped = np.minimum(smooth, np.percentile(smooth, 99))
    bright = clipped > filters.threshold_otsu(clipped.ravel())  # flat: three slices look like an RGB image to it
    tissue = float(np.median(smooth[bright]))
    dark = smooth[~bright]
    air = dark[dark <= np.percentile(dark, AIR_PERCENTILE)]
    level = float(np.median(air))
    noise = 1.4826 * float(np.median(np.abs(air - level)))
    return level + max(TISSUE_FRACTION * (tissue - level), NOISE_SIGMAS * noise)


def body_mask(mr: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return what `masks.body_mask` returns for an MR (nx, ny, nz) whose axis 2 counts axial slices."""
    mr = np.asarray(mr, np.float32)
    if mr.min() == mr.max():
        return np.zeros(mr.shape, bool)
    sigma = [SMOOTHING_MM / s if n > 1 else 0.0 for s, n in zip(spacing_mm, mr.shape, strict=True)]
    smooth = ndimage.gaussian_filter(mr, sigma)
    mask = _morph(smooth > _tissue_threshold(smooth), cv2.MORPH_CLOSE, JOINING_MM, spacing_mm)
    mask = _largest(_morph(_fill_holes(mask), cv2.MORPH_OPEN, OPENING_MM, spacing_mm))
    return _fill_holes(_morph(mask, cv2.MORPH_CLOSE, CLOSING_MM, spacing_mm))


def otsu_mask(volume: np.ndarray) -> np.ndarray:
    """Return where a volume lies above ITK's Otsu threshold."""
    image = sitk.GetImageFromArray(np.asarray(volume, np.float64).T)
    return sitk.GetArrayFromImage(sitk.OtsuThreshold(image, 0, 1, 128)).T > 0


def union_otsu_mask(mr: np.ndarray, ct: np.ndarray) -> np.ndarray:
    """Return the predecessor's mask: Otsu of MR and of CT, holes filled, specks removed, united."""
    parts = []
    for volume in (mr, ct):
        filled = ndimage.binary_fill_holes(otsu_mask(volume))
        parts.append(morphology.remove_small_objects(filled, max_size=MIN_OBJECT_VOXELS - 1, connectivity=1))
    return parts[0] | parts[1]

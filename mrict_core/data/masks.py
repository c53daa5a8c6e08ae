"""Masks: the body found on the MR, the predecessor's union of MR and CT, and checks of the data set's mask."""

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
AIR_PERCENTILE = 70  # the darkest part of all that is not tissue: the rest is bone, sinuses and blurred edges
MIN_OBJECT_VOXELS = 64
IN_BODY_MIN = 0.3  # of the mask: outlines are drawn with a margin, but not far from the body
SCORED_MIN = 100  # voxels in the body: a mask of one organ is allowed, a few stray voxels are not
OTSU_BINS = 128
# Of the outline: scoring masks include skin, fixation and cushions, which are dark on the MR. Not 20: at a distance of
# just 20 mm the last digit of the spacing would decide, which formats write differently.
MARGIN_MM = 20.01
FLOODED = 2  # the flood's colour; 0 and 1 are the mask's


def check_mask(mask: np.ndarray, path: Path | str) -> np.ndarray:
    """Return the mask as bool; raise `MrictError` unless it holds two values, 0 and a positive one (1 or 255)."""
    low, high = np.min(mask), np.max(mask)
    if low == 0 < high and np.array_equal(mask == high, mask > 0):
        return np.asarray(mask) > 0
    values = np.unique(mask)
    if values.size == 1:
        cause = "is empty" if values[0] == 0 else "covers every voxel"
        raise MrictError(f"{shown(path)}: mask {cause}; expected the body outline; draw or export it again")
    if values.size > 2 or values[0] != 0:
        few = ", ".join(f"{v:g}" for v in values[:4]) + (" …" if values.size > 4 else "")
        raise MrictError(f"{shown(path)}: mask holds {values.size} values ({few}); expected 0 and 1; binarise it")
    return np.asarray(mask) > 0


def check_metal(metal: np.ndarray, path: Path | str) -> np.ndarray:
    """Return a mask of metal as bool; an empty one is allowed, otherwise as `check_mask`."""
    return check_mask(metal, path) if np.any(metal) else np.zeros(np.shape(metal), bool)


def check_mask_fits(mask: np.ndarray, body: np.ndarray, path: Path | str) -> None:
    """Raise `MrictError` if the data set's mask and the body found on the images hardly overlap."""
    both, marked = np.count_nonzero((mask > 0) & (body > 0)), np.count_nonzero(mask)
    if both < max(IN_BODY_MIN * marked, SCORED_MIN):
        raise MrictError(
            f"{shown(path)}: {both} of {marked} voxels of the mask are in the body seen on the MR; expected a third, "
            f"and at least {SCORED_MIN}; check that mr and mask belong together and that air is dark on the MR"
        )


def _framed(stack: np.ndarray, rows: int, cols: int) -> np.ndarray:
    """Return boolean slices (N, rows, cols) as OpenCV images, padded by empty rows and columns on each side."""
    return np.pad(np.ascontiguousarray(stack), [(0, 0), (rows, rows), (cols, cols)]).view(np.uint8)


def disked(stack: np.ndarray, operation: int, reach_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return a stack (N, rows, cols) opened or closed slice by slice with a disk; the outside counts as empty."""
    rows, cols = (max(1, round(reach_mm / s)) for s in spacing_mm[:2])
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * cols + 1, 2 * rows + 1))
    wide = _framed(stack, rows, cols)
    for image in wide:
        cv2.morphologyEx(image, operation, disk, dst=image)
    return wide[:, rows:-rows, cols:-cols].view(bool)


def outline(body: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return the body with a margin of `MARGIN_MM` on every side, bool of its shape."""
    return morphology.isotropic_dilation(body, MARGIN_MM, spacing=spacing_mm)


def filled(stack: np.ndarray) -> np.ndarray:
    """Fill the holes of every slice (edge neighbours); no 3-D cavity remains, as it is a hole in each of its slices."""
    wide = _framed(stack, 1, 1)
    for image in wide:
        cv2.floodFill(image, None, (0, 0), FLOODED, flags=4)
    return wide[:, 1:-1, 1:-1] != FLOODED


def largest(stack: np.ndarray) -> np.ndarray:
    """Return the largest component (face neighbours), the first of equals."""
    labels, count = ndimage.label(stack)
    return stack if count < 2 else labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])


def _tissue_threshold(smooth: np.ndarray) -> float:
    """Return the threshold between air and tissue: low, for dim skin and coil shading, but above the noise of air."""
    values = smooth.ravel()  # flat: scikit-image would read three slices as colours
    clipped = np.minimum(values, np.percentile(values, 99))  # one bright vessel or fat layer must not set the scale
    bright = clipped > filters.threshold_otsu(clipped)
    if not bright.any():
        return np.inf
    tissue, dark = _median(values[bright]), values[~bright]
    air = dark[dark <= np.percentile(dark, AIR_PERCENTILE, overwrite_input=True)]
    level = _median(air)
    noise = 1.4826 * _median(np.abs(air - level))
    return level + max(TISSUE_FRACTION * (tissue - level), NOISE_SIGMAS * noise)


def _median(values: np.ndarray) -> float:
    """Return the median; `values` may be reordered."""
    return float(np.median(values, overwrite_input=True))


def body_mask(mr: np.ndarray, spacing_mm: Sequence[float], level: float | None = None) -> np.ndarray:
    """Return the body (bool) on an MR (nx, ny, nz) whose axis 2 counts axial slices; nz may be 1.

    Smoothing, a threshold between air and tissue (`level`, where the scale is known), gaps across the skull bridged,
    thin strands cut, the largest component, concavities such as nostrils and ear canals closed, holes filled.
    The CT is not used, so a network that sees this mask sees nothing of its target. An image without contrast gives an
    empty mask.
    """
    mr = np.asarray(mr, np.float32)
    if mr.min() == mr.max():
        return np.zeros(mr.shape, bool)
    sigma = [SMOOTHING_MM / s if n > 1 else 0.0 for s, n in zip(spacing_mm, mr.shape, strict=True)]
    smooth = np.moveaxis(ndimage.gaussian_filter(mr, sigma), 2, 0)
    above = _tissue_threshold(smooth) if level is None else level
    mask = disked(smooth > above, cv2.MORPH_CLOSE, JOINING_MM, spacing_mm)
    mask = largest(disked(filled(mask), cv2.MORPH_OPEN, OPENING_MM, spacing_mm))
    return np.moveaxis(filled(disked(mask, cv2.MORPH_CLOSE, CLOSING_MM, spacing_mm)), 0, 2)


def _otsu_level(volume: np.ndarray) -> float:
    """Return Otsu's threshold of a volume with contrast, from the same histogram as ITK's filter, but much faster."""
    low, high = float(volume.min()), float(volume.max())
    high += (high - low) / OTSU_BINS / 100
    counts, edges = np.histogram(volume, OTSU_BINS, (low, high))
    below, sums = np.cumsum(counts)[:-1], np.cumsum(counts * (edges[:-1] + edges[1:]) / 2)
    between = (sums[-1] * below - volume.size * sums[:-1]) ** 2 / (below * (volume.size - below))
    return low + float(np.float32(1 + np.argmax(between)) * np.float32(high - low) / OTSU_BINS)  # ITK steps in float32


def otsu_mask(volume: np.ndarray) -> np.ndarray:
    """Return the predecessor's mask (bool) of one volume: Otsu, holes filled, specks removed."""
    turned = volume.T  # files run along their first axis
    mask = ndimage.binary_fill_holes(turned > np.float64(_otsu_level(turned)))
    return morphology.remove_small_objects(mask, max_size=MIN_OBJECT_VOXELS - 1, connectivity=1).T


def union_otsu_mask(mr: np.ndarray, ct: np.ndarray) -> np.ndarray:
    """Return the predecessor's mask (bool): the union of the masks of MR and CT.

    It sees the CT: never use it on a network's input outside the `predecessor` protocol.
    """
    return otsu_mask(mr) | otsu_mask(ct)

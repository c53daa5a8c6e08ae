"""Masks: the body on the MR alone, the predecessor's union of MR and CT, and the check of the data set's mask."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from scipy import ndimage
from skimage import filters

from mrict_core.data import morphology, otsu, ranks
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
SCORED_MIN = 100  # voxels in the body: a mask of one organ is allowed, a few stray voxels are not
EDGE_DOUBT = 1e-3  # of a bin: float32 places up to 256 are off by 3e-4 at most
OFFSET_MAX = 8  # spans that values may lie away from 0 for that
SPAN_MIN = 1e-30


def check_mask(mask: np.ndarray, path: Path | str) -> np.ndarray:
    """Return the mask as bool; raise `MrictError` unless it holds exactly two values, 0 and another (1 or 255)."""
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


def check_mask_fits(mask: np.ndarray, body: np.ndarray, path: Path | str) -> None:
    """Raise `MrictError` where the data set's mask and the body found on the images hardly overlap."""
    both, marked = np.count_nonzero((mask > 0) & (body > 0)), np.count_nonzero(mask)
    if both < max(IN_BODY_MIN * marked, SCORED_MIN):
        raise MrictError(
            f"{shown(path)}: {both} of {marked} voxels of the mask are in the body seen on the MR; expected a third, "
            f"and {SCORED_MIN} at least; check that mr and mask belong together and that air is dark on the MR"
        )


def _reach(reach_mm: float, spacing_mm: Sequence[float]) -> tuple[int, int]:
    """Return a distance within the slice as rows and columns, at least one."""
    rows, cols = (max(1, round(reach_mm / s)) for s in spacing_mm[:2])
    return rows, cols


def _smoothed(stack: np.ndarray, sigma: Sequence[float]) -> np.ndarray:
    """Return the stack (N, rows, cols) float32 blurred along rows, columns, then slices (0: not along that axis).

    Lines are filtered where they lie side by side in memory, one transposed plane at a time: a volume's own strides
    throw every voxel out of the cache before its neighbour is read.
    """
    rows, cols, slices = (functools.partial(ndimage.gaussian_filter1d, sigma=s, axis=1) for s in sigma)
    smooth = np.empty(stack.shape, np.float32)
    for source, target in zip(stack, smooth, strict=True):
        plane = np.ascontiguousarray(source, np.float32)
        if sigma[0]:
            plane = cv2.transpose(rows(cv2.transpose(plane)))
        target[...] = cols(plane) if sigma[1] else plane
    if sigma[2]:
        for k in range(smooth.shape[1]):
            smooth[:, k] = cv2.transpose(slices(cv2.transpose(smooth[:, k])))
    return smooth


def _counts(plane: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return `np.histogram`'s counts of a plane whose values beyond the last edge are clipped to it.

    A product gives the bin of all values but those that rounding might have moved over an edge; these few are searched.
    """
    bins, low, high = edges.size - 1, float(edges[0]), float(edges[-1])
    if max(-low, high) > OFFSET_MAX * (high - low) or high - low < SPAN_MIN:  # float32 cannot tell the bins
        return np.histogram(np.minimum(plane, edges[-1]), bins, (edges[0], edges[-1]))[0]
    place = (plane - edges[0]) * np.float32(bins / (high - low))
    np.minimum(place, np.float32(bins - 0.5), out=place)
    bin_of = place.astype(np.uint8)
    place -= bin_of
    at_edge = np.abs(place - np.float32(0.5)) > 0.5 - EDGE_DOUBT
    searched = np.searchsorted(edges, plane[at_edge], "right") - 1
    bin_of[at_edge] = np.minimum(searched, bins - 1)
    return cv2.calcHist([bin_of], [0], None, [bins], [0, bins]).ravel().astype(np.int64)


def _otsu_level(smooth: np.ndarray, top: np.float32) -> float:
    """Return Otsu's threshold of the values clipped to `top`: 256 bins, the lower class includes the threshold's."""
    low = smooth.min()
    if low == top:
        return low
    edges = np.histogram_bin_edges(smooth[0, 0], 256, (low, top))
    counts = sum(_counts(plane, edges) for plane in smooth)
    return filters.threshold_otsu(hist=(counts, (edges[:-1] + edges[1:]) / 2))


def _tissue_threshold(smooth: np.ndarray) -> float:
    """Return the level between air and tissue: low, for dim skin and coil shading, but above the noise of the air."""
    values = smooth.ravel()
    top = ranks.percentile(values, 99)  # one bright vessel or fat layer must not set the scale
    split = _otsu_level(smooth, top)
    dark = values.size - (int(np.count_nonzero(values > split)) if top > split else 0)  # so many of the lowest values
    tissue = ranks.median_between(values, dark, values.size)
    air = values[values <= ranks.percentile(values, AIR_PERCENTILE, dark)]
    level = ranks.median(air)
    np.abs(np.subtract(air, np.float32(level), out=air), out=air)
    noise = 1.4826 * ranks.median(air)
    return level + max(TISSUE_FRACTION * (tissue - level), NOISE_SIGMAS * noise)


def body_mask(mr: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return the body (bool) on an MR (nx, ny, nz) whose axis 2 counts axial slices; nz may be 1.

    Smoothing, a threshold between air and tissue, gaps across the skull bridged, thin strands cut, the largest
    component, concavities such as nostrils and ear canals closed, holes filled.
    The CT has no part in it: a network that sees this mask sees nothing of its target. An image without contrast
    gives an empty mask.
    """
    mr = np.asarray(mr, np.float32)
    if mr.min() == mr.max():
        return np.zeros(mr.shape, bool)
    sigma = [SMOOTHING_MM / s if n > 1 else 0.0 for s, n in zip(spacing_mm, mr.shape, strict=True)]
    smooth = _smoothed(np.moveaxis(mr, 2, 0), sigma)
    mask = smooth > _tissue_threshold(smooth)
    del smooth
    mask = morphology.filled(morphology.closed(mask, _reach(JOINING_MM, spacing_mm)))
    mask = morphology.largest(morphology.opened(mask, _reach(OPENING_MM, spacing_mm)))
    return np.moveaxis(morphology.filled(morphology.closed(mask, _reach(CLOSING_MM, spacing_mm))), 0, 2)


def _solid(stack: np.ndarray) -> np.ndarray:
    """Return a mask with its holes filled and without specks of fewer than `MIN_OBJECT_VOXELS` (face neighbours)."""
    within = morphology.filled(stack)
    holes = within & ~stack  # of their slice: some have a way out through the slices beside it
    labels, count = _labels(holes)
    kept = np.ones(count + 1, bool)
    kept[labels[[0, -1]]] = False
    kept[labels[1:][holes[1:] & ~within[:-1]]] = False
    kept[labels[:-1][holes[:-1] & ~within[1:]]] = False
    _keep(within, holes, labels, kept)
    labels, count = _labels(within)
    sizes = sum(np.bincount(plane.ravel(), minlength=count + 1) for plane in labels)
    sizes[0] = 0
    _keep(within, within & (labels != int(np.argmax(sizes))), labels, sizes >= MIN_OBJECT_VOXELS)
    return within if sizes.max() >= MIN_OBJECT_VOXELS else np.zeros_like(within)


def _labels(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Return `ndimage.label(mask)`, looked for in the mask's box alone."""
    labels, box = np.zeros(mask.shape, np.int32), morphology.box_of(mask)
    return labels, ndimage.label(mask[box], output=labels[box])


def _keep(mask: np.ndarray, among: np.ndarray, labels: np.ndarray, kept: np.ndarray) -> None:
    """Leave of the few voxels `among` those whose label is kept."""
    few = np.flatnonzero(among)
    mask.ravel()[few] = kept[labels.ravel()[few]]


def otsu_mask(volume: np.ndarray) -> np.ndarray:
    """Return the predecessor's mask (bool) of one volume: Otsu, holes filled, specks removed."""
    return _solid(np.ascontiguousarray(otsu.foreground(volume).T)).T  # transposed: files run along their first axis


def union_otsu_mask(mr: np.ndarray, ct: np.ndarray) -> np.ndarray:
    """Return the predecessor's mask (bool): that of MR and that of CT, united.

    It sees the CT, so it must not be used on a network's input outside the `predecessor` protocol.
    """
    return otsu_mask(mr) | otsu_mask(ct)

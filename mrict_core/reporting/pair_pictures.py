"""Pictures of a pair in three planes: MR with both outlines, CT, edges of the CT over the MR, and a checkerboard."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import SimpleITK as sitk

from mrict_core.hu import AIR_FLOOR_HU, DISPLAY_WINDOWS_HU
from mrict_core.reporting import style

WIDTH_PX = 240
TALLEST_PX = 320
QUALITY = 80
TILE_MM = 25.0
MR_PERCENTILES = (1.0, 99.5)  # of the body: black and white
EDGES = (60, 140)  # Canny's thresholds on 8-bit values
SHARES = {"axial": 0.5, "coronal": 0.5, "sagittal": 0.5}  # of the way through the body
KINDS = ("MR and outlines", "CT", "edges of the CT on the MR", "checkerboard")
MR_COLOUR, CT_COLOUR = style.PALETTE["orange"], style.PALETTE["sky"]


@dataclass(frozen=True)
class Picture:
    """One picture for a page."""

    plane: str
    kind: str
    data: str  # JPEG in base64
    width: int
    height: int


def pictures(mr: sitk.Image, ct: sitk.Image, mr_body: sitk.Image, ct_body: sitk.Image) -> list[Picture]:
    """Return the pictures of every plane and kind; all images are on one grid, CT in HU, bodies 0 and 1.

    Planes are those of the voxel grid nearest to the patient's; the patient's right is on the left, anterior and head
    are on top. Pixels are square.
    """
    turned = [sitk.DICOMOrient(image, "LPS") for image in (mr, ct, mr_body, ct_body)]
    spacing = turned[0].GetSpacing()[::-1]
    grey, hu, body, other = (sitk.GetArrayFromImage(image) for image in turned)
    inside = grey[body > 0] if body.any() else grey
    grey = _bytes(grey, *np.percentile(inside, MR_PERCENTILES))
    shown = _bytes(np.maximum(hu, AIR_FLOOR_HU), *DISPLAY_WINDOWS_HU["bone"])
    found = []
    for plane, index, (rows_mm, columns_mm) in _planes(body, spacing):
        cuts = [_square(volume[index], rows_mm, columns_mm) for volume in (grey, shown)]
        masks = [_square(255 * (mask[index] > 0).astype(np.uint8), rows_mm, columns_mm) > 127 for mask in (body, other)]
        if plane != "axial":  # the head is on top
            cuts, masks = ([image[::-1] for image in images] for images in (cuts, masks))
        mm = columns_mm * grey[index].shape[1] / cuts[0].shape[1]  # of a pixel
        for kind, image in zip(KINDS, _kinds(*cuts, *masks, mm), strict=True):
            found.append(Picture(plane, kind, _jpeg(image), image.shape[1], image.shape[0]))
    return found


def _planes(body: np.ndarray, spacing: tuple[float, ...]) -> Iterator[tuple[str, tuple, tuple[float, float]]]:
    """Yield every plane's name, index into (z, y, x) and mm of rows and columns, through the body's middle."""
    for axis, (plane, share) in enumerate(SHARES.items()):
        span = np.flatnonzero(body.any(axis=tuple({0, 1, 2} - {axis})))
        span = span if span.size else np.arange(body.shape[axis])
        index: list[slice | int] = [slice(None)] * 3
        index[axis] = round(float(span[0] + share * (span[-1] - span[0])))
        rows, columns = (spacing[other] for other in range(3) if other != axis)
        yield plane, tuple(index), (rows, columns)


def _kinds(grey: np.ndarray, shown: np.ndarray, body: np.ndarray, other: np.ndarray, mm: float) -> list[np.ndarray]:
    """Return the pictures of one plane, BGR, in the order of `KINDS`."""
    mr, ct = (cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_GRAY2BGR) for image in (grey, shown))
    outlined, edged = mr.copy(), mr.copy()
    for mask, colour in ((body, MR_COLOUR), (other, CT_COLOUR)):
        lines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(outlined, lines, -1, _bgr(colour), 1)
    smooth = cv2.GaussianBlur(np.where(other, shown, 0).astype(np.uint8), (0, 0), 1.2)
    edged[cv2.Canny(smooth, *EDGES) > 0] = _bgr(CT_COLOUR)
    rows, columns = (np.arange(n) * mm // TILE_MM for n in grey.shape)
    tiles = (rows[:, None] + columns[None, :]) % 2 == 0
    return [outlined, ct, edged, np.where(tiles[..., None], mr, ct)]


def _bytes(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return ((values - low) * (255 / max(high - low, 1e-9))).clip(0, 255).astype(np.uint8)


def _square(image: np.ndarray, rows_mm: float, columns_mm: float) -> np.ndarray:
    """Return an image with square pixels, at most `WIDTH_PX` wide and `TALLEST_PX` high."""
    height, width = image.shape[0] * rows_mm, image.shape[1] * columns_mm
    scale = min(WIDTH_PX / width, TALLEST_PX / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    smaller = size[0] < image.shape[1]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)


def _bgr(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[k : k + 2], 16) for k in (5, 3, 1))


def _jpeg(image: np.ndarray) -> str:
    return base64.b64encode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]).decode("ascii")

"""Frames: the image planes of DICOM files, one or many per file, and their position in the patient."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from mrict_core.data.dicom import attributes
from mrict_core.data.dicom.attributes import Value
from mrict_core.data.dicom.values import text_of, uid_of, values_of, whole_of, wrong_header
from mrict_core.errors import MrictError
from mrict_core.paths import printable, shown

TAGS = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"),
    *("Modality", "SeriesNumber", "SeriesDescription", "InstanceNumber", "PatientPosition"),
    "BodyPartExamined",
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "LossyImageCompression"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", *attributes.TAGS),
)
GREY = ("MONOCHROME1", "MONOCHROME2")
WORDS = [tag for tag in TAGS if isinstance(tag, str) and not tag.endswith(("GroupsSequence", "LUTSequence"))]
TILED = {"MOSAIC", "VFRAME"}  # words of ImageType: Siemens, UIH
RIGHT_ANGLE = 1e-3  # how far the two axes of a plane may be from unit vectors at a right angle


@dataclass(frozen=True)
class Frame:
    """One image plane. `position` and `orientation` (direction of rows, of columns) are LPS.

    `spacing_mm` is that down a column, then along a row.
    """

    path: Path
    index: int  # within its file
    of: int  # frames in its file
    shape: tuple[int, int]
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing_mm: tuple[float, ...]
    thickness_mm: float | None
    between_mm: float | None
    slope: float
    intercept: float
    rescaled: bool  # the header has a slope
    instance: int | None
    facts: dict[str, Value] = field(repr=False)
    sop_class: str = field(repr=False)
    sop_uid: str = field(repr=False)

    @property
    def name(self) -> str:
        """Return the frame's name for messages."""
        file = printable(self.path.name)
        return file if self.of == 1 else f"{file} frame {self.index + 1}"

    @property
    def axes(self) -> np.ndarray:
        """Return the directions across, down and normal as rows (3, 3), exactly orthonormal."""
        across, down = np.array(self.orientation[:3]), np.array(self.orientation[3:])
        across = across / np.linalg.norm(across)
        down = down - across * (across @ down)
        down = down / np.linalg.norm(down)
        return np.stack([across, down, np.cross(across, down)])


def frames_of(header: pydicom.Dataset, path: Path) -> list[Frame]:
    """Return the frames of one file from its header; `MrictError` if they are not grey planes with a position."""
    colours, grey = whole_of(header, "SamplesPerPixel") or 1, text_of(header, "PhotometricInterpretation")
    if not grey:
        raise wrong_header(path, "no PhotometricInterpretation")
    if colours != 1 or grey not in GREY:
        raise MrictError(f"{shown(path)}: a colour image; expected one grey value per pixel; export the grey series")
    if "ModalityLUTSequence" in header:
        raise MrictError(
            f"{shown(path)}: grey values use a lookup table; expected slope and intercept; export without Modality LUT"
        )
    if TILED & {str(word).strip().upper() for word in values_of(header.get("ImageType"))}:
        raise MrictError(
            f"{shown(path)}: a mosaic, several slices tiled in one picture; expected one slice per frame; "
            "export it as single slices or as an enhanced image"
        )
    count = whole_of(header, "NumberOfFrames") if text_of(header, "NumberOfFrames") else 1
    if count is None or count < 1:
        raise wrong_header(path, "NumberOfFrames is not a positive number")
    _check_pixels(header, path)
    groups = header.get("PerFrameFunctionalGroupsSequence")
    if count > 1 and not groups:
        raise MrictError(
            f"{shown(path)}: {count} frames without positions; expected an enhanced multi-frame image or one "
            "file per slice; export it that way"
        )
    if groups and len(groups) != count:
        raise wrong_header(path, f"{count} frames but {len(groups)} descriptions of frames")
    shape = (whole_of(header, "Rows") or 0, whole_of(header, "Columns") or 0)
    if min(shape) < 1:
        raise wrong_header(path, "Rows or Columns is not a positive number")
    common = {
        "path": path,
        "of": count,
        "shape": shape,
        "instance": whole_of(header, "InstanceNumber") if count == 1 else None,
        "sop_class": uid_of(header, "SOPClassUID"),
        "sop_uid": uid_of(header, "SOPInstanceUID"),
    }
    values = attributes.values_of_frames(header, WORDS)
    return [
        Frame(index=k, **common, **_placed(own, path), facts=attributes.facts_of(own)) for k, own in enumerate(values)
    ]


def _check_pixels(header: pydicom.Dataset, path: Path) -> None:
    allocated, stored, signed = (whole_of(header, k) for k in ("BitsAllocated", "BitsStored", "PixelRepresentation"))
    if allocated not in (8, 16, 32) or stored not in range(1, allocated + 1) or signed not in (0, 1):
        raise wrong_header(path, "BitsAllocated, BitsStored and PixelRepresentation give no number type")
    high = whole_of(header, "HighBit")
    if high not in (None, stored - 1):
        raise wrong_header(path, "HighBit is not the last of BitsStored")


def _numbers(values: dict[Any, Any], path: Path, keyword: str, count: int) -> tuple[float, ...] | None:
    """Return `count` finite numbers, None if absent; raise for anything else."""
    value = values.get(keyword)
    if value is None or value == "":
        return None
    try:
        numbers = tuple(float(v) for v in values_of(value))
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise wrong_header(path, f"{keyword} is not {count} number{'s' * (count > 1)}")
    return numbers


def _placed(values: dict[Any, Any], path: Path) -> dict[str, Any]:
    """Return the fields of a `Frame` that place it in space and rescale it."""

    def one(keyword: str, default: float | None = None) -> float | None:
        found = _numbers(values, path, keyword, 1)
        return default if found is None else found[0]

    placed = {}
    for keyword, length in (("ImagePositionPatient", 3), ("ImageOrientationPatient", 6), ("PixelSpacing", 2)):
        placed[keyword] = _numbers(values, path, keyword, length)
        if placed[keyword] is None:
            raise MrictError(f"{shown(path)}: no {keyword}; expected the slice's position; export it again")
    directions = np.array(placed["ImageOrientationPatient"]).reshape(2, 3)
    if np.abs(directions @ directions.T - np.eye(2)).max() > RIGHT_ANGLE:
        raise wrong_header(path, "ImageOrientationPatient is not two unit vectors at a right angle")
    if min(placed["PixelSpacing"]) <= 0:
        raise wrong_header(path, "PixelSpacing is not positive")
    slope = one("RescaleSlope")
    if slope is not None and slope <= 0:
        raise wrong_header(path, "RescaleSlope is not positive")
    return {
        "position": placed["ImagePositionPatient"],
        "orientation": placed["ImageOrientationPatient"],
        "spacing_mm": placed["PixelSpacing"],
        "thickness_mm": one("SliceThickness"),
        "between_mm": one("SpacingBetweenSlices"),
        "slope": 1.0 if slope is None else slope,
        "rescaled": slope is not None,
        "intercept": one("RescaleIntercept", 0.0),
    }

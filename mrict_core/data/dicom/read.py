"""Read one DICOM series as a volume."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian

from mrict_core.data.dicom.frames import Frame, frames_of
from mrict_core.data.dicom.series import Series, choose
from mrict_core.data.dicom.series_parts import one_image
from mrict_core.data.dicom.stack import stack
from mrict_core.data.dicom.values import opened, text_of, uid_of, whole_of, wrong_header
from mrict_core.data.images.padding import background_beside
from mrict_core.data.images.streams import damaged
from mrict_core.data.images.volumes import Volume
from mrict_core.errors import MrictError
from mrict_core.machine import check_memory, to_install
from mrict_core.paths import shown

IDENTITY = (
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientAge"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName", "StudyDescription"),
)
DECODERS = ("gdcm", "openjpeg", "pylibjpeg")  # of compressed pixels, used by pydicom if they are there
BYTES, BYTES_DECODED = 6, 12  # per voxel: in the volume, and while its file is decoded and rescaled
SAME_LEVEL = 0.01  # of the image's range: padding this close to 0 or to the minimum is background already
LYING = re.compile("[HFLRAP]F(S|P|DL|DR)")  # PatientPosition: head first supine, and so on


@dataclass(frozen=True)
class Source:
    """Origin of a volume, for a CT of the same study. `identity` is None unless requested."""

    study_uid: str = field(repr=False)
    frame_of_reference_uid: str = field(repr=False)
    patient_position: str
    lossy: bool  # lossy compression at any time
    frames: tuple[Frame, ...] = field(repr=False)
    identity: dict[str, str] | None = field(default=None, repr=False)
    body_part: str = field(default="", repr=False)  # BodyPartExamined, "" if absent


@dataclass(frozen=True, repr=False)
class DicomVolume(Volume):
    """A volume of a DICOM series: `array` (columns, rows, slices) float32, slices along their normal."""

    source: Source | None = None

    def __repr__(self) -> str:
        spacing = " x ".join(f"{v:.4g}" for v in self.spacing_mm)
        return f"DicomVolume(shape={self.shape}, spacing_mm=({spacing}))"


def read_series(
    path: Path | str, series_uid: str = "", keep_identifiers: bool = False, *, modality: str = "MR"
) -> DicomVolume:
    """Return the series of a folder (searched recursively) or file, rescaled slice by slice.

    `series_uid`: a UID or a name from `list_series`; "" takes the only series of `modality` ("" for any). If a series
    holds several images, append the part: "NAME/EchoTime=12". The error for such a series lists its parts.
    `keep_identifiers` also reads the patient's name, id and dates, for `write_ct_series` only.
    Raises `MrictError`, without any identifying tag, unless the slices form one complete, evenly spaced stack.
    """
    path = Path(path)
    name, *parts = series_uid.split("/")
    series, remarks, notes = choose(path, name, modality, keep_identifiers)
    every = _frames(series)
    chosen, more, part = one_image(every, parts, series.name, path)
    frames, affine, gaps = stack(chosen, path, whole=len(chosen) == len(every))
    first = next(header for file, header in series.headers if file == frames[0].path)
    source = Source(
        study_uid=_one(series, "StudyInstanceUID", path),
        frame_of_reference_uid=_one(series, "FrameOfReferenceUID", path),
        patient_position=lying if LYING.fullmatch(lying := text_of(first, "PatientPosition")) else "",
        lossy=any(is_lossy(header) for _, header in series.headers),
        body_part=text_of(first, "BodyPartExamined"),
        frames=tuple(frames),
        identity=_identity(frames[0].path) if keep_identifiers else None,
    )
    array, padding = _pixels(frames, path)
    if source.lossy and any("PixelPaddingValue" in header for _, header in series.headers):
        gaps.append("lossy compression: PixelPaddingValue is no longer exact, padding was not replaced")
    return DicomVolume(
        array, affine, path, remarks=(*remarks, *more, *gaps), notes=(*notes, *part, *padding), source=source
    )


def is_lossy(header: pydicom.Dataset) -> bool:
    """Return whether pixels ever had lossy compression."""
    return text_of(header, "LossyImageCompression") == "01"


def _frames(series: Series) -> list[Frame]:
    frames = []
    for file, header in series.headers:
        with opened(file):
            frames += frames_of(header, file)
            _check_size(header, frames[-1])
    return frames


def _check_size(header: pydicom.Dataset, frame: Frame) -> None:
    """Raise for a file shorter than its header's pixels, before memory is allocated."""
    syntax = header.file_meta.get("TransferSyntaxUID")
    if syntax is None or (not syntax.is_compressed and syntax != DeflatedExplicitVRLittleEndian):
        said, there = _bytes_of(header), frame.path.stat().st_size
        if there < said:
            raise damaged(frame.path, f"{there} bytes, expected at least {said} bytes of pixels")


def _bytes_of(header: pydicom.Dataset) -> int:
    frames = whole_of(header, "NumberOfFrames") or 1
    return frames * header.Rows * header.Columns * (header.BitsAllocated // 8)


def _one(series: Series, keyword: str, path: Path) -> str:
    """Return the value that all files of a series share."""
    found = {uid_of(header, keyword) for _, header in series.headers}
    if len(found) > 1:
        what = f"some slices without {keyword}" if "" in found else f"slices of {len(found)} different {keyword}"
        raise MrictError(f"{shown(path)}: {what}; expected one; export the series again")
    return found.pop()


def _identity(file: Path) -> dict[str, str]:
    with opened(file):
        header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(IDENTITY), force=True)
        return {keyword: text_of(header, keyword) for keyword in IDENTITY if keyword in header}


def _pixels(frames: list[Frame], path: Path) -> tuple[np.ndarray, list[str]]:
    """Return the rescaled values (columns, rows, slices) float32 of sorted frames, padding replaced; notes."""
    places: dict[Path, list[int]] = {}
    for k, frame in enumerate(frames):
        places.setdefault(frame.path, []).append(k)
    plane = frames[0].shape[0] * frames[0].shape[1]
    largest = max(frames[k].of for k, *_ in places.values())
    check_memory(plane * (len(frames) * BYTES + largest * BYTES_DECODED), shown(path))
    array = np.empty((len(frames), *frames[0].shape), np.float32)
    padded = np.zeros(array.shape, bool)
    for file, slices in places.items():
        stored, padding = _decode(file)
        for k in slices:
            frame, values = frames[k], _plane(stored, frames[k])
            unscaled = (frame.slope, frame.intercept) == (1, 0)
            array[k] = values if unscaled else values * frame.slope + frame.intercept
            if not np.isfinite(array[k]).all():
                raise MrictError(f"{shown(file)}: NaN or infinite pixels; expected numbers; export it again")
            if padding:
                padded[k] = (values >= padding[0]) & (values <= padding[1])
    return array.T, _fill_padding(array, padded, path)


def _plane(stored: np.ndarray, frame: Frame) -> np.ndarray:
    plane = stored[frame.index] if frame.of > 1 else stored
    plane = plane.reshape(plane.shape[-2:])
    if plane.shape != frame.shape:
        raise damaged(frame.path, f"{plane.shape[0]} x {plane.shape[1]} pixels contradict its header")
    return plane


def _fill_padding(array: np.ndarray, padded: np.ndarray, path: Path) -> list[str]:
    """Replace padding by the adjacent background in place; return a note, none if it is background already."""
    inside = array[padded]
    if not inside.size:
        return []
    if inside.size == array.size:
        raise MrictError(
            f"{shown(path)}: every pixel is padding by its PixelPaddingValue; expected an image; export it again"
        )
    rest = ~padded
    least, most = array.min(where=rest, initial=np.inf), array.max(where=rest, initial=-np.inf)
    slack = SAME_LEVEL * (most - least)
    if inside.min() >= min(0, least) - slack and inside.max() <= least + slack:
        return []
    array[padded] = level = background_beside(array, padded)
    return [f"{inside.size} padding voxels (PixelPaddingValue) set to background ({level:g})"]


def _decode(file: Path) -> tuple[np.ndarray, tuple[int, int] | None]:
    """Return the stored values of a file and the range of its padding values."""
    with opened(file):
        dataset = pydicom.dcmread(file, force=True)
        syntax = dataset.file_meta.get("TransferSyntaxUID")
        packed = syntax.name if syntax is not None and syntax.is_compressed else ""
        if not packed and len(dataset.get("PixelData", b"")) < (said := _bytes_of(dataset)):
            raise damaged(file, f"{len(dataset.get('PixelData', b''))} bytes of pixels, expected {said}")
        try:
            stored = dataset.pixel_array
        except (RuntimeError, NotImplementedError):
            if not packed:
                raise
            raise MrictError(
                f"{shown(file)}: pixels compressed as {packed} cannot be decoded; "
                f"expected another compression, or an undamaged file; {_remedy()}"
            ) from None
        if not packed:
            _check_bits(dataset, file)
        return stored, _padding(dataset, stored.dtype)


def _remedy() -> str:
    here = all(map(importlib.util.find_spec, DECODERS))
    return "export it uncompressed" if here else f"{to_install('dicom')}, or export it uncompressed"


def _check_bits(dataset: pydicom.Dataset, file: Path) -> None:
    """Raise if unsigned pixels use more bits than BitsStored, which the decoder cuts off (old files: overlays)."""
    if dataset.BitsAllocated != 16 or dataset.PixelRepresentation or dataset.get((0x6000, 0x0102)):
        return
    order = ">" if dataset.file_meta.get("TransferSyntaxUID") == ExplicitVRBigEndian else "<"
    pixels = np.frombuffer(dataset.PixelData[: _bytes_of(dataset)], f"{order}u2")
    if int(pixels.max(initial=0)) >> dataset.BitsStored:
        raise wrong_header(file, "pixels with more bits than BitsStored")


def _padding(dataset: pydicom.Dataset, dtype: np.dtype) -> tuple[int, int] | None:
    """Return the range of padding in stored values; headers may give a negative value as unsigned."""
    value = whole_of(dataset, "PixelPaddingValue")
    if value is None or is_lossy(dataset):  # lossy compression blurs the padding value
        return None
    limit = whole_of(dataset, "PixelPaddingRangeLimit")
    low, high = sorted(np.array([value, value if limit is None else limit], np.int64).astype(dtype).tolist())
    return low, high

"""Read one DICOM series as a volume."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom

from mrict_core.data.dicom.frames import Frame, frames_of
from mrict_core.data.dicom.parts import one_image
from mrict_core.data.dicom.series import Series, choose
from mrict_core.data.dicom.stack import stack
from mrict_core.data.dicom.values import damaged, hushed, text_of, uid_of
from mrict_core.data.volumes import Volume
from mrict_core.errors import MrictError
from mrict_core.paths import shown

IDENTITY = (
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientAge"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName", "StudyDescription"),
)
LYING = re.compile("[HFLRAP]F(S|P|DL|DR)")  # PatientPosition: head first supine, and so on


@dataclass(frozen=True)
class Source:
    """Where a volume comes from: what a CT of the same study needs. `identity` is None unless it was asked for."""

    study_uid: str = field(repr=False)
    frame_of_reference_uid: str = field(repr=False)
    patient_position: str
    lossy: bool  # compressed with loss at some time
    frames: tuple[Frame, ...] = field(repr=False)
    identity: dict[str, str] | None = field(default=None, repr=False)


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
    """Return the series of a folder (searched at any depth) or of a file, values rescaled slice by slice.

    `series_uid`: a UID or a name of `list_series`; "" takes the only series of `modality` ("" for any).
    Behind it may be a part, "NAME/EchoTime=12", where a series holds several images: the error that says so names them.
    `keep_identifiers` carries the patient's name, id and dates along, for `write_ct_series` alone.
    Raises `MrictError`, which never quotes a tag that may identify, for everything that is not one whole even stack.
    """
    path = Path(path)
    name, *parts = series_uid.split("/")
    series, remarks = choose(path, name, modality, keep_identifiers)
    every = _frames(series)
    chosen, more = one_image(every, parts, series.name, path)
    frames, affine, gaps = stack(chosen, path, whole=len(chosen) == len(every))
    first = next(header for file, header in series.headers if file == frames[0].path)
    source = Source(
        study_uid=_one(series, "StudyInstanceUID", path),
        frame_of_reference_uid=_one(series, "FrameOfReferenceUID", path),
        patient_position=lying if LYING.fullmatch(lying := text_of(first, "PatientPosition")) else "",
        lossy=any(text_of(header, "LossyImageCompression") == "01" for _, header in series.headers),
        frames=tuple(frames),
        identity=_identity(frames[0].path) if keep_identifiers else None,
    )
    return DicomVolume(_pixels(frames), affine, path, remarks=(*remarks, *more, *gaps), source=source)


def _frames(series: Series) -> list[Frame]:
    with hushed():
        return [frame for file, header in series.headers for frame in frames_of(header, file)]


def _one(series: Series, keyword: str, path: Path) -> str:
    """Return the value that all files of a series share."""
    found = {uid_of(header, keyword) for _, header in series.headers}
    if len(found) > 1:
        raise MrictError(f"{shown(path)}: slices of {len(found)} different {keyword}; expected one; export it again")
    return found.pop()


def _identity(file: Path) -> dict[str, str]:
    with hushed():
        header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(IDENTITY), force=True)
        return {keyword: text_of(header, keyword) for keyword in IDENTITY if keyword in header}


def _pixels(frames: list[Frame]) -> np.ndarray:
    """Return the rescaled values (columns, rows, slices) float32 of sorted frames."""
    array = np.empty((len(frames), *frames[0].shape), np.float32)
    places: dict[Path, list[int]] = {}
    for k, frame in enumerate(frames):
        places.setdefault(frame.path, []).append(k)
    for file, slices in places.items():
        stored = _decode(file)
        for k in slices:
            frame = frames[k]
            plane = stored[frame.index] if frame.of > 1 else stored
            plane = plane.reshape(plane.shape[-2:])
            if plane.shape != frame.shape:
                raise damaged(file, f"{plane.shape[0]} x {plane.shape[1]} pixels, its header says otherwise")
            array[k] = plane if (frame.slope, frame.intercept) == (1, 0) else plane * frame.slope + frame.intercept
        if not np.isfinite(array[slices]).all():
            raise MrictError(f"{shown(file)}: NaN or infinite pixels; expected numbers; export it again")
    return array.T


def _decode(file: Path) -> np.ndarray:
    packed = ""
    try:
        with hushed():
            dataset = pydicom.dcmread(file, force=True)
            syntax = dataset.file_meta.get("TransferSyntaxUID")
            packed = syntax.name if syntax is not None and syntax.is_compressed else ""
            return dataset.pixel_array
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes make pydicom and its decoders raise nearly anything
        if packed and isinstance(error, (RuntimeError, NotImplementedError)):
            raise MrictError(
                f"{shown(file)}: pixels compressed as {packed} cannot be decoded; "
                "expected another compression, or an undamaged file; export it uncompressed"
            ) from None
        raise damaged(file, f"pixels: {type(error).__name__}") from None

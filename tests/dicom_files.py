"""Real DICOM files of small volumes, made by pydicom, full of planted identifiers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.pixels import set_pixel_data
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)
from pydicom.valuerep import DSfloat

from mrict_core.data.images.grids import LPS_TO_RAS

IDENTIFIERS = {
    "PatientName": "DOE^JOHN",
    "PatientID": "HOSP-778899",
    "PatientBirthDate": "19511231",
    "PatientAge": "074Y",
    "OtherPatientIDs": "ALIAS-4242",
    "PatientAddress": "12 Elm Street",
    "PatientComments": "Comment on John",
    "StudyDate": "20250317",
    "SeriesDate": "20250318",
    "AcquisitionDate": "20250319",
    "ContentDate": "20250320",
    "StudyTime": "081523",
    "StudyID": "STUDY7788",
    "AccessionNumber": "ACC-556677",
    "ReferringPhysicianName": "HOUSE^GREGORY",
    "OperatorsName": "OPERATOR^OLGA",
    "InstitutionName": "Planted General Hospital",
    "StationName": "STATION-MR3",
    "DeviceSerialNumber": "SERIAL-314159",
    "StudyDescription": "Head of John Doe",
    "SeriesDescription": "T1 for Dr House",
    "ProtocolName": "John protocol",
}
PRIVATE = "PRIVATE-NOTE-ON-JOHN"
PLANTED = (*IDENTIFIERS.values(), PRIVATE, "DOE", "JOHN", "HOUSE")


def position(affine: np.ndarray, k: int) -> list[DSfloat]:
    """Return ImagePositionPatient of slice k of an affine (column, row, slice) -> RAS mm."""
    return [DSfloat(float(v), auto_format=True) for v in (LPS_TO_RAS @ affine @ [0, 0, k, 1])[:3]]


def orientation(affine: np.ndarray) -> list[DSfloat]:
    axes = (LPS_TO_RAS @ affine)[:3, :2]
    axes = axes / np.linalg.norm(axes, axis=0)
    return [DSfloat(float(v), auto_format=True) for v in axes.T.ravel()]


def plane_facts(affine: np.ndarray) -> dict[str, Any]:
    across, down, step = (DSfloat(float(v), auto_format=True) for v in np.linalg.norm(affine[:3, :3], axis=0))
    return {"PixelSpacing": [down, across], "SliceThickness": step, "SpacingBetweenSlices": step}


def _dataset(sop_class: str, uids: dict[str, str], syntax: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = generate_uid(prefix=None)
    meta.TransferSyntaxUID = syntax
    little = syntax != ExplicitVRBigEndian
    dataset = FileDataset("", {}, b"\0" * 128, meta, is_implicit_VR=False, is_little_endian=little)
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    for keyword, value in {**IDENTIFIERS, **uids}.items():
        setattr(dataset, keyword, value)
    dataset.PatientSex, dataset.Modality, dataset.SeriesNumber = "M", "MR", 3
    dataset.AcquisitionNumber = 998877
    dataset.PatientPosition, dataset.PositionReferenceIndicator = "HFS", ""
    block = dataset.private_block(0x0011, "PLANTED", create=True)
    block.add_new(1, "LO", PRIVATE)
    return dataset


def new_uids() -> dict[str, str]:
    return {k: generate_uid(prefix=None) for k in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")}


def _put_pixels(dataset: Dataset, stored: np.ndarray, syntax: str) -> None:
    native = syntax in (ExplicitVRLittleEndian, ExplicitVRBigEndian)
    if syntax == ExplicitVRBigEndian:
        dataset.Rows, dataset.Columns = stored.shape[-2:]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
        dataset.add_new("PixelData", "OW", stored.astype(">u2").tobytes())
        return
    set_pixel_data(dataset, stored, "MONOCHROME2", 16, generate_instance_uid=False)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if not native:
        dataset.compress(syntax, generate_instance_uid=False)


def write_mr_series(
    folder: Path,
    stored: np.ndarray,
    affine: np.ndarray,
    *,
    syntax: str = ExplicitVRLittleEndian,
    uids: dict[str, str] | None = None,
    slope: Any = None,
    suffix: str = ".dcm",
    prefix: str = "IM",
    **tags: Any,
) -> list[Path]:
    """Write `stored` (columns, rows, slices) uint16 as one file per slice, in shuffled order of names.

    `slope`: function of the slice's number giving (slope, intercept). `tags` are set in every file, functions of k too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    uids = uids or new_uids()
    count = stored.shape[2]
    names = np.random.default_rng(count).permutation(count)
    written = []
    for k in range(count):
        dataset = _dataset(CTImageStorage if tags.get("Modality") == "CT" else MRImageStorage, uids, syntax)
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "M"]
        dataset.InstanceNumber = k + 1
        dataset.ImagePositionPatient, dataset.ImageOrientationPatient = position(affine, k), orientation(affine)
        for keyword, value in plane_facts(affine).items():
            setattr(dataset, keyword, value)
        if slope:
            dataset.RescaleSlope, dataset.RescaleIntercept = slope(k)
        _put_pixels(dataset, np.ascontiguousarray(stored[:, :, k].T), syntax)
        for keyword, value in tags.items():
            setattr(dataset, keyword, value(k) if callable(value) else value)
        written.append(folder / f"{prefix}{names[k]:04d}{suffix}")
        dataset.save_as(written[-1], enforce_file_format=True)
    return written


# the functional groups of enhanced MR that hold what a frame is
FRAME_GROUPS = {
    "EffectiveEchoTime": "MREchoSequence",
    "InversionTimes": "MRModifierSequence",
    "RepetitionTime": "MRTimingAndRelatedParametersSequence",
    "FlipAngle": "MRTimingAndRelatedParametersSequence",
    "DiffusionBValue": "MRDiffusionSequence",
    "DiffusionDirectionality": "MRDiffusionSequence",
    "ComplexImageComponent": "MRImageFrameTypeSequence",
    "FrameType": "MRImageFrameTypeSequence",
    "AcquisitionContrast": "MRImageFrameTypeSequence",
    "VolumeBasedCalculationTechnique": "MRImageFrameTypeSequence",
    "NumberOfAverages": "MRAveragesSequence",
    "InPlanePhaseEncodingDirection": "MRFOVGeometrySequence",
    "TemporalPositionIndex": "FrameContentSequence",
    "StackID": "FrameContentSequence",
    "FrameAcquisitionNumber": "FrameContentSequence",
    "PixelBandwidth": "MRImagingModifierSequence",
    "ReceiveCoilName": "MRReceiveCoilSequence",
    "NominalCardiacTriggerDelayTime": "CardiacSynchronizationSequence",
    "ContrastBolusAgentAdministered": "ContrastBolusUsageSequence",
    "EchoTime": "UnassignedPerFrameConvertedAttributesSequence",  # of images converted from classic ones
}


def group(name: str, **values: Any) -> Dataset:
    """Return an item of functional groups with one group."""
    item, inner = Dataset(), Dataset()
    for keyword, value in values.items():
        setattr(inner, keyword, value)
    setattr(item, name, [inner])
    return item


def write_enhanced(
    file: Path,
    stored: np.ndarray,
    affine: np.ndarray,
    slope: Any = lambda k: (1, 0),
    order: Any = None,
    *,
    place: Any = lambda k: k,
    facts: Any = lambda k: {},
    uids: dict[str, str] | None = None,
    **tags: Any,
) -> Path:
    """Write `stored` (columns, rows, frames) as one enhanced multi-frame MR, frames in `order`.

    `place`: frame -> number of its slice; `facts`: frame -> {keyword: value}, put into its functional groups; `tags`
    are the file's.
    """
    order = list(range(stored.shape[2]) if order is None else order)
    dataset = _dataset(EnhancedMRImageStorage, uids or new_uids(), ExplicitVRLittleEndian)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    dataset.InstanceNumber = 1
    shared = group("PixelMeasuresSequence", **plane_facts(affine))
    shared.update(group("PlaneOrientationSequence", ImageOrientationPatient=orientation(affine)))
    dataset.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for k in order:
        frame = group("PlanePositionSequence", ImagePositionPatient=position(affine, place(k)))
        factor, shift = slope(k)
        values = {"RescaleSlope": factor, "RescaleIntercept": shift, "RescaleType": "US"}
        frame.update(group("PixelValueTransformationSequence", **values))
        for keyword, value in facts(k).items():
            frame.update(group(FRAME_GROUPS[keyword], **{keyword: value}))
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = frames
    _put_pixels(dataset, np.ascontiguousarray(stored.transpose(2, 1, 0)[order]), ExplicitVRLittleEndian)
    dataset.NumberOfFrames = stored.shape[2]
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    dataset.save_as(file, enforce_file_format=True)
    return file


def add_private(file: Path, group: int, creator: str, element: int, vr: str, value: Any) -> None:
    """Add a vendor's tag to a file in place."""
    dataset = pydicom.dcmread(file)
    dataset.private_block(group, creator, create=True).add_new(element, vr, value)
    dataset.save_as(file)


def retag(file: Path, **tags: Any) -> None:
    """Change tags of a file in place; None removes one."""
    dataset = pydicom.dcmread(file)
    for keyword, value in tags.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(file)

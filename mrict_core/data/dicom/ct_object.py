"""The DICOM object of one synthetic CT slice: CT Image Storage (PS3.3 A.3), derived, not for clinical use."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import DSfloat

from mrict_core.data.dicom.frames import Frame
from mrict_core.files import hash_of
from mrict_core.hu import DISPLAY_WINDOWS_HU

SERIES_NUMBER = 9001  # after the scanner's own
MAKER = "MRICT"
NOTE = "not for clinical use"
LONG_STRING = 64  # characters of VR LO
WINDOWS = {"soft": "SOFT TISSUE", "bone": "BONE"}  # presets of a viewer, which opens the series with the first
EMPTY = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID")
EMPTY += ("AccessionNumber", "ReferringPhysicianName")  # type 2: present, value unknown


@dataclass(frozen=True)
class Plane:
    """Position of a slice (LPS mm; spacing down a column, then along a row) and the MR image it was made from."""

    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing_mm: tuple[float, float]
    thickness_mm: float
    source: Frame | None = None


@dataclass(frozen=True)
class SeriesFacts:
    """What the slices of one synthetic CT share. `identity` None: pseudonymous."""

    study_uid: str = field(repr=False)
    series_uid: str
    frame_of_reference_uid: str = field(repr=False)
    patient_position: str
    lossy: bool
    model: str
    version: str
    intercept: int
    identity: dict[str, str] | None = field(repr=False)


def ct_slice(facts: SeriesFacts, plane: Plane, number: int, hu: np.ndarray) -> FileDataset:
    """Return the object of one slice of whole HU (rows, columns); `number` counts from 1."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = generate_uid(prefix=None)
    image = FileDataset("", {}, b"\0" * 128, meta, is_implicit_VR=False, is_little_endian=True)
    image.SpecificCharacterSet = "ISO_IR 192"
    image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    _set_patient(image, facts)
    _set_series(image, facts)
    _set_derivation(image, facts, plane.source)
    image.InstanceNumber, image.AcquisitionNumber, image.KVP = number, None, None
    image.ImagePositionPatient, image.ImageOrientationPatient = _decimals(plane.position), _decimals(plane.orientation)
    image.PixelSpacing, image.SliceThickness = _decimals(plane.spacing_mm), _decimals([plane.thickness_mm])[0]
    _set_pixels(image, facts, hu)
    return image


def _decimals(values: tuple[float, ...] | list[float]) -> list[DSfloat]:
    """Return the nearest decimal strings of at most 16 characters."""
    return [DSfloat(float(v), auto_format=True) for v in values]


def _set_patient(image: Dataset, facts: SeriesFacts) -> None:
    for keyword in EMPTY:
        setattr(image, keyword, "")
    image.StudyInstanceUID = facts.study_uid
    if facts.identity is None:
        image.PatientName, image.PatientID = "ANONYMOUS^MRICT", f"MRICT-{hash_of(facts.study_uid)[:8].upper()}"
        image.PatientIdentityRemoved = "YES"
        image.DeidentificationMethod = "patient and study attributes of the MR not copied; UIDs kept"
        return
    for keyword, value in facts.identity.items():
        setattr(image, keyword, value)
    now = datetime.datetime.now()
    image.InstanceCreationDate, image.InstanceCreationTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")


def _set_series(image: Dataset, facts: SeriesFacts) -> None:
    image.Modality, image.SeriesInstanceUID, image.SeriesNumber = "CT", facts.series_uid, SERIES_NUMBER
    room = LONG_STRING - len(f"synthetic CT (MRICT ), {NOTE}")
    image.SeriesDescription = f"synthetic CT (MRICT {facts.model[:room]}), {NOTE}"
    image.PatientPosition, image.Laterality = facts.patient_position, ""
    image.FrameOfReferenceUID, image.PositionReferenceIndicator = facts.frame_of_reference_uid, ""
    image.Manufacturer, image.ManufacturerModelName = MAKER, facts.model[:LONG_STRING]
    image.SoftwareVersions = facts.version[:LONG_STRING]


def _code(value: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "DCM", meaning
    return code


def _set_derivation(image: Dataset, facts: SeriesFacts, source: Frame | None) -> None:
    image.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]  # CT allows AXIAL and LOCALIZER as the third value
    image.DerivationDescription = f"synthetic CT of an MR by MRICT {facts.version}, model {facts.model}; {NOTE}"
    image.BurnedInAnnotation, image.ContentQualification = "NO", "RESEARCH"
    image.LossyImageCompression = "01" if facts.lossy else "00"  # once lossy, always lossy
    equipment = Dataset()
    equipment.Manufacturer, equipment.ManufacturerModelName = MAKER, facts.model[:LONG_STRING]
    equipment.SoftwareVersions, equipment.ContributionDescription = facts.version[:LONG_STRING], f"synthetic CT, {NOTE}"
    equipment.PurposeOfReferenceCodeSequence = [_code("109103", "Modifying Equipment")]
    image.ContributingEquipmentSequence = [equipment]
    if source is None or not (source.sop_class and source.sop_uid):
        return
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = source.sop_class, source.sop_uid
    if source.of > 1:
        reference.ReferencedFrameNumber = source.index + 1
    reference.PurposeOfReferenceCodeSequence = [_code("121322", "Source image for image processing operation")]
    reference.SpatialLocationsPreserved = "YES"
    image.SourceImageSequence = [reference]


def _set_pixels(image: Dataset, facts: SeriesFacts, hu: np.ndarray) -> None:
    image.Rows, image.Columns = hu.shape
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 0
    image.RescaleIntercept, image.RescaleSlope, image.RescaleType = facts.intercept, 1, "HU"
    windows = [(round(low), round(high)) for low, high in (DISPLAY_WINDOWS_HU[name] for name in WINDOWS)]
    image.WindowCenter = [(low + high) // 2 for low, high in windows]
    image.WindowWidth = [high - low for low, high in windows]
    image.WindowCenterWidthExplanation = list(WINDOWS.values())
    image.add_new("PixelData", "OW", (hu - facts.intercept).astype("<u2").tobytes())

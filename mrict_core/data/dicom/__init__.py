"""DICOM series in, DICOM CT series out. Values of tags, which may identify a patient, never enter a message."""

from mrict_core.data.dicom.reading import DicomVolume, Source, read_series
from mrict_core.data.dicom.series import Series, is_dicom, list_series
from mrict_core.data.dicom.writing import staged_ct_series, write_ct_series

__all__ = [
    "DicomVolume",
    "Series",
    "Source",
    "is_dicom",
    "list_series",
    "read_series",
    "staged_ct_series",
    "write_ct_series",
]

"""Read and write DICOM series. Tag values, which may identify a patient, never appear in a message."""

from mrict_core.data.dicom.read import DicomVolume, Source, read_series
from mrict_core.data.dicom.series import Series, SeriesFound, is_dicom, list_series, series_below
from mrict_core.data.dicom.write import staged_ct_series, write_ct_series

__all__ = [
    "DicomVolume",
    "Series",
    "SeriesFound",
    "Source",
    "is_dicom",
    "list_series",
    "read_series",
    "series_below",
    "staged_ct_series",
    "write_ct_series",
]

"""What a DICOM object is, by its SOP class: an image and its modality, or something else."""

from __future__ import annotations

import re

import pydicom
from pydicom import uid
from pydicom.config import IGNORE

from mrict_core.data.dicom.values import text_of

MODALITY = re.compile("[A-Z]{2,16}")
CAPTURE, NO_MODALITY = "secondary capture", "no modality"
BY_CLASS = {
    **dict.fromkeys((uid.MRImageStorage, uid.EnhancedMRImageStorage, uid.EnhancedMRColorImageStorage), "MR"),
    uid.LegacyConvertedEnhancedMRImageStorage: "MR",
    **dict.fromkeys((uid.CTImageStorage, uid.EnhancedCTImageStorage), "CT"),
    uid.LegacyConvertedEnhancedCTImageStorage: "CT",
}


def class_of(header: pydicom.Dataset) -> str:
    """Return the UID of the SOP class, "" if neither object nor file meta information has one."""
    return text_of(header, "SOPClassUID") or text_of(header.file_meta, "MediaStorageSOPClassUID")


def why_no_image(header: pydicom.Dataset) -> str:
    """Return what a non-image object is, "" for an image.

    The class decides, as raw data and spectra may have rows and columns too. Without a class, an object with rows and
    columns counts as an image.
    """
    kind = class_of(header)
    if not kind:
        return "" if "Rows" in header and "Columns" in header else "DICOM without an image"
    name = uid.UID(kind, IGNORE).name
    if "Image Storage" in name and "RT Image" not in name:
        return ""
    return name.removesuffix(" Storage") if kind in uid.UID_dictionary else "DICOM of an unknown class"


def modality_of(header: pydicom.Dataset) -> str:
    """Return the modality by SOP class, else by tag; both if they contradict each other."""
    kind, tag = class_of(header), text_of(header, "Modality")
    tag = tag if MODALITY.fullmatch(tag) else ""
    by_class = BY_CLASS.get(kind, "")
    if "Secondary Capture" in uid.UID(kind, IGNORE).name:
        return CAPTURE
    if by_class and tag not in ("", "OT", by_class):
        return f"{tag} by its tag and {by_class} by its class"
    return by_class or tag or NO_MODALITY


def is_unsure(modality: str) -> bool:
    """Return whether a series may be an MR although nothing says so; it is read only when named."""
    return modality in (CAPTURE, NO_MODALITY, "OT") or "by its class" in modality

"""Attributes that separate the images of a series: echo time, inversion time, image type, coil …, read per frame."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydicom
from pydicom.datadict import keyword_for_tag

from mrict_core.data.dicom.values import values_of

Value = tuple[float, ...] | tuple[str, ...]
FEW = 8  # a value that may vary slice by slice separates images only if at least this many slices share it


@dataclass(frozen=True)
class Fact:
    """An attribute by which images differ: the first of `keywords` that is present (some exist in enhanced files only).

    `slack`: relative difference explained by rounding or the patient's pulse; None for words. `by_slice`: may vary
    between the slices of one image. `repeats`: separates only images of the same place.
    """

    keywords: tuple[str | tuple[int, str, int], ...]
    slack: float | None = None
    by_slice: bool = False
    repeats: bool = False


def _numbers(slack: float, *keywords: str | tuple[int, str, int], **kinds: bool) -> Fact:
    return Fact(keywords, slack, **kinds)


COMPONENT, IMAGE_TYPE, PROJECTION = "ComplexImageComponent", "ImageType", "VolumeBasedCalculationTechnique"
GE_COMPONENT = (0x0043, "GEMS_PARM_01", 0x2F)
GE_COMPONENTS = ("MAGNITUDE", "PHASE", "REAL", "IMAGINARY")
B_VALUES = ((0x0019, "SIEMENS MR HEADER", 0x0C), (0x0043, "GEMS_PARM_01", 0x39), (0x0065, "Image Private Header", 0x09))
# the first that differs names the parts: the attributes best known to MR readers come first
FACTS = {
    "PatientID": Fact(("PatientID",)),  # one UID used for two patients
    COMPONENT: Fact((COMPONENT, GE_COMPONENT)),
    "EchoTime": _numbers(0.02, "EffectiveEchoTime", "EchoTime"),
    "InversionTime": _numbers(0.02, "InversionTimes", "InversionTime"),
    "DiffusionBValue": _numbers(0.02, "DiffusionBValue", *B_VALUES),
    "FlipAngle": _numbers(0.02, "FlipAngle"),
    "RepetitionTime": _numbers(0.1, "RepetitionTime", by_slice=True),
    IMAGE_TYPE: Fact(("FrameType", IMAGE_TYPE)),
    "TemporalPositionIdentifier": _numbers(0, "TemporalPositionIndex", "TemporalPositionIdentifier"),
    "EchoNumbers": _numbers(0, "EchoNumbers"),
    "TriggerTime": _numbers(0.02, "NominalCardiacTriggerDelayTime", "TriggerTime", by_slice=True),
    "MagneticFieldStrength": _numbers(0.05, "MagneticFieldStrength"),
    "PixelBandwidth": _numbers(0.05, "PixelBandwidth"),
    "SliceThickness": _numbers(0.05, "SliceThickness"),
    "NumberOfAverages": _numbers(0.02, "NumberOfAverages"),
    "EchoTrainLength": _numbers(0, "RFEchoTrainLength", "EchoTrainLength"),
    "SeriesNumber": _numbers(0, "SeriesNumber"),
    "DiffusionGradientOrientation": Fact(("DiffusionGradientOrientation",), 0),
    **{
        keyword: Fact((keyword,))
        for keyword in (
            *("ScanningSequence", "SequenceVariant", "ScanOptions", "MRAcquisitionType", "EchoPulseSequence"),
            *("InPlanePhaseEncodingDirection", "DiffusionDirectionality", "AcquisitionContrast", PROJECTION),
            *("ReceiveCoilName", "TransmitCoilName", "StackID", "PatientPosition", "ImagedNucleus", "ProtocolName"),
            *("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber"),
        )
    },
    "SequenceName": Fact(("PulseSequenceName", "SequenceName")),
    "ContrastBolusAgent": Fact(("ContrastBolusAgentAdministered", "ContrastBolusAgent")),
    "AcquisitionNumber": _numbers(0, "FrameAcquisitionNumber", "AcquisitionNumber", repeats=True),
    "InstanceNumber": _numbers(0, "InstanceNumber", repeats=True),  # of enhanced files: each may be an image
    "RespiratoryTriggerDelay": _numbers(0.02, "NominalRespiratoryTriggerDelayTime", repeats=True),
}
KEYWORDS = sorted({k for fact in FACTS.values() for k in fact.keywords if isinstance(k, str)} - {"FrameType"})
PRIVATE = (*B_VALUES, GE_COMPONENT)
TAGS = (*KEYWORDS, *[group << 16 | element for group, _, low in PRIVATE for element in (0x10, 0x1000 | low)])
# words that messages may show; any other word in a header may be a name
SHOWN = re.compile(
    r"\d{1,2}|ROW|COL(UMN)?|ORIGINAL|DERIVED|PRIMARY|SECONDARY|LOCALIZER|AXIAL|OTHER|NONE|"
    r"MAGNITUDE|PHASE|REAL|IMAGINARY|MIXED|"
    r"[MPRIWF]|[MPRI]_(FFE|SE|IR|TSE|TFE)|WATER|FAT|IN|OUT|[IO]P|IN_?PHASE|(OUT|OPP(OSED)?)_?(OF_)?PHASE|DIXON|NORM|ND|"
    r"DIS[23]D|TRACEW|ADC|FA|DIFFUSION|MPR|MIP|MINIP|SUB(TRACTION)?|(PHASE|ADC|FA|T1|T2|T2_STAR|B0|FIELD)_?MAP|"
    r"FFE|SE|GR|IR|EP|RM|SK|MTC|SS|TRSS|SP|OSP|[23]D|DIRECTIONAL|BMATRIX|ISOTROPIC|[HFLRAP]F(S|P|DL|DR)"
)


def values_of_frames(header: pydicom.Dataset, keywords: Collection[str]) -> list[dict[Any, Any]]:
    """Return {keyword: value} per frame: the frame's own value, else the shared one, else that of the file.

    Private tags (`PRIVATE`) are keys too. A file without functional groups counts as one frame.
    """
    wanted = {*keywords, "FrameType"}
    common = {keyword: header.get(keyword) for keyword in keywords if keyword in header}
    common |= {place: value for place in PRIVATE if (value := _private(header, place)) is not None}
    for item in header.get("SharedFunctionalGroupsSequence") or []:
        common |= _inside(item, wanted)
    frames = header.get("PerFrameFunctionalGroupsSequence") or []
    if not frames:
        common.pop("InstanceNumber", None)  # numbers slices here
    return [common | _inside(item, wanted) for item in frames or [pydicom.Dataset()]]


def _inside(item: pydicom.Dataset, keywords: Collection[str]) -> dict[str, Any]:
    """Return {keyword: value} of a functional group item, at any depth, without private groups."""
    found = {}
    for tag in item.keys():  # noqa: SIM118 - iterating a data set decodes everything in it
        keyword = keyword_for_tag(tag)
        if keyword in keywords and item[tag].value is not None:
            found[keyword] = item[tag].value
        elif keyword.endswith("Sequence") and item[tag].value:
            found |= _inside(item[tag].value[0], keywords)
    return found


def _private(header: pydicom.Dataset, place: tuple[int, str, int]) -> Any:
    """Return the value of a private tag (group, creator, element), None if absent."""
    group, creator, element = place
    try:
        return header.private_block(group, creator)[element].value
    except KeyError:
        return None


def facts_of(values: Mapping) -> dict[str, Value]:
    """Return a frame's value for each of `FACTS`, () if absent or not a number."""
    return {name: _value(values, fact) for name, fact in FACTS.items()}


def _value(values_of_frame: Mapping, fact: Fact) -> Value:
    for keyword in fact.keywords:
        values = [v for v in values_of(values_of_frame.get(keyword)) if v not in (None, "")]
        if keyword == GE_COMPONENT:
            values = [GE_COMPONENTS[v] for v in values if v in range(len(GE_COMPONENTS))]
        if not values:
            continue
        if fact.slack is None:
            return tuple(str(v).strip().upper() for v in values)
        try:
            numbers = np.array([float(v) for v in values])
        except (TypeError, ValueError):
            continue
        if not np.isfinite(numbers).all():
            continue
        if keyword in B_VALUES:
            numbers = numbers[:1] % 1e6  # GE adds 1e9, and appends other values
        return tuple(float(n) for n in np.round(numbers, 2 if len(numbers) > 1 else 9))
    return ()


def labelled(values: Sequence[Value], fact: Fact) -> list[str]:
    """Return a short label per value: numbers unchanged, words only if they identify nobody, else letters."""
    if fact.slack is not None and all(len(v) <= 1 for v in values):
        return _of_numbers(values, fact.slack)
    distinct = sorted(set(values), key=str)
    common = set.intersection(*map(set, distinct))
    labels = {v: "+".join(_word(word) for word in dict.fromkeys(v) if word not in common) or "none" for v in distinct}
    harmless = all(isinstance(w, str) and SHOWN.fullmatch(_word(w)) for v in distinct for w in v if w not in common)
    if not harmless or len(set(labels.values())) < len(labels):
        labels = {v: _letter(k) for k, v in enumerate(filter(None, distinct))} | {(): "none"}
    return [labels[v] for v in values]


def _word(word: Any) -> str:
    return re.sub(r"[\s-]+", "_", str(word))


def _letter(k: int) -> str:
    return chr(ord("A") + k) if k < 26 else f"Z{k - 25}"


def _of_numbers(values: Sequence[Value], slack: float) -> list[str]:
    """Return labels of numbers: neighbours within `slack` share one; absent ("none") counts as 0."""
    numbers = np.array([v[0] if v else 0.0 for v in values])
    distinct, counts = np.unique(numbers, return_counts=True)
    breaks = np.diff(distinct) > slack * np.maximum(np.abs(distinct[1:]), np.abs(distinct[:-1])) + 1e-6
    cluster = np.concatenate([[0], np.cumsum(breaks)])
    label = {}
    for k in np.unique(cluster):
        inside = np.flatnonzero(cluster == k)
        text = f"{distinct[inside[np.argmax(counts[inside])]]:.7g}"
        label.update(dict.fromkeys(distinct[inside].tolist(), text))
    if () in values and (0.0,) not in values:
        label[0.0] = "none"
    return [label[n] for n in numbers.tolist()]


def tells_apart(fact: Fact, labels: Sequence[str]) -> bool:
    """Return whether these labels, one per slice, show that the slices belong to several images."""
    counts = Counter(labels)
    if len(counts) == 1 or fact.repeats:
        return False
    return not fact.by_slice or (2 * len(counts) <= len(labels) and len(counts) <= max(2, len(labels) // FEW))

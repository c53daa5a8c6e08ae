"""Decide by image type whether a frame is an MR magnitude image.

Phase, real and imaginary parts, maps and projections are refused. Magnitudes computed from other images in an unknown
way, or in one that changes contrast, are accepted with a remark.
"""

from __future__ import annotations

import re

from mrict_core.data.dicom.attributes import COMPONENT, IMAGE_TYPE, PROJECTION
from mrict_core.data.dicom.frames import Frame

SEQUENCE = "(FFE|SE|IR|TSE|TFE|EPI|GRASE|B_FFE)"
NO_SIGNAL = {  # words of ImageType or FrameType, spaces as _
    "a phase image": rf"P|PHASE|PHASE_MAP|P_{SEQUENCE}",
    "an imaginary part": rf"I|IMAG|IMAGINARY|I_{SEQUENCE}",
    "a real part": rf"R|REAL|R_{SEQUENCE}",
    "a map of a quantity": (
        r".*MAP|E?ADC(_.*)?|FA|COLFA|FRACTIONAL_ANISOTROPY|R(EL|EG)?CB[FV]|CB[FV](_.*)?|MTT|TTP|TMAX|KTRANS|KEP|"
        r"(PD|PROTON_DENSITY_)?FF|(PD_?)?(FAT|WATER)_?FRAC(TION)?(_.*)?|R[12](_?STAR|\*)?|QSM|VELOCITY|"
        r"TEMPERATURE|STD_DEVIATION|[TZ]_(TEST|SCORE)|R_COEFFICIENT|STIFFNESS"
    ),
    "a projection": (
        r"(.*_)?M(AX|IN|N|EAN)?_?IP(_.*)?|PROJECTION(_IMAGE)?|VRT|SSD|(VOLUME|SURFACE)_RENDER(ING|ED)?|CURVED_MPR"
    ),
    "a difference or ratio of images": r"SUB(_.*)?|SUBTRACT(ION|ED)?|DIVISION|RATIO",
}
NO_SIGNAL = {what: re.compile(words) for what, words in NO_SIGNAL.items()}
COMPONENTS = {"PHASE": "a phase image", "IMAGINARY": "an imaginary part", "REAL": "a real part"}
KEEPS = re.compile(  # derived, but still a signal image
    r"M|MAGNITUDE|W|WATER|F|FAT|[IO]P|IN|OUT|IN_?PHASE|(OUT|OPP(OSED)?)_?(OF_)?PHASE|DIXON|MPR|RESAMPLED|AXIAL"
)
CHANGED = re.compile(r"TRACEW?|ISOTROPIC|T[12](_?STAR|\*)?|B[01]|PERFUSION|ASL|MEAN|ADDITION|MAXIMUM|MINIMUM|SWI")


def why_not(frame: Frame) -> str:
    """Return what a frame is if not a magnitude ("a phase image"), "" for a magnitude."""
    for word in frame.facts[COMPONENT]:
        if word in COMPONENTS:
            return COMPONENTS[word]
    words = [*_words(frame)[2:], *frame.facts[PROJECTION]]
    return next((what for what, known in NO_SIGNAL.items() if any(map(known.fullmatch, words))), "")


def remarks(frame: Frame) -> list[str]:
    """Return a remark if ImageType says that a magnitude was computed from other images."""
    words = _words(frame)
    derived = words[:1] == ["DERIVED"]
    changed = next((word for word in words[2:] if CHANGED.fullmatch(word)), "")
    if not derived or (not changed and any(map(KEEPS.fullmatch, words[2:]))):
        return []
    how = f"its ImageType contains {changed}" if changed else "its ImageType does not say how"
    return [f"a derived image ({how}): its grey values may differ from an acquired MR"]


def _words(frame: Frame) -> list[str]:
    return [re.sub(r"[\s-]+", "_", word) for word in frame.facts[IMAGE_TYPE]]

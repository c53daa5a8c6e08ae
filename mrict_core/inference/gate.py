"""The input check: does an MR resemble the training MRs, and does the result resemble a CT of such patients?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from mrict_core.data.cache.fingerprint import PROTOCOL, bone_shares, few_patients, of_single_slices, volume_features
from mrict_core.data.dicom import DicomVolume
from mrict_core.data.images.orders import SliceOrder, own_plane
from mrict_core.data.images.volumes import Volume
from mrict_core.errors import MrictError
from mrict_core.modalities import MR, Modality
from mrict_core.paths import region_named
from mrict_core.training.facts import ModelFacts

if TYPE_CHECKING:
    from mrict_core.inference.volume import Synthesis

SEVERITIES = NOTE, WARN, REFUSE = "note", "warn", "refuse"  # information; doubtful; far outside
VERDICTS = ("fits", "doubtful", "do not use")  # by the worst of its findings
BONE_FACTOR = 3.0  # below the lowest or above the highest bone share in training; doubled for few patients
BONE_WRONG = 10.0
ALPHA = 2e-4  # two-sided, per feature: with about fifty features, about 1 % of good inputs fail by chance
FACTOR_MIN = 5.0  # features have heavier tails than the normal distribution, even with many patients
WRONG = 2.0  # times the limit: not doubtful but wrong
FEW_SLICES = 5  # fewer show too little of a region to be a whole volume
DISAGREEMENT_HU = 100.0  # mean over the body; as large as the error of a usable synthetic CT
# Minimum spreads, for uniform cohorts. Logarithms: 0.02 is 2 %.
MIN_SPREAD = {
    **{"spacing": 0.04, "fov": 0.06},  # scanners of one kind differ by several per cent between protocols
    **{"body": 0.05, "area": 0.03, "flat": 0.04, "front_share": 0.02},  # adults differ by about 5 % in length
    **{"percentile": 0.05, "brightness": 0.05, "rim": 0.05, "front_minus": 0.04},  # of a range of 2
    **{"histogram": 0.015, "skewness": 0.15, "roughness": 0.12},
}
LOGARITHMS = {"spacing": "mm", "fov": "mm", "body_volume": "ml", "body_area": "cm²", "body_extent": "mm"}
MEANING = {
    "spacing": ("voxel size along the {part}", "are the header's units right?"),
    "fov": ("field of view along the {part}", "is it cut, or another protocol?"),
    "body_volume": ("volume of the body", "is it cut, or another region?"),
    "body_area": ("largest slice of the body", "is it cut, or another region?"),
    "body_extent": ("extent of the body along the {part}", "is it cut, or another region?"),
    "area": ("course of the body's area with height (level {part})", "is it upside down, cut, or another region?"),
    "flat": ("straight edge of the body at its {part}", "is the body cut off there?"),
    "front": ("difference of front and back", "is the orientation in the header right?"),
    "roughness": ("noise relative to the contrast", "is the image noisy or heavily filtered?"),
    "rim": ("brightness of the rim against the core", "is it another sequence, or is the contrast inverted?"),
    "": ("distribution of grey values ({name})", "is it another sequence, inverted contrast, or another region?"),
}


@dataclass(frozen=True)
class Finding:
    """One thing that does not fit: `value` is outside `low` to `high` (in `unit`); None: not a number."""

    name: str
    text: str
    severity: str = WARN
    value: float | None = None
    low: float | None = None
    high: float | None = None
    kind: str = ""  # findings of one kind share a cause and a sentence
    question: str = ""  # what to check
    unit: str = ""  # of the three numbers


def limits(name: str, entry: dict[str, Any], patients: int) -> tuple[float, float]:
    """Return the accepted range of a feature: a prediction interval, wider for few patients."""
    factor = max(FACTOR_MIN, float(stats.t.ppf(1 - ALPHA / 2, max(patients - 1, 1))) * (1 + 1 / patients) ** 0.5)
    least = next((value for start, value in MIN_SPREAD.items() if name.startswith(start)), 0.05)
    reach = factor * max(entry["spread"], least)
    return min(entry["centre"] - reach, entry["low"]), max(entry["centre"] + reach, entry["high"])


def check_input(volume: Volume, fingerprint: dict[str, Any] | None, modality: Modality = MR) -> list[Finding]:
    """Return what does not fit between an MR and the training fingerprint, worst first.

    An MR that cannot be prepared (a CT, say) is a finding, and so is a fingerprint of few patients, whose wide limits
    detect little. If every training patient was a single slice, only the middle slice of the body is compared.
    """
    if not fingerprint or fingerprint.get("protocol") != PROTOCOL or not fingerprint.get("features"):
        return [Finding("no_fingerprint", "the model has no training fingerprint: the input was not checked")]
    single = of_single_slices(fingerprint)
    try:
        found, _ = volume_features(volume, fingerprint["size"], middle=single, modality=modality)
    except MrictError as error:
        return [Finding("unusable", str(error), REFUSE)]
    few = few_patients(fingerprint["patients"])
    return [
        *compare(found, fingerprint),
        *([Finding("few_patients", few)] if few else []),
        *(_of_slices(volume) if single else []),
    ]


def _of_slices(volume: Volume) -> list[Finding]:
    """Return what a model trained on single slices cannot tell of an MR, and whether the MR has suspiciously few."""
    count = SliceOrder.axial(volume.affine).to_slices(volume.array).shape[0]
    if count == 1:
        return []
    few = f"the MR has {count} axial slices; expected one slice or a whole volume (at least {FEW_SLICES}); is it cut?"
    text = "the model was trained on single slices: of the MR, only the middle slice of the body was checked"
    return [*([Finding("few_slices", few)] if count < FEW_SLICES else []), Finding("single_slices", text, NOTE)]


def compare(found: dict[str, float], fingerprint: dict[str, Any]) -> list[Finding]:
    """Return the findings for computed features, worst first."""
    scored = []
    for name, entry in fingerprint["features"].items():
        low, high = limits(name, entry, fingerprint["patients"])
        value = found.get(name)
        if value is None or low <= value <= high:  # None: a feature of another version
            continue
        far = abs(value - entry["centre"]) / max(high - entry["centre"], entry["centre"] - low)
        scored.append((far, _finding(name, value, low, high, entry["centre"], REFUSE if far > WRONG else WARN)))
    return [finding for _, finding in sorted(scored, key=lambda pair: -pair[0])]


def _finding(name: str, value: float, low: float, high: float, centre: float, severity: str) -> Finding:
    start = next(s for s in MEANING if name.startswith(s))
    what, question = MEANING[start]
    what = what.format(part=name.rsplit("_", 1)[-1], name=name.replace("_", " "))
    unit = next((u for s, u in LOGARITHMS.items() if name.startswith(s)), None)
    if unit is None:
        text = f"{what} is {value:.2f} (training {centre:.2f}, accepted {low:.2f} to {high:.2f})"
        return Finding(name, text, severity, value, low, high, question, question)
    value, low, high, centre = (float(np.exp(v)) for v in (value, low, high, centre))
    share = f"{100 * value / centre:.3g} % of the training patients'"
    text = f"{what} is {share} ({value:.3g} {unit}; accepted {low:.3g} to {high:.3g} {unit})"
    return Finding(name, text, severity, value, low, high, question, question, unit)


def check_output(sd_hu: np.ndarray | None, body: np.ndarray) -> list[Finding]:
    """Return a finding if what the SD is made of disagrees: mean standard deviation (HU) over the body."""
    inside = np.asarray(body, bool)
    if sd_hu is None or not inside.any():
        return []
    mean = float(np.asarray(sd_hu)[inside].mean())
    if mean <= DISAGREEMENT_HU:
        return []
    most = f"expected at most {DISAGREEMENT_HU:.0f} HU"
    text = f"networks, flips or samples disagree by {mean:.0f} HU on average over the body; {most}"
    severity = REFUSE if mean > WRONG * DISAGREEMENT_HU else WARN
    return [Finding("disagreement", text, severity, mean, 0.0, DISAGREEMENT_HU, unit="HU")]


def check_bone(hu: np.ndarray, body: np.ndarray, fingerprint: dict[str, Any] | None) -> list[Finding]:
    """Return a finding per bone share far from that of the training CTs, or a note if theirs is unknown."""
    known = (fingerprint or {}).get("bone") or {}
    if not known.get("patients"):
        text = "the model does not record the bone share of its training CTs: missing bone was not checked"
        return [Finding("no_bone", text, NOTE)]
    shares, wide = bone_shares(hu, body), 2.0 if few_patients(known["patients"]) else 1.0
    return [found for name in shares if name in known for found in _bone(name, shares[name], known[name], wide)]


def _bone(name: str, share: float, known: dict[str, float], wide: float) -> list[Finding]:
    low, high = known["low"], known["high"]
    factor = max(_times(low, share), _times(share, high)) / wide
    if factor <= BONE_FACTOR:
        return []
    kind = "bone is missing" if share < low else "there is too much bone"
    share, low, high, reach = 100 * share, 100 * low, 100 * high, BONE_FACTOR * wide
    level = name.removesuffix("_hu").replace("_", " ")
    body, least, most = (f"{value:.2g}" if value < 10 else f"{value:.0f}" for value in (share, low, high))
    text = f"{kind}: {body} % of the body is {level} HU, in the training CTs {least} to {most} %"
    severity = REFUSE if factor > BONE_WRONG else WARN
    return [Finding(f"bone_{name}", text, severity, share, low / reach, min(100.0, high * reach), unit="%")]


def _times(value: float, other: float) -> float:
    return value / other if other else (np.inf if value else 0.0)


def before(volume: Volume, facts: ModelFacts) -> list[Finding]:
    """Return what does not fit between an MR and the model with these facts.

    A gate of axial slices cannot judge one slice of another plane: it would take the neck for the back of the head.
    """
    return _worded(_before(volume, facts), facts)


def _worded(findings: list[Finding], facts: ModelFacts) -> list[Finding]:
    """Return findings in the words of the model's input."""
    words = facts.modality.words
    return [replace(each, text=words(each.text), question=words(each.question)) for each in findings]


def _before(volume: Volume, facts: ModelFacts) -> list[Finding]:
    part, plane = _body_part(volume, facts.fingerprint), own_plane(volume.shape, volume.affine)
    if facts.fingerprint and plane != "axial" and "axial" in facts.all_planes:
        text = f"the MR is one {plane} slice, but the model's gate knows axial ones: the input was not checked"
        return [*part, Finding("other_plane", text)]
    return [*part, *check_input(volume, facts.fingerprint, facts.modality)]


def _body_part(volume: Volume, fingerprint: dict[str, Any] | None) -> list[Finding]:
    """Return a finding if a DICOM header names another body part than the model's region. Its text is not shown."""
    named = volume.source.body_part if isinstance(volume, DicomVolume) and volume.source else ""
    trained = (fingerprint or {}).get("region")
    if not named or not trained or region_named(named) == trained:
        return []
    came = region_named(named) or "another body part"
    text = f"the DICOM header names {came} (BodyPartExamined), the model was trained on {trained}"
    return [Finding("body_part", text, question="is it the right model?")]


def after(synthesis: Synthesis, facts: ModelFacts) -> list[Finding]:
    """Return what makes a result doubtful: disagreeing networks, missing bone."""
    body = synthesis.body
    return _worded([*check_output(synthesis.sd_hu, body), *check_bone(synthesis.hu, body, facts.fingerprint)], facts)


def distinct(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings, worst first, with only the worst of each name (an ensemble's models may repeat one)."""
    kept: dict[str, Finding] = {}
    for finding in sorted(findings, key=lambda each: -SEVERITIES.index(each.severity)):
        kept.setdefault(finding.name, finding)
    return list(kept.values())


def in_words(findings: Iterable[Finding]) -> list[str]:
    """Return a sentence per cause: its worst feature with numbers, the others by name."""
    return [_sentence(group) for group in _groups(findings)]


def _groups(findings: Iterable[Finding]) -> list[list[Finding]]:
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.kind or finding.name, []).append(finding)
    return list(groups.values())


def _sentence(group: Sequence[Finding]) -> str:
    first, *rest = group
    also = f", also outside: {', '.join(each.name.replace('_', ' ') for each in rest)}" if rest else ""
    return f"{first.text}{also}{f'; {first.question}' if first.question else ''}"


def verdict(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return {"verdict": "fits", "doubtful" or "do not use", "why": [the deciding sentences]}."""
    worst = max((SEVERITIES.index(finding.severity) for finding in findings), default=0)
    decide = [group for group in _groups(findings) if any(f.severity == SEVERITIES[worst] for f in group)]
    return {"verdict": VERDICTS[worst], "why": [_sentence(group) for group in decide] if worst else []}

"""The verdict on a pair: does the CT belong to its MR, and how far is it off?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import SimpleITK as sitk

from mrict_core.errors import MrictError
from mrict_core.pairing.optimum import COARSE_MM, compare, find_optimum
from mrict_core.pairing.overlaps import overlaps


class Verdict(StrEnum):
    """From best to worst."""

    GOOD = "good"
    LOOK = "look at it"
    NOT = "not a pair"


@dataclass(frozen=True)
class Limit:
    """From where a measure is a reason to look at a pair, and from where it is none at all."""

    look: float
    refuse: float | None
    unit: str
    reason: str  # a line for the user; {value}, {limit}
    low_is_bad: bool = False

    def verdict(self, value: float | None) -> Verdict:
        """Return the verdict of one measure; one without a basis is no reason."""
        if value is None:
            return Verdict.GOOD
        sign = -1 if self.low_is_bad else 1
        if self.refuse is not None and sign * value > sign * self.refuse:
            return Verdict.NOT
        return Verdict.LOOK if sign * value > sign * self.look else Verdict.GOOD

    def excess(self, value: float | None) -> float:
        """Return how far a value is beyond the limit to look, as a share of that limit; 0 within it."""
        if value is None:
            return 0.0
        return max(0.0, (-1 if self.low_is_bad else 1) * (value - self.look) / self.look)

    @property
    def in_words(self) -> str:
        return f"{'at least' if self.low_is_bad else 'at most'} {self.look:g} {self.unit}".strip()

    def line(self, value: float, **words: str) -> str:
        """Return the reason with the value, the limit that it passed, and `words`."""
        passed = self.refuse if self.verdict(value) is Verdict.NOT else self.look
        return self.reason.format(value=self.text(value), limit=f"{passed:g} {self.unit}".strip(), **words)

    def text(self, value: float) -> str:
        """Return a value with its unit."""
        return f"{value:.{1 if self.unit in ('mm', '°') else 2}f} {self.unit}".strip()


# Measured on phantoms, BrainWeb and a simulated pelvis, with known errors, noise, bias and cut fields. A body is nearly
# symmetrical: of another person the mirror image fits as well as the CT itself, even after registration.
LIMITS: dict[str, Limit] = {
    "mirror_gain": Limit(0.9, 1.05, "", "mirrored {mirror} the CT fits {value} times as well (at most {limit})"),
    "offset_mm": Limit(2.2, None, "mm", "the CT fits better {value} away (limit {limit}): register the pair again"),
    "offset_deg": Limit(2.0, None, "°", "the CT fits better turned by {value} (limit {limit}): register it again"),
    "body_dice": Limit(0.93, 0.75, "", "the bodies overlap by a Dice of {value} (at least {limit})", low_is_bad=True),
    "outline_mm": Limit(8.0, 15.0, "mm", "the outlines of the bodies are {value} apart on average (limit {limit})"),
    "air_dice": Limit(0.45, None, "", "air inside the bodies overlaps by a Dice of {value} (at least {limit})", True),
    "mutual_information": Limit(0.3, 0.1, "nats", "MR and CT share {value} of information (at least {limit})", True),
    "sharpness": Limit(0.05, None, "", "4 mm away it fits nearly as well (loss {value}, at least {limit})", True),
    "covered": Limit(0.5, 0.1, "", "the CT covers {value} of the MR's body (at least {limit})", low_is_bad=True),
}


@dataclass(frozen=True)
class Quality:
    """A verdict with its reasons, and the measures behind it; None for a measure without a basis.

    offset_mm, offset_deg: how far the CT is from where the mutual information is highest: mean displacement over the
    body, and angle. mutual_information in nats, of the pair as it is. body_dice, air_dice: Dice coefficients.
    outline_mm: mean distance of the bodies' surfaces. covered: share of the MR's body that the CT covers. mirror_gain:
    mutual information of the best mirror image over that of the pair at its best. sharpness: share of the mutual
    information that 4 mm cost, in the direction where they cost least.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    offset_mm: float
    offset_deg: float
    mutual_information: float
    body_dice: float
    air_dice: float | None
    outline_mm: float | None
    covered: float
    mirror_gain: float
    sharpness: float


OF_POSES = ("offset_mm", "offset_deg", "mirror_gain", "sharpness")
MEASURES = tuple(name for name in Quality.__dataclass_fields__ if name not in ("verdict", "reasons"))


def judge(mr: sitk.Image, ct: sitk.Image, mr_body: sitk.Image, ct_body: sitk.Image, field: sitk.Image) -> Quality:
    """Return the quality of a pair.

    All images are on one grid: MR in any unit, CT in HU, and masks (above 0: body; the CT has data). Raises MrictError
    for an empty body, different grids, and images of fewer than four voxels along an axis.
    """
    _check({"MR": mr, "CT": ct, "body of the MR": mr_body, "body of the CT": ct_body, "field of the CT": field})
    agreement = overlaps(mr, ct, mr_body, ct_body, field)
    measures = {name: getattr(agreement, name) for name in ("body_dice", "outline_mm", "air_dice", "covered")}
    if agreement.body_dice == 0:
        nothing = dict.fromkeys(("offset_mm", "offset_deg", "mutual_information", "sharpness", "mirror_gain"), 0.0)
        return Quality(Verdict.NOT, ("the bodies do not overlap",), **_rounded(measures | nothing))
    best = find_optimum(compare(mr, ct, mr_body, ct_body, field))
    measures |= {
        "offset_mm": best.offset_mm,
        "offset_deg": best.offset_deg,
        "mutual_information": best.here,
        "mirror_gain": best.mirrored / best.best if best.best > 0 else 0.0,
        "sharpness": best.sharpness,
    }
    return _judged(_rounded(measures), best.mirror)


def _rounded(measures: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return plain numbers for json, to three digits after the point."""
    return {name: None if value is None else round(float(value), 3) for name, value in measures.items()}


def _judged(measures: Mapping[str, float | None], mirror: str) -> Quality:
    """Return the worst verdict of all measures, and the reasons, those for the worst first."""
    verdicts = {name: limit.verdict(measures[name]) for name, limit in LIMITS.items()}
    if verdicts["mutual_information"] is Verdict.NOT:  # then no pose means anything
        verdicts |= dict.fromkeys(OF_POSES, Verdict.GOOD)
    bad = [name for verdict in (Verdict.NOT, Verdict.LOOK) for name in LIMITS if verdicts[name] is verdict]
    worst = verdicts[bad[0]] if bad else Verdict.GOOD
    return Quality(worst, tuple(LIMITS[name].line(measures[name], mirror=mirror) for name in bad), **measures)


def _check(images: Mapping[str, sitk.Image]) -> None:
    sizes = {name: image.GetSize() for name, image in images.items()}
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{name} {'×'.join(map(str, size))}" for name, size in sizes.items())
        raise MrictError(f"a pair of {found} voxels: expected one grid; resample them first")
    if min(sizes["MR"]) < 4:
        raise MrictError(f"a pair of {sizes['MR']} voxels: expected four along every axis to judge at {COARSE_MM:g} mm")
    for name in ("body of the MR", "body of the CT"):
        statistics = sitk.MinimumMaximumImageFilter()
        statistics.Execute(images[name])
        if statistics.GetMaximum() == 0:
            raise MrictError(f"the {name} is empty: expected a body; check the images")

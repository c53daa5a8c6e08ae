"""A metric in one row: its function, how it is shown, which direction is better, and its card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mrict_core.hu import HuRange
    from mrict_core.metrics.case import Case

BETTER = {
    "lower": "lower is better",
    "higher": "higher is better",
    "zero": "nearest to 0 is best",  # a bias
    "one": "nearest to 1 is best",  # a ratio
    "none": "neither better nor worse",  # a parameter
}
CARD_LABELS = {  # field of a card => label
    "title": "metric",
    "unit": "unit",
    "better": "better",
    "range": "range",
    "mask": "mask",
    "dimensionality": "computed in",
    "aggregation": "aggregation",
    "weights": "weights",
    "note": "note",
    "absent": "absent if",
}
CARD_FIELDS = ("name", *CARD_LABELS)
NOTHING = "–"


@dataclass(frozen=True)
class Metric:
    """One row of the table of metrics."""

    key: str  # the column
    heading: str  # over a column of a table
    title: str  # in words
    unit: str
    digits: int  # after the point
    better: str  # a key of `BETTER`
    panels: tuple[str, ...]  # where it is shown, see `table.PANELS`
    range: str  # intensities after clipping and the constant that scales the metric; {low}, {high}, {width} of `clip`
    mask: str
    dimensionality: str  # "3D" (one value per case) | "2D" (one value per slice) | "1D" (along lines)
    aggregation: str
    note: str  # definition, source, traps
    weights: str = "none"  # of the feature network
    absent: str = "the value is not finite"  # why a case has no value
    value: Callable[[Case], float] | None = None  # of one patient; None: see the note
    error: Callable[[float], float] | None = None  # for `distance`, if not linear
    clip: HuRange | None = None

    def order(self, value: float) -> float:
        """Return a value's sort key, the smaller the better; the value itself if neither direction is better."""
        return {"higher": -value, "zero": abs(value), "one": abs(value - 1)}.get(self.better, value)

    def distance(self, value: float) -> float:
        """Return how far a value is from perfect, growing with the error itself."""
        if self.error:
            return self.error(value)
        return 1 - value if self.better == "higher" else self.order(value)  # SSIM and Dice end at 1

    @property
    def spec(self) -> str:
        """The format of a value, e.g. ".1f"."""
        return f".{self.digits}f"

    def text(self, value: Any) -> str:
        """Return a value with the metric's digits, a dash for none."""
        return NOTHING if value is None or value != value else format(value, self.spec)  # NaN is not itself

    def card(self, clip: HuRange | None = None, note: str = "") -> dict[str, str]:
        """Return the definition as plain json values; `clip` and `note` replace the metric's own."""
        found = (
            {"name": self.key} | {field: getattr(self, field) for field in CARD_LABELS} | {"note": note or self.note}
        )
        if clip := clip or self.clip:
            spans = {"low": f"{clip.low:g}", "high": f"{clip.high:g}", "width": f"{clip.width:g}"}
            found["range"] = self.range.format(**spans)
        return found

    def definition(self) -> str:
        """Return the card as one item of a markdown list."""
        card = self.card()
        first, *_ = self.note.split()
        note = self.note if "_" in first else self.note[0].upper() + self.note[1:]  # a column's name is not capitalised
        return (
            f"- **{self.heading}**: {self.title} ({self.dimensionality}, {BETTER[self.better]}). "
            f"Range: {card['range']}. Mask: {self.mask}. Aggregation: {self.aggregation}. {note}."
        )

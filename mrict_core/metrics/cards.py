"""The metric card: how a number of the suite is defined."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True)
class MetricCard:
    """The definition behind one column of a table."""

    name: str  # the column
    unit: str
    better: str  # "lower" | "higher" | "zero" (a bias) | "one" (a ratio) | "none" (a count, a parameter)
    range: str  # intensities after clipping and the constant that scales the metric; never inferred from the data
    mask: str
    dimensionality: str  # "3D" (one value per case) | "2D" (one value per slice) | "1D" (along lines)
    aggregation: str
    weights: str  # of the feature network; "none" where there is none
    note: str
    absent: str = "the value is not finite"  # why a case has none

    def as_dict(self) -> dict[str, str]:
        """Return the card as plain json values."""
        return dataclasses.asdict(self)

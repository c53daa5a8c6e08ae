"""The table of metrics, used by records, leaderboard, page, figures, documents and the command line.

A new metric is one row in the `METRICS` of its family's file, next to the function that computes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from mrict_core.errors import unknown_name
from mrict_core.hu import range_of
from mrict_core.metrics import clinical, dose, feature_distances, predecessor, spectrum, synthrad, twins, uncertainty
from mrict_core.metrics.case import Case
from mrict_core.metrics.metric import BETTER, Metric

TABLE: dict[str, Metric] = {
    row.key: row
    for family in (synthrad, clinical, spectrum, uncertainty, predecessor, twins, feature_distances, dose)
    for row in family.METRICS
}
PANELS = {  # name => heading or meaning
    "synthrad2023": "SynthRAD2023",
    "synthrad2025": "SynthRAD2025",
    "thin": "Volumes too thin for three dimensions",
    "clinical": "Clinical panel",
    "uncertainty": "Uncertainty",
    "predecessor": "The predecessor’s numbers and their twins",
    "procedure": "The predecessor’s procedure",
    "features": "Feature metrics",
    "dose": "Dose",
    "leaderboard": "columns of the leaderboard",
    "compare": "compared by `compare` by default",
    "controls": "judged by the control images",
    "dots": "patient by patient in the clinical figure",
    "validation": "curves of a training",
    "model_card": "on the card of a published model",
}
PROTOCOLS = ("synthrad2023", "synthrad2025")  # of the command score
SCORE_ONLY = {"synthrad2025"}  # panels that are not in records


def metric(key: str) -> Metric:
    """Return a row of the table; the error for an unknown name suggests the nearest."""
    if key not in TABLE:
        raise unknown_name("metric", key, TABLE)
    return TABLE[key]


def keys(panel: str) -> tuple[str, ...]:
    """Return the metrics of a panel, in the table's order."""
    return tuple(row.key for row in TABLE.values() if panel in row.panels)


def recorded() -> tuple[str, ...]:
    """Return the metrics of the patients in a record."""
    return tuple(row.key for row in TABLE.values() if row.value and not SCORE_ONLY.issuperset(row.panels))


def values(names: Iterable[str], case: Case) -> dict[str, float]:
    """Return the values of metrics by name; NaN or infinity if a case has none."""
    return {name: metric(name).value(case) for name in names}


def heading(column: str) -> str:
    """Return the heading of a metric's column, by default the column's name."""
    return TABLE[column].heading if column in TABLE else column


def score_case(
    ct: np.ndarray,
    sct: np.ndarray,
    mask: np.ndarray,
    protocol: str = "synthrad2023",
    *,
    hu_range: str = "",
    luminance: str = "every_scale",
    exponents: str = "per_voxel",
) -> dict[str, Any]:
    """Return all metrics of a protocol by name; with SSIM also `ssim_dimensionality`, "3D" or "2D".

    ct, sct: HU, one 3-D shape; mask: the same shape, scored where mask > 0. hu_range: a name of `RANGES`, "" for the
    protocol's own; it bounds PSNR and the structural similarity, never the MAE. luminance, exponents: of MS-SSIM, see
    `ms_ssim`.
    """
    if protocol not in PROTOCOLS:
        raise unknown_name("scoring protocol", protocol, PROTOCOLS)
    case = Case(ct, sct, mask, hu_range=range_of(hu_range or protocol), luminance=luminance, exponents=exponents)
    return protocol_scores(protocol, case)


def protocol_scores(protocol: str, case: Case) -> dict[str, Any]:
    """Return all metrics of a protocol, see `score_case`."""
    found: dict[str, Any] = values(keys(protocol), case)
    return found | ({"ssim_dimensionality": synthrad.structure(case).dimensionality} if "ssim" in found else {})


def definitions(names: Iterable[str]) -> str:
    """Return the cards of metrics as a markdown list."""
    return "\n".join(metric(name).definition() for name in names)


def markdown() -> str:
    """Return the generated section of docs/metrics.md: the table, then the card of every metric by panel."""
    lines = ["| key | heading | metric | unit | digits | better |", "|---|---|---|---|---|---|"]
    lines += [
        f"| `{m.key}` | {m.heading} | {m.title} | {m.unit} | {m.digits} | {BETTER[m.better]} |" for m in TABLE.values()
    ]
    left = dict(TABLE)
    for panel, title in PANELS.items():
        if own := [left.pop(key) for key in keys(panel) if key in left]:
            lines += ["", f"### {title}", "", definitions(row.key for row in own)]
    return "\n".join(lines)

"""The page's charts, as plotly figures in plain json. The page's theme colours text and grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from mrict_core import metrics
from mrict_core.evaluation import shown_name
from mrict_core.evaluation.dose_table import DoseResults
from mrict_core.hu import CALIBRATION_SHOWN_HU, DICE_THRESHOLDS_HU
from mrict_core.metrics.clinical import SPANS
from mrict_core.reporting.style import CENTRE_COLOURS, FAINT, MODEL_LINES, model_look
from mrict_core.reporting.text_tables import FEWEST, count_people

Record = Mapping[str, Any]
DASHES = dict(zip(MODEL_LINES, ("solid", "dash", "dashdot", "dot", "longdashdot"), strict=True))
UNSEEN = "rgba(0,0,0,0)"  # box and line; plotly's legend then shows the points
SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "x")
SHOWN = 6  # models in a chart, best first


def leading(records: Sequence[Record]) -> list[Record]:
    """Return the best variants and the best baseline."""
    variants = [r for r in records if r["kind"] == "variant"][:SHOWN]
    return [*variants, *[r for r in records if r["kind"] == "baseline"][:1]]


def _line(record: Record) -> dict[str, Any]:
    return _line_of(record["name"]) if record["kind"] == "variant" else {"color": FAINT, "dash": "solid"}


def _line_of(name: str) -> dict[str, Any]:
    look = model_look(name)
    return {"color": look["color"], "dash": DASHES[look["linestyle"]]}


def _value(axis: str, metric: str) -> str:
    """Return the end of a hover text: the value on an axis with its metric's digits and unit."""
    row = metrics.metric(metric)
    unit = "" if row.unit == "1" else f" {row.unit}"
    return f"%{{{axis}:{row.spec}}}{unit}<extra></extra>"


def _intervals(statistics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the 95 % intervals as error bars; none where there are fewer than FEWEST patients."""
    drawn = [s["n"] >= FEWEST and s["low"] is not None for s in statistics]
    pairs = list(zip(statistics, drawn, strict=True))
    return {
        "type": "data",
        "array": [s["high"] - s["mean"] if shown else None for s, shown in pairs],
        "arrayminus": [s["mean"] - s["low"] if shown else None for s, shown in pairs],
        "color": FAINT,
        "thickness": 1.3,
    }


def _finished(figure: go.Figure, height: int, x: str, y: str, **layout: Any) -> dict[str, Any]:
    figure.update_layout(
        height=height,
        margin={"l": 60, "r": 20, "t": 16, "b": 48},
        template="none",
        xaxis_title=x,
        yaxis_title=y,
        legend={"orientation": "h", "y": -70 / (height - 64), "x": 0, "yanchor": "top"},
        hoverlabel={"font": {"size": 12}},
        **layout,
    )
    return figure.to_plotly_json()


def leaderboard(records: Sequence[Record]) -> dict[str, Any]:
    """Every patient's masked MAE by model, by centre, and the mean; its interval from FEWEST patients."""
    figure = go.Figure()
    scored = [r for r in records if r["summary"]["all"]["mae_hu"]["mean"] is not None]
    for centre in sorted({p["centre"] for r in scored for p in r["patients"]}):
        points = [(shown_name(r), p) for r in scored for p in r["patients"] if p["centre"] == centre]
        figure.add_scatter(
            x=[p["mae_hu"] for _, p in points],
            y=[name for name, _ in points],
            mode="markers",
            name=f"centre {centre}",
            marker={"color": CENTRE_COLOURS.get(centre, FAINT), "size": 7, "opacity": 0.75},
            text=[p["patient"] for _, p in points],
            hovertemplate="%{y}<br>%{text}: " + _value("x", "mae_hu"),
        )
    all_ = [r["summary"]["all"]["mae_hu"] for r in scored]
    means = [s["mean"] for s in all_]
    figure.add_scatter(
        x=means,
        y=[shown_name(r) for r in scored],
        mode="markers",
        name="mean, 95 % interval" if any(s["n"] >= FEWEST for s in all_) else "mean",
        marker={"symbol": "line-ns-open", "size": 14, "color": FAINT, "line": {"width": 2}},
        error_x=_intervals(all_),
        hovertemplate="%{y}<br>mean " + _value("x", "mae_hu"),
    )
    height = 24 * len(scored) + 130
    order = [shown_name(r) for r in scored]
    found = _finished(figure, height, "MAE inside the mask (HU)", "", yaxis={"categoryorder": "array"})
    rows = {"range": [len(order) - 0.5, -0.5], "dtick": 1}  # the best on top, every one named
    found["layout"]["yaxis"] |= {"categoryarray": order, "automargin": True} | rows
    found["layout"]["xaxis"] |= {"rangemode": "tozero"}
    return found


def centres(records: Sequence[Record]) -> dict[str, Any]:
    """The masked MAE by centre for the leading models: each patient is a point; boxes from FEWEST people."""
    figure, chosen = go.Figure(), leading(records)
    for centre in sorted({p["centre"] for r in chosen for p in r["patients"]}):
        points = [(shown_name(r), p) for r in chosen for p in r["patients"] if p["centre"] == centre]
        boxed = count_people([p for _, p in points]) >= FEWEST
        figure.add_box(
            x=[name for name, _ in points],
            y=[p["mae_hu"] for _, p in points],
            name=f"centre {centre}",
            boxpoints="all",
            jitter=0.4,
            pointpos=0,
            marker={"color": CENTRE_COLOURS.get(centre, FAINT), "size": 5},
            line={"width": 1.2} if boxed else {"color": UNSEEN},
            fillcolor=None if boxed else UNSEEN,
            hoveron="boxes+points" if boxed else "points",
            text=[p["patient"] for _, p in points],
            hovertemplate="%{x}<br>%{text}: " + _value("y", "mae_hu"),
        )
    found = _finished(figure, 380, "", "MAE inside the mask (HU)", boxmode="group", xaxis={"automargin": True})
    found["layout"]["yaxis"] |= {"rangemode": "tozero"}
    return found


def calibration(records: Sequence[Record]) -> dict[str, Any] | None:
    """The mean sCT at each CT value, averaged over patients, for the leading models."""
    figure = go.Figure()
    span = list(map(int, CALIBRATION_SHOWN_HU))
    figure.add_scatter(x=span, y=span, mode="lines", name="no bias", line={"color": FAINT, "dash": "dot"})
    for place, record in enumerate(leading(records)):
        curve = record.get("details", {}).get("calibration")
        if not curve:
            continue
        edges = np.asarray(curve["edges_hu"], float)
        means = pd.DataFrame([p["mean_hu"] for p in curve["patients"]], dtype=float)
        spreads = pd.DataFrame([p["sd_hu"] for p in curve["patients"]], dtype=float)
        known = means.notna().any(axis=0).to_numpy()
        figure.add_scatter(
            x=((edges[:-1] + edges[1:]) / 2)[known].tolist(),
            y=means.mean(axis=0)[known].round(1).tolist(),
            customdata=spreads.mean(axis=0)[known].round(0).tolist(),
            mode="lines",
            name=shown_name(record),
            line=_line(record) | {"width": 2},
            visible=True if place < 2 or record["kind"] != "variant" else "legendonly",
            hovertemplate="%{fullData.name}<br>CT %{x:.0f} → sCT %{y:.0f} ± %{customdata:.0f} HU<extra></extra>",
        )
    if len(figure.data) == 1:
        return None
    return _finished(figure, 460, "CT (HU)", "mean synthetic CT (HU)", xaxis={"range": span}, yaxis={"range": span})


def training(histories: Mapping[str, pd.DataFrame]) -> dict[str, Any] | None:
    """The masked MAE on the validation patients by epoch."""
    figure = go.Figure()
    for place, (name, history) in enumerate(histories.items()):
        if "val_mae_hu" not in history or history["val_mae_hu"].isna().all():
            continue
        best = history["is_best"].astype(bool) if "is_best" in history else pd.Series(False, index=history.index)
        chosen = best[best].index[-1:] if best.any() else []
        figure.add_scatter(
            x=history["epoch"].tolist(),
            y=history["val_mae_hu"].round(1).tolist(),
            mode="lines+markers",
            name=name,
            line=_line_of(name),
            marker={"size": [10 if i in chosen else 4 for i in history.index], "symbol": "diamond"},
            visible=True if place < SHOWN else "legendonly",
            hovertemplate=f"{name}<br>epoch %{{x}}: " + _value("y", "mae_hu"),
        )
    if not figure.data:
        return None
    found = _finished(figure, 420, "epoch", "MAE on validation patients (HU)")
    found["layout"]["xaxis"] |= {"dtick": 1} if max(len(h) for h in histories.values()) <= 15 else {}
    return found


def tissues(records: Sequence[Record]) -> dict[str, Any]:
    """MAE by tissue of the reference CT for the leading models, with the interval of the mean from FEWEST patients."""
    return _bars(
        records,
        [(f"{tissue}, {span.replace('-', '−')}", f"mae_{tissue}_hu") for tissue, span in SPANS.items()],
        metrics.heading("mae_hu"),
    )


def _bars(records: Sequence[Record], groups: Sequence[tuple[str, str]], y: str) -> dict[str, Any]:
    figure = go.Figure()
    chosen = leading(records)
    empty = {m for _, m in groups if all(r["summary"]["all"][m]["mean"] is None for r in chosen)}
    names = [f"{name}: no value" if metric in empty else name for name, metric in groups]
    for record in chosen:
        found = [record["summary"]["all"][metric] for _, metric in groups]
        figure.add_bar(
            x=names,
            y=[s["mean"] for s in found],
            name=shown_name(record),
            marker={"color": _line(record)["color"]},
            error_y=_intervals(found),
            hovertemplate="%{fullData.name}<br>%{x}: " + _value("y", groups[0][1]),
        )
    return _finished(figure, 460, "", y, barmode="group")


def dice(records: Sequence[Record]) -> dict[str, Any] | None:
    """Bone Dice against the threshold for the leading models; None without bone in any mask."""
    figure = go.Figure()
    for record in leading(records):
        means = [record["summary"]["all"][f"dice_bone_{t}"]["mean"] for t in DICE_THRESHOLDS_HU]
        if means == [None] * len(means):
            continue
        figure.add_scatter(
            x=list(DICE_THRESHOLDS_HU),
            y=means,
            mode="lines+markers",
            name=shown_name(record),
            line=_line(record),
            hovertemplate="%{fullData.name}<br>above %{x} HU: " + _value("y", f"dice_bone_{DICE_THRESHOLDS_HU[0]}"),
        )
    if not figure.data:
        return None
    ticks = {"tickvals": list(DICE_THRESHOLDS_HU)}
    return _finished(figure, 460, "threshold (HU)", "Dice", yaxis={"range": [0, 1]}, xaxis=ticks)


def path_length(records: Sequence[Record]) -> dict[str, Any] | None:
    """The mean absolute WEPL error of every beam direction, drawn around the body."""
    figure = go.Figure()
    for place, record in enumerate(leading(records)):
        curve = record.get("details", {}).get("wepl")
        if not curve:
            continue
        errors = np.abs(np.array([p["error_mm"] for p in curve["patients"]], float))
        errors = errors[np.isfinite(errors).all(axis=1)]
        if not len(errors):
            continue
        errors = errors.mean(axis=0)
        angles = np.asarray(curve["angles_deg"], float)
        around = np.concatenate([angles, angles + 180, angles[:1]])  # a beam is the same from either side
        figure.add_scatterpolar(
            theta=around.tolist(),
            r=np.concatenate([errors, errors, errors[:1]]).round(2).tolist(),
            mode="lines",
            name=shown_name(record),
            line=_line(record),
            visible=True if place < 3 or record["kind"] != "variant" else "legendonly",
            hovertemplate="%{fullData.name}<br>%{theta:.0f}°: %{r:.1f} mm<extra></extra>",
        )
    if not figure.data:
        return None
    polar = {"angularaxis": {"dtick": 45}, "radialaxis": {"angle": 22, "rangemode": "tozero", "nticks": 4}}
    found = _finished(figure, 460, "", "", polar=polar)
    found["layout"]["margin"] |= {"t": 40}
    return found


def dose_ranges(found: DoseResults) -> dict[str, Any] | None:
    """The change of every proton beam's range against the change of path length in water, by model."""
    figure, reach = go.Figure(), 0.0
    for name, beams in found.beams.items():
        points = [beam for beam in beams if np.isfinite([beam["wepl_mm"], beam["range_mm"]]).all()]
        if not points:
            continue
        x, y = ([round(beam[key], 2) for beam in points] for key in ("wepl_mm", "range_mm"))
        reach = max(reach, *map(abs, (*x, *y)))
        figure.add_scatter(
            x=x,
            y=y,
            mode="markers",
            name=name,
            marker={"color": FAINT if found.kinds[name] == "baseline" else _line_of(name)["color"], "size": 8}
            | {"symbol": SYMBOLS[len(figure.data) % len(SYMBOLS)]},
            text=[f"{beam['patient']}, {beam['gantry_deg']:g}°" for beam in points],
            hovertemplate="%{fullData.name}<br>%{text}: path %{x:.1f} mm, range %{y:.1f} mm<extra></extra>",
        )
    if not figure.data:
        return None
    reach = 1.1 * reach + 0.1
    line = {"color": FAINT, "dash": "dot"}
    figure.add_scatter(x=[-reach, reach], y=[reach, -reach], mode="lines", name="range = − path length", line=line)
    return _finished(figure, 420, "path length in water, sCT − CT (mm)", "range, sCT − CT (mm)")


CHARTS: dict[str, tuple[str, Callable[[Any], dict[str, Any] | None]]] = {
    "leaderboard": ("Masked MAE of every held-out patient by model; means are in the table above.", leaderboard),
    "centres": (
        "Masked MAE of every held-out patient by centre; numbers are in the table below.",
        centres,
    ),
    "calibration": ("Mean synthetic CT at each CT value; the closer to the diagonal, the better.", calibration),
    "tissues": ("MAE in air, soft tissue and bone; numbers are in the clinical table.", tissues),
    "dice": ("Bone Dice at several thresholds; numbers are in the clinical table.", dice),
    "path_length": (
        "Mean absolute path-length error (mm) by beam direction; 0° is right to left.",
        path_length,
    ),
    "dose_ranges": (
        "Range of every proton beam against its path length in water, sCT − CT; on the line the path length alone "
        "predicts the range.",
        dose_ranges,
    ),
    "training": ("MAE on the validation patients by epoch; a diamond marks the checkpoint that is scored.", training),
}

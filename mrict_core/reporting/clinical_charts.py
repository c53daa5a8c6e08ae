"""Figures of the clinical panel: HU calibration, tissues, bone, path length, continuity, centres."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mrict_core import metrics
from mrict_core.errors import MrictError
from mrict_core.evaluation import leaderboard, shown_name
from mrict_core.hu import CALIBRATION_SHOWN_HU, DICE_THRESHOLDS_HU
from mrict_core.metrics import Metric
from mrict_core.metrics.clinical import SPANS, TISSUES
from mrict_core.reporting import style
from mrict_core.reporting.text_tables import FEWEST, count_people

Record = Mapping[str, Any]
SHOWN = 5  # variants in a figure, best first, besides the best baseline
BASELINE_LOOK = {"color": style.FAINT, "linestyle": "-", "marker": "X"}


def leading(records: Sequence[Record], count: int = SHOWN) -> list[Record]:
    """Return the best `count` variants by masked MAE (those without one last), then the best baseline."""
    by_name = {record["name"]: record for record in records}
    board = leaderboard(records)
    chosen = [by_name[name] for name in board.loc[board["kind"] == "variant", "name"][:count]]
    chosen += [by_name[name] for name in board.loc[board["kind"] == "baseline", "name"][:1]]
    if not chosen:
        raise MrictError("no metrics to show; evaluate a variant first")
    return chosen


def _looks(records: Sequence[Record]) -> list[dict[str, Any]]:
    return [
        (style.model_look(record["name"]) if record["kind"] == "variant" else BASELINE_LOOK)
        | {"label": shown_name(record)}
        for record in records
    ]


def _patients(records: Sequence[Record]) -> str:
    """Return the number of held-out patients in words."""
    return style.counted(max(record["n"] for record in records), "held-out patient")


def _stacked(record: Record) -> str:
    return shown_name(record).replace(" (", "\n(")


def _points(look: Mapping[str, Any]) -> dict[str, Any]:
    return {"color": look["color"], "marker": look["marker"], "alpha": 0.75, "linewidths": 0, "zorder": 3}


def _spread(count: int, half: float) -> np.ndarray:
    """Return the distances of some points from their middle, so that equal values are seen apart."""
    return np.linspace(-half, half, count) if count > 1 else np.zeros(count)


@style.styled
def calibration_figure(records: Sequence[Record], *, label: str) -> Figure:
    """Return the HU calibration of the leading variants: mean sCT at each CT value, with its spread.

    Line: the mean over patients of the bins' means; band: ± the mean SD within a bin; dots: single patients (one per
    seed). On the dashed diagonal the HU are right on average.
    """
    chosen = [record for record in leading(records) if record.get("details", {}).get("calibration")]
    if not chosen:
        raise MrictError("no record has calibration curves; evaluate the variants again")
    columns = min(3, len(chosen))
    lines = math.ceil(len(chosen) / columns)
    width = style.COLUMN_IN if columns == 1 else style.PAGE_IN
    title = f"HU calibration, {_patients(chosen)}"
    figure = style.new_figure(width, (width - 0.6) / columns * lines + 0.7, title=title, label=label)
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    for axis, record, look in zip(axes.flat, chosen, _looks(chosen), strict=False):
        _calibration(axis, record, look["color"])
    for axis in axes.flat[len(chosen) :]:
        axis.remove()
    figure.supxlabel("CT (HU)", fontsize=8)
    figure.supylabel("synthetic CT (HU): mean ± SD of the voxels at a CT value", fontsize=8)
    return figure


def _calibration(axis: Axes, record: Record, colour: str) -> None:
    found = record["details"]["calibration"]
    edges = np.asarray(found["edges_hu"], float)
    centres = (edges[:-1] + edges[1:]) / 2
    means, spreads = (
        np.array([[np.nan if v is None else v for v in one[key]] for one in found["patients"]], float)
        for key in ("mean_hu", "sd_hu")
    )
    known = np.isfinite(means).any(axis=0)
    mean, spread = (np.nanmean(part[:, known], axis=0) for part in (means, spreads))
    axis.plot(CALIBRATION_SHOWN_HU, CALIBRATION_SHOWN_HU, color=style.FAINT, linestyle="--", linewidth=0.8, zorder=1)
    axis.fill_between(centres[known], mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)
    axis.plot(centres[known], mean, color=colour)
    axis.plot(centres, means.T, linestyle="none", marker=".", markersize=2, color=style.INK, alpha=0.5)
    axis.set(title=shown_name(record), xlim=CALIBRATION_SHOWN_HU, ylim=CALIBRATION_SHOWN_HU)
    axis.set_aspect("equal")
    axis.grid()


@style.styled
def clinical_figure(records: Sequence[Record], *, label: str) -> Figure:
    """Return the leading variants: MAE by tissue, bone Dice by threshold, every patient in the panel "dots".

    Points are patients, bars their means. Intervals of the mean are drawn from five patients on.
    """
    chosen, dotted = leading(records), metrics.keys("dots")
    looks = _looks(chosen)
    lines = 1 + math.ceil(len(dotted) / 2)
    title = f"Clinical panel, {_patients(chosen)}"
    figure = style.new_figure(style.PAGE_IN, 2.6 * lines, title=title, label=label)
    tissues, bone, *others = figure.subplots(lines, 2).flat
    _tissues(tissues, chosen, looks)
    _dice(bone, chosen, looks)
    for axis, name in zip(others, dotted, strict=False):
        _dots(axis, chosen, looks, metrics.metric(name))
    for axis in others[len(dotted) :]:
        axis.remove()
    figure.legend(*bone.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _tissues(axis: Axes, records: Sequence[Record], looks: Sequence[Mapping[str, Any]]) -> None:
    width = 0.8 / len(records)
    intervals = False
    for place, (record, look) in enumerate(zip(records, looks, strict=True)):
        for group, tissue in enumerate(TISSUES):
            name = f"mae_{tissue}_hu"
            s = record["summary"]["all"][name]
            if s["mean"] is None:
                continue
            x = group - 0.4 + (place + 0.5) * width
            values = [p[name] for p in record["patients"] if p.get(name) is not None]
            axis.scatter(x + _spread(len(values), width / 4), values, **_points(look), s=9)
            axis.plot([x - width / 3, x + width / 3], [s["mean"]] * 2, color=style.INK, linewidth=1.4, zorder=4)
            if s["n"] >= FEWEST:
                axis.plot([x, x], [s["low"], s["high"]], color=style.INK, linewidth=0.9, zorder=4)
                intervals = True
    for group, tissue in enumerate(TISSUES):
        if all(record["summary"]["all"][f"mae_{tissue}_hu"]["mean"] is None for record in records):
            axis.text(group, 0, "no value", ha="center", va="bottom", color=style.FAINT, fontsize=7)
    axis.set_xticks(range(len(TISSUES)), [f"{tissue}\n{span.replace('-', '−')}" for tissue, span in SPANS.items()])
    note = "\n| 95 % interval of the mean" if intervals else ""
    axis.set(title="MAE by tissue of the CT", xlim=(-0.5, len(TISSUES) - 0.5), ylim=(0, None), ylabel=f"MAE (HU){note}")
    axis.grid(axis="y")


def _dice(axis: Axes, records: Sequence[Record], looks: Sequence[Mapping[str, Any]]) -> None:
    for record, look in zip(records, looks, strict=True):
        means = [record["summary"]["all"][f"dice_bone_{t}"]["mean"] for t in DICE_THRESHOLDS_HU]
        axis.plot(DICE_THRESHOLDS_HU, [np.nan if m is None else m for m in means], markersize=3.5, **look)
    if not any(np.isfinite(line.get_ydata()).any() for line in axis.lines):
        axis.text(0.5, 0.5, "no value", transform=axis.transAxes, ha="center", color=style.FAINT, fontsize=7)
    axis.set(title="bone Dice, mean over patients", xlabel="threshold (HU)", ylabel="Dice inside the mask", ylim=(0, 1))
    axis.set_xticks(DICE_THRESHOLDS_HU)
    axis.grid(axis="y")


def _dots(axis: Axes, records: Sequence[Record], looks: Sequence[Mapping[str, Any]], metric: Metric) -> None:
    for place, (record, look) in enumerate(zip(records, looks, strict=True)):
        values = [p[metric.key] for p in record["patients"] if p.get(metric.key) is not None]
        axis.scatter(values, place + _spread(len(values), 0.2), **_points(look), s=14)
        if values:
            axis.plot([np.mean(values)] * 2, [place - 0.3, place + 0.3], color=style.INK, linewidth=1.6, zorder=4)
        else:
            beside = axis.get_yaxis_transform()
            axis.text(0.02, place, "no value", transform=beside, va="center", color=style.FAINT, fontsize=7)
    axis.set_yticks(range(len(records)), [_stacked(record) for record in records])
    if (best := {"zero": 0.0, "one": 1.0}.get(metric.better)) is not None:  # always visible
        axis.axvline(best, color=style.FAINT, linestyle="--", linewidth=0.9)
    axis.margins(x=0.1)
    low = min(0.0, axis.get_xlim()[0]) if metric.better == "zero" else 0.0
    axis.set(
        title=textwrap.fill(metric.title, 38),
        xlabel=f"{metric.heading}, {metrics.BETTER[metric.better]}",
        xlim=(low, None),
    )
    axis.set(ylim=(len(records) - 0.5, -0.5))
    axis.grid(axis="x")


@style.styled
def centres_figure(records: Sequence[Record], *, label: str) -> Figure:
    """Return the masked MAE by centre of the leading variants: a point for each patient.

    The bar is the mean; from five people of a centre on there is a box instead.
    """
    chosen = leading(records)
    centres = sorted({p["centre"] for record in chosen for p in record["patients"]})
    figure = style.new_figure(style.PAGE_IN, 3.0, title=f"Masked MAE by centre, {_patients(chosen)}", label=label)
    axis = figure.subplots()
    width = 0.8 / len(centres)
    for place, record in enumerate(chosen):
        for number, centre in enumerate(centres):
            own = [p for p in record["patients"] if p["centre"] == centre and p["mae_hu"] is not None]
            if not own:
                continue
            values = [p["mae_hu"] for p in own]
            x = place - 0.4 + (number + 0.5) * width
            colour = style.CENTRE_COLOURS[centre]
            look = {"color": colour, "linewidth": 0.9}
            if count_people(own) >= FEWEST:
                axis.boxplot(
                    [values],
                    positions=[x],
                    widths=width * 0.7,
                    showfliers=False,
                    manage_ticks=False,
                    **dict.fromkeys(("boxprops", "whiskerprops", "capprops", "medianprops"), look),
                )
            elif len(values) > 1:
                axis.plot([x - width / 3, x + width / 3], [np.mean(values)] * 2, color=style.INK, linewidth=1.4)
            axis.scatter([x] * len(values), values, color=colour, s=12, alpha=0.8, linewidths=0, zorder=3)
    for centre in centres:
        count = max(count_people([p for p in record["patients"] if p["centre"] == centre]) for record in chosen)
        axis.scatter([], [], color=style.CENTRE_COLOURS[centre], s=12, label=f"centre {centre} (n = {count})")
    axis.set_xticks(range(len(chosen)), [_stacked(record) for record in chosen])
    axis.set(ylabel="MAE inside the scoring mask (HU)", ylim=(0, None))
    axis.grid(axis="y")
    figure.legend(loc="outside lower center", ncols=len(centres))
    return figure

"""The tree of variants: what each is derived from, the weights it starts from, and its error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mrict_core import metrics
from mrict_core.evaluation import seeds_of
from mrict_core.experiments import Experiment
from mrict_core.reporting import style

ROW_IN = 0.15
STEP = 0.13  # of the indentation, inches
LENGTH_AT, FROM_AT, WIDTH = 1.75, 2.75, 4.4  # inches from the left: duration, origin in another branch, end
DASHES = (0, (3, 2))
Place = tuple[int, int]  # indentation, row from the top


@style.styled
def lineage_figure(
    variants: Sequence[Experiment],
    *,
    label: str,
    records: Sequence[Mapping[str, Any]] = (),
    epochs: Mapping[str, int] | None = None,
) -> Figure:
    """Return the variants as an indented tree, one block per family, beside their mean masked MAE.

    A solid line comes from the variant whose weights are used (`init_from`), a dashed one from the variant whose
    configuration was changed (`parent`); an origin elsewhere is named. `records` of scored variants give their MAE,
    number of seeds and budget, if any; `epochs`: epochs in this profile, by default the variant's own.
    """
    scored = {record["name"]: record for record in records}
    places, headers = layout(variants)
    rows = len(places) + len(headers)
    figure = style.new_figure(style.PAGE_IN, ROW_IN * rows + 0.95, title="Lineage of the variants", label=label)
    axis, errors = figure.subplots(1, 2, width_ratios=(WIDTH, 2), sharey=True)
    axis.set_axis_off()
    axis.set(xlim=(-0.1, WIDTH), ylim=(rows - 0.5, -0.5))
    for family, row in headers.items():
        axis.text(-0.05, row, family, weight="bold", fontsize=8.5, va="center")
        for one in (axis, errors):
            one.axhspan(row - 0.5, row + 0.5, color="#F1F1F1", linewidth=0, zorder=0)
    for variant in variants:
        indent, row = places[variant.name]
        record = scored.get(variant.name)
        length = style.counted((epochs or {}).get(variant.name, variant.epochs), "epoch")
        if record is not None:
            length = record["context"].get("budget", length)
            _error(errors, row, record)
        _node(axis, indent, row, variant.name, scored=record is not None)
        axis.text(LENGTH_AT, row, length, va="center", fontsize=style.SMALLEST_PT)
        origin = _origin(variant, variants)
        if origin is not None:
            _branch(axis, places[origin], places[variant.name], solid=origin == variant.init_from)
        others = {variant.parent: "changed from", variant.init_from: "weights of"}  # of one variant: the weights
        named = [f"{what} {name}" for name, what in others.items() if name not in (None, origin)]
        axis.text(FROM_AT, row, ", ".join(named), va="center", fontsize=style.SMALLEST_PT, color=style.FAINT)
    errors.set(xlabel=f"masked MAE ({metrics.metric('mae_hu').unit})")
    errors.tick_params(axis="y", left=False, labelleft=False)
    errors.set_xlim(0, 1.35 * errors.get_xlim()[1])
    errors.grid(axis="x")
    _legend(figure)
    return figure


def layout(variants: Sequence[Experiment]) -> tuple[dict[str, Place], dict[str, int]]:
    """Return indentation and row of every variant, and the row of every family's heading.

    A variant stands below its origin; the branches of an origin with several are indented.
    """
    children: dict[tuple[str, str | None], list[str]] = {}
    for variant in variants:
        children.setdefault((variant.family, _origin(variant, variants)), []).append(variant.name)
    places: dict[str, Place] = {}
    headers: dict[str, int] = {}

    def put(family: str, origin: str | None, indent: int) -> None:
        for name in children.get((family, origin), ()):
            places[name] = indent, len(places) + len(headers)
            put(family, name, indent + (len(children.get((family, name), ())) > 1))

    for family in dict.fromkeys(variant.family for variant in variants):
        headers[family] = len(places) + len(headers)
        put(family, None, 0)
    return places, headers


def _origin(variant: Experiment, variants: Sequence[Experiment]) -> str | None:
    """Return the variant of the same family that this one comes from: its weights before its configuration."""
    family = {other.name for other in variants if other.family == variant.family}
    return next((name for name in (variant.init_from, variant.parent) if name in family), None)


def _node(axis: Axes, indent: int, row: int, name: str, *, scored: bool) -> None:
    look = {"marker": "o", "markersize": 4, "markeredgecolor": style.INK, "markeredgewidth": 0.9, "zorder": 3}
    axis.plot([indent * STEP], [row], color=style.INK, markerfacecolor=style.INK if scored else "white", **look)
    weight = "bold" if scored else "normal"
    axis.text(indent * STEP + 0.09, row, name, va="center", fontsize=style.SMALLEST_PT, weight=weight)


def _branch(axis: Axes, start: Place, end: Place, *, solid: bool) -> None:
    """Draw the line from an origin down to a variant's row, and to the right if that is indented."""
    corners = [(start[0], start[1]), (start[0], end[1]), (end[0], end[1])]
    x, y = zip(*corners, strict=True)
    look = {"color": style.INK, "linewidth": 1.2} if solid else {"color": style.FAINT, "linestyle": DASHES}
    axis.plot([STEP * place for place in x], y, **{"linewidth": 0.9, "zorder": 2} | look)


def _error(axis: Axes, row: int, record: Mapping[str, Any]) -> None:
    mae, seeds = record["summary"]["all"]["mae_hu"]["mean"], len(seeds_of(record))
    text = "no MAE" if mae is None else metrics.metric("mae_hu").text(mae)
    if mae is not None:
        axis.plot([mae], [row], marker="o", markersize=4, color=style.INK)
    if seeds > 1:
        text += f" ({seeds} seeds)"
    axis.annotate(text, (mae or 0, row), (5, 0), textcoords="offset points", va="center", fontsize=style.SMALLEST_PT)


def _legend(figure: Figure) -> None:
    line = {"color": style.INK, "linewidth": 1.2}
    dot = {"color": style.INK, "marker": "o", "markersize": 4, "linestyle": "none"}
    handles = [
        Line2D([], [], **line, label="starts from these weights"),
        Line2D([], [], color=style.FAINT, linewidth=0.9, linestyle=DASHES, label="configuration changed from"),
        Line2D([], [], **dot, label="scored here"),
        Line2D([], [], **dot, markerfacecolor="white", label="not scored"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)

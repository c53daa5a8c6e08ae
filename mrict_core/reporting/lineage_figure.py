"""The tree of variants: the configuration each is derived from, and the weights it starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, PathPatch
from matplotlib.path import Path

from mrict_core import metrics
from mrict_core.evaluation import seeds_of
from mrict_core.experiments import Experiment
from mrict_core.reporting import style

COLUMNS = 10  # blocks are packed into shelves of this many nodes side by side
WIDTH, HEIGHT = 0.80, 0.62  # of a node; one step between nodes is 1
GAP = 1 - WIDTH
SHELF_GAP, BLOCK_HEADER = 0.45, 0.5
TRACK = 0.15  # between parallel lines in the gap between shelves
DASHES = (0, (3, 2))
COLUMN_IN, LANE_IN = 1.28, 0.46
FAMILY_COLOURS = {
    "practice": "#777777",
    "mk1": style.PALETTE["sky"],
    "mk2": style.PALETTE["purple"],
    "mk3": style.PALETTE["blue"],
    "mk4": style.PALETTE["green"],
    "cyclegan": style.PALETTE["orange"],
    "mk6": style.PALETTE["vermilion"],
}
Place = tuple[float, float]  # of a node's centre: column, lane from the top


@style.styled
def lineage_figure(
    variants: Sequence[Experiment],
    *,
    label: str,
    records: Sequence[Mapping[str, Any]] = (),
    epochs: Mapping[str, int] | None = None,
) -> Figure:
    """Return the variants as a tree, one block per family.

    A solid arrow comes from the variant whose weights are used (`init_from`), a dashed one from the variant whose
    configuration was changed (`parent`) if that is a different one. `records` of scored variants give their mean masked
    MAE, number of seeds and budget, if any; `epochs`: epochs in this profile, by default the variant's own.
    """
    scored = {record["name"]: record for record in records}
    places, headers, shelf_of = layout(variants)
    lanes = max(y for _, y in places.values()) + 1
    columns = max(x for x, _ in places.values()) + 1
    figure = style.new_figure(columns * COLUMN_IN, lanes * LANE_IN + 0.7, title="Lineage of the variants", label=label)
    axis = figure.subplots()
    axis.set_axis_off()
    axis.set(xlim=(-0.52, columns - 0.48), ylim=(lanes - 0.4, -0.6 - BLOCK_HEADER))
    for family, (x, y) in headers.items():
        axis.text(x - WIDTH / 2, y, family, weight="bold", fontsize=9, va="center", color=_colour(family))
    for variant in variants:
        text = [f"{(epochs or {}).get(variant.name, variant.epochs)} epochs"]
        if variant.name in scored:
            text = [scored[variant.name]["context"].get("budget", text[0])]
            mae, count = scored[variant.name]["summary"]["all"]["mae_hu"]["mean"], len(seeds_of(scored[variant.name]))
            found = "no MAE" if mae is None else f"{metrics.metric('mae_hu').text(mae)} HU"
            text.append(found + (f", {count} seeds" if count > 1 else ""))
        _node(axis, places[variant.name], variant, " · ".join(text), scored=variant.name in scored)
    edges = _edges(variants)
    tracks = _tracks(list(edges), places, shelf_of)
    for (start, end), solid in edges.items():
        _arrow(axis, _route(places[start], places[end], tracks[start, end]), solid=solid)
    _legend(axis)
    return figure


def _edges(variants: Sequence[Experiment]) -> dict[tuple[str, str], bool]:
    """Return {(from, to): solid}: weights solid, configuration dashed if from another variant."""
    names = {variant.name for variant in variants}
    edges = {(v.parent, v.name): False for v in variants if v.parent in names}
    return edges | {(v.init_from, v.name): True for v in variants if v.init_from in names}


def layout(variants: Sequence[Experiment]) -> tuple[dict[str, Place], dict[str, Place], dict[str, float]]:
    """Return the places of nodes and family headings, and the top lane of every node's shelf.

    Families are blocks; a block goes into the first shelf with enough space.
    """
    families = {variant.family: None for variant in variants}
    blocks = {family: _block([v for v in variants if v.family == family]) for family in families}
    shelves: list[list[str]] = []
    for family, block in blocks.items():
        width = _columns(block)
        for shelf in shelves:
            if sum(_columns(blocks[f]) for f in shelf) + width <= COLUMNS:
                shelf.append(family)
                break
        else:
            shelves.append([family])
    places: dict[str, Place] = {}
    headers: dict[str, Place] = {}
    shelf_of: dict[str, float] = {}
    top = 0.0
    for shelf in shelves:
        left = 0
        for family in shelf:
            headers[family] = (left, top - BLOCK_HEADER - 0.05)
            places |= {name: (left + x, top + y) for name, (x, y) in blocks[family].items()}
            shelf_of |= dict.fromkeys(blocks[family], top)
            left += _columns(blocks[family])
        top += max(1 + max(y for _, y in blocks[family].values()) for family in shelf) + SHELF_GAP + BLOCK_HEADER
    return places, headers, shelf_of


def _block(variants: Sequence[Experiment]) -> dict[str, Place]:
    """Place one family: a child to the right of its origin, the first on the same lane, the others below."""
    names = {variant.name for variant in variants}
    origin = {v.name: v.init_from or v.parent for v in variants}
    children: dict[str | None, list[str]] = {}
    for name, parent in origin.items():
        children.setdefault(parent if parent in names else None, []).append(name)
    places: dict[str, Place] = {}
    lane = 0

    def put(name: str, column: int) -> None:
        nonlocal lane
        places[name] = (column, lane)
        for index, child in enumerate(children.get(name, ())):
            lane += index > 0
            put(child, column + 1)

    for index, root in enumerate(children[None]):
        lane += index > 0
        put(root, 0)
    return places


def _columns(block: Mapping[str, Place]) -> int:
    return 1 + int(max(x for x, _ in block.values()))


def _colour(family: str) -> str:
    return FAMILY_COLOURS.get(family, style.INK)


def _node(axis: Axes, place: Place, variant: Experiment, text: str, *, scored: bool) -> None:
    x, y = place
    axis.add_patch(
        FancyBboxPatch(
            (x - WIDTH / 2, y - HEIGHT / 2),
            WIDTH,
            HEIGHT,
            boxstyle="round,pad=0,rounding_size=0.09",
            facecolor="#FFF6D6" if scored else "white",
            edgecolor=_colour(variant.family),
            linewidth=1.6 if scored else 0.9,
            zorder=3,
        )
    )
    size = min(7.0, 112 / len(variant.name))  # so that long names fit
    axis.text(x, y - 0.13, variant.name, ha="center", va="center", fontsize=size, weight="bold", zorder=4)
    axis.text(
        x, y + 0.16, text, ha="center", va="center", fontsize=6 if len(text) < 24 else 4.6, color="#444444", zorder=4
    )


def _arrow(axis: Axes, points: Sequence[Place], *, solid: bool) -> None:
    """Draw a line through the points with a head at the last."""
    line = {"color": style.INK if solid else style.FAINT, "linewidth": 1.2 if solid else 0.9, "zorder": 2}
    path = Path(points)
    axis.add_patch(PathPatch(path, fill=False, linestyle="-" if solid else DASHES, joinstyle="round", **line))
    head = FancyArrowPatch(points[-2], points[-1], arrowstyle="-|>", mutation_scale=7, shrinkA=0, shrinkB=0, **line)
    head.set_linestyle("none")
    axis.add_patch(head)


def _route(start: Place, end: Place, track: float | None) -> list[Place]:
    """Return the corners of the line between two nodes, drawn in the gaps between columns, lanes and shelves.

    A child in the next column is reached through the gap next to its parent, one above or below directly. Longer lines
    and lines to another shelf run along the horizontal `track`.
    """
    (x0, y0), (x1, y1) = start, end
    right, left = x0 + WIDTH / 2, x1 - WIDTH / 2
    if track is None and x0 == x1:
        down = 1 if y1 > y0 else -1
        return [(x0, y0 + down * HEIGHT / 2), (x1, y1 - down * HEIGHT / 2)]
    if track is None:
        middle = right + GAP / 2
        return [(right, y0), (middle, y0), (middle, y1), (left, y1)]
    out = right + GAP * (0.3 if track > y0 else 0.15)  # off the middle, where lines within a shelf run,
    back = left - GAP * (0.4 if track < y1 else 0.28)  # and different for lines up and down
    return [(right, y0), (out, y0), (out, track), (back, track), (back, y1), (left, y1)]


def _tracks(edges: Sequence[tuple[str, str]], places: Mapping[str, Place], shelf_of: Mapping[str, float]) -> dict:
    """Return the height of the horizontal track of every edge that needs one; edges from one node share it."""
    tracks: dict[tuple[str, str], float | None] = {}
    used: dict[float, dict[str, float]] = {}
    for start, end in edges:
        lower = max(shelf_of[start], shelf_of[end])
        if shelf_of[start] == shelf_of[end] and places[end][0] - places[start][0] in (0, 1):
            tracks[start, end] = None
            continue
        taken = used.setdefault(lower, {})
        tracks[start, end] = taken.setdefault(start, lower - BLOCK_HEADER - 0.32 - TRACK * len(taken))
    return tracks


def _legend(axis: Axes) -> None:
    handles = [
        Line2D([], [], color=style.INK, linewidth=1.2, label="starts from these weights"),
        Line2D([], [], color=style.FAINT, linewidth=0.9, linestyle=DASHES, label="configuration derived from"),
    ]
    axis.legend(handles=handles, loc="lower right")

"""Figures of numbers: training curves, leaderboard, histograms, the cohort."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from mrict_core import metrics
from mrict_core.data.splits import SETS
from mrict_core.errors import MrictError
from mrict_core.evaluation import leaderboard, shown_name
from mrict_core.hu import AIR_BELOW_HU, BONE_ABOVE_HU, DISPLAY_WINDOWS_HU
from mrict_core.reporting import style
from mrict_core.training.schedules import FORMER

if TYPE_CHECKING:
    from mrict_core.data.cache.store import SliceStore
    from mrict_core.data.splits import Split

BLUE, RED, GREEN, ORANGE, PURPLE, SKY = (
    style.PALETTE[name] for name in ("blue", "vermilion", "green", "orange", "purple", "sky")
)
Line = tuple[str, str, str]  # column, legend, colour
Panel = tuple[str, str, tuple[Line, ...]]  # title, y label, lines
LOSSES: tuple[Panel, ...] = (
    (
        "generator",
        "loss, terms unweighted",
        (
            ("loss_g", "total", style.INK),
            ("loss_g_gan", "adversarial", BLUE),
            ("loss_g_perceptual", "perceptual", ORANGE),
            ("loss_g_l1", "L1", GREEN),
            ("loss_g_cycle", "cycle", PURPLE),
            ("loss_g_identity", "identity", SKY),
        ),
    ),
    (
        "discriminator",
        "loss, terms unweighted",
        (("loss_d", "total", style.INK), ("loss_d_gan", "adversarial", BLUE), ("loss_gp", "gradient penalty", ORANGE)),
    ),
    (
        "discriminator output",
        "mean output, 1 is “real”",
        (("d_real", "on CT", BLUE), ("d_fake", "on synthetic CT", RED)),
    ),
)
STEPS: Panel = (
    "learning rate",
    "step size of Adam",
    (("lr_G", "generator", BLUE), ("lr_D", "discriminator", RED)),
)
SINGLE_STEPS = (  # title, y label, x, lines of `steps_figure`
    ("loss", "loss", "step", (("loss_g", "", style.INK),)),
    ("gradient", "norm before clipping", "step", (("grad_norm", "", style.INK),)),
    ("learning rate", "rate", "fraction", (("lr", "", style.INK),)),
    (
        "validation slices",
        "masked MAE (HU)",
        "step",
        (("raw_mae_hu", "optimised weights", RED), ("averaged_mae_hu", "averaged weights", BLUE)),
    ),
)
X_LABELS = {"step": "step", "fraction": "fraction of the training"}
WIDE_RATIO = 30.0
SEED_LOOK = {
    **{"linestyle": "none", "marker": "D", "markersize": 4.5, "markerfacecolor": "none"},
    **{"markeredgecolor": style.INK, "markeredgewidth": 0.8, "zorder": 5},
}
SET_COLOURS = {"train": BLUE, "val": ORANGE, "test": RED, "": style.FAINT}


@style.styled
def curves_figure(history: pd.DataFrame, name: str, *, label: str) -> Figure:
    """Return the training curves of one variant; panels and lines without data are left out.

    `history` has one row per epoch (`epoch` and any of the columns in `_panels`); the last row with `is_best` is
    the evaluated checkpoint, marked in every panel.
    """
    history = history.rename(columns=FORMER)
    every = _panels()
    named = {column for _, _, lines in every for column, _, _ in lines}
    known = [(title, unit, _lines(history, lines, named)) for title, unit, lines in every]
    panels = [panel for panel in known if panel[2]]
    if not panels:
        raise MrictError(f"variant '{name}' has no training history to draw; train it first")
    columns = min(3, len(panels))
    lines = math.ceil(len(panels) / columns)
    legends = [math.ceil(len(found) / 2) for _, _, found in panels]  # their rows
    rows = [max(legends[start : start + columns]) for start in range(0, len(panels), columns)]
    width = style.COLUMN_IN if columns == 1 else style.PAGE_IN
    figure = style.new_figure(width, 1.9 * lines + 0.16 * sum(rows) + 0.35, title=f"{name}: training", label=label)
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    best = _best_epoch(history)
    for place, (axis, (title, unit, found)) in enumerate(zip(axes, panels, strict=False)):
        _curves(axis, history, found)
        axis.set_title(title, pad=_above(rows[place // columns]))
        axis.set(ylabel=unit, xlabel="epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        if title == "learning rate" or _wide(history[[column for column, _, _ in found]]):
            axis.set_yscale("log")
        axis.set_xlim(history["epoch"].min() - 0.5, history["epoch"].max() + 0.5)
        if best is not None:
            axis.axvline(best, color=style.FAINT, linewidth=0.9, linestyle=":", zorder=0)
            if found[0][0] == "val_mae_hu":
                _mark_best(axis, history, best)
        _legend_above(axis)
    for axis in axes[len(panels) :]:
        axis.remove()
    return figure


@style.styled
def steps_figure(steps: pd.DataFrame, *, title: str, label: str) -> Figure:
    """Return the numbers of single steps, from `training.few_steps`; panels without a column are left out."""
    panels = [panel for panel in SINGLE_STEPS if panel[3][0][0] in steps]
    width = style.COLUMN_IN if len(panels) == 1 else style.PAGE_IN
    rows = max(sum(legend != "" for _, legend, _ in lines) for *_, lines in panels)  # of legends
    figure = style.new_figure(width, 2.3 + 0.16 * rows, title=title, label=label)
    for axis, (name, unit, x, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for column, legend, colour in lines:
            known = steps.dropna(subset=[column])
            axis.plot(known[x], known[column], color=colour, label=legend, marker="o", markersize=2.6)
        axis.set_title(name, pad=_above(rows))
        axis.set(ylabel=unit, xlabel=X_LABELS[x])
        axis.xaxis.set_major_locator(MaxNLocator(integer=x == "step", nbins=6))
        axis.grid(axis="y")
        _legend_above(axis, columns=1)
    return figure


def _panels() -> tuple[Panel, ...]:
    rows = map(metrics.metric, metrics.keys("validation"))
    names = {row: f"val_{row.key.removeprefix('predecessor_')}" for row in rows}  # in the history
    validation = (
        (f"validation: {row.heading.split(' (')[0]}", row.heading, ((name, "", style.INK),))
        for row, name in names.items()
    )
    return (*LOSSES, *validation, STEPS)


def _lines(history: pd.DataFrame, lines: Sequence[Line], named: set[str]) -> list[Line]:
    """Return the lines whose columns exist, then the terms and rates that no panel names."""
    own = next((prefix for prefix in ("loss_g_", "lr_") if lines[-1][0].startswith(prefix)), None)
    more = [c for c in history if own and c.startswith(own) and c not in named]
    return [line for line in (*lines, *((c, c.removeprefix(own), style.FAINT) for c in more)) if _has(history, line[0])]


def _has(history: pd.DataFrame, column: str) -> bool:
    return column in history and bool(np.isfinite(pd.to_numeric(history[column], errors="coerce")).any())


def _wide(values: pd.DataFrame) -> bool:
    """Return whether the curves need a logarithmic axis."""
    known = values.to_numpy(dtype=float)
    known = known[np.isfinite(known)]
    return bool(known.min() > 0 and known.max() / known.min() > WIDE_RATIO)


def _best_epoch(history: pd.DataFrame) -> int | None:
    if "is_best" not in history:
        return None
    best = history[history["is_best"].astype(bool)]
    return None if best.empty else int(best["epoch"].iloc[-1])


def _curves(axis: Axes, history: pd.DataFrame, lines: Sequence[Line]) -> None:
    marker = "o" if len(history) <= 20 else None
    for column, legend, colour in lines:
        axis.plot(history["epoch"], history[column], color=colour, label=legend, marker=marker, markersize=2.6)
    axis.grid(axis="y")


def _above(rows: int) -> float:
    """Return the distance of a title from its axes in points, with space for a legend of some rows between them."""
    return 5 + 10.5 * rows


def _legend_above(axis: Axes, columns: int = 2) -> None:
    """Put the legend between the curves and the title, if a curve has a name."""
    handles, names = axis.get_legend_handles_labels()
    if names:
        axis.legend(handles, names, loc="lower left", bbox_to_anchor=(0, 1), ncols=columns)


def _mark_best(axis: Axes, history: pd.DataFrame, best: int) -> None:
    value = float(history.loc[history["epoch"] == best, "val_mae_hu"].iloc[0])
    label = f"best: {metrics.metric('mae_hu').text(value)} HU, epoch {best}"
    axis.plot([best], [value], marker="D", color=RED, markersize=5, linestyle="none", label=label)


@style.styled
def leaderboard_figure(records: Sequence[Mapping[str, Any]], *, label: str) -> Figure:
    """Return the masked MAE of every held-out patient by variant, best on top: dots by centre, the mean as a bar.

    `records`: from `read_metrics`. Baselines are grey; the dashed line is the best baseline's mean. With several seeds
    a patient's dot is the mean over seeds, and open diamonds are the seeds' means.
    """
    board = leaderboard(records)
    if board.empty:
        raise MrictError("no metrics to show; evaluate a variant first")
    by_name = {record["name"]: record for record in records}
    count = style.counted(max(record["n"] for record in records), "held-out patient")
    title = f"Masked MAE of {count}"
    figure = style.new_figure(style.PAGE_IN, 0.24 * len(board) + 1.3, title=title, label=label)
    axis, mae = figure.subplots(), metrics.metric("mae_hu")
    for place, row in enumerate(board.itertuples()):
        baseline = row.kind == "baseline"
        if baseline:
            axis.axhspan(place - 0.5, place + 0.5, color="#F1F1F1", zorder=0, linewidth=0)
        record = by_name[row.name]
        _patient_dots(axis, place, record["patients"], faint=baseline)
        axis.plot(_seed_means(record), [place] * len(_seed_means(record)), **SEED_LOOK)
        if math.isfinite(row.mae_hu):
            axis.plot([row.mae_hu] * 2, [place - 0.36, place + 0.36], color=style.INK, linewidth=1.8, zorder=4)
            text = mae.text(row.mae_hu)
        else:
            text = "no score"
        axis.text(1.015, place, text, transform=axis.get_yaxis_transform(), va="center", fontsize=7)
    limits = board.loc[board["kind"] == "baseline", "mae_hu"].dropna()
    if len(limits):
        axis.axvline(limits.min(), color=style.FAINT, linestyle="--", linewidth=0.9, zorder=1)
    axis.set(xlabel=f"{mae.title} ({mae.unit}), {metrics.BETTER[mae.better]}", ylim=(len(board) - 0.5, -0.5))
    axis.set_yticks(range(len(board)), [shown_name(by_name[name]) for name in board["name"]])
    axis.set_xlim(left=0)
    axis.grid(axis="x")
    axis.text(
        1.015, -0.75, "mean (HU)", transform=axis.get_yaxis_transform(), va="center", fontsize=7, color=style.FAINT
    )
    if any(map(_seed_means, records)):
        axis.plot([], [], **SEED_LOOK, label="mean of one seed")
    _centre_legend(axis, {row["centre"] for record in records for row in record["patients"]})
    return figure


def _seed_means(record: Mapping[str, Any]) -> list[float]:
    """Return the mean MAE of every seed; empty for a single seed, which the bar shows."""
    means = record.get("seeds", {}).get("summary", {}).get("mae_hu", {}).get("means", [])
    return [mean for mean in means if mean is not None] if len(means) > 1 else []


def _patient_dots(axis: Axes, place: int, patients: Sequence[Mapping[str, Any]], *, faint: bool) -> None:
    scored = [row for row in patients if row["mae_hu"] is not None and math.isfinite(row["mae_hu"])]
    spread = np.linspace(-0.2, 0.2, len(scored)) if len(scored) > 1 else np.zeros(len(scored))
    colours = [style.CENTRE_COLOURS[row["centre"]] for row in scored]
    values = [row["mae_hu"] for row in scored]
    axis.scatter(values, place + spread, c=colours, s=13, alpha=0.45 if faint else 0.85, linewidths=0, zorder=3)


def _centre_legend(axis: Axes, centres: set[str]) -> None:
    for centre in sorted(centres):
        axis.scatter([], [], color=style.CENTRE_COLOURS[centre], s=13, label=f"centre {centre}")
    axis.plot([], [], color=style.INK, linewidth=1.8, label="mean")
    axis.plot([], [], color=style.FAINT, linestyle="--", linewidth=0.9, label="best baseline")
    axis.figure.legend(loc="outside lower center", ncols=6)


@style.styled
def histogram_figure(store: SliceStore, *, label: str, bins: int = 64) -> Figure:
    """Return histograms by centre of normalised MR in the body mask and of CT in the scoring mask."""
    edges = {"mr": np.linspace(-1, 1, bins + 1), "ct": np.linspace(*DISPLAY_WINDOWS_HU["wide"], bins + 1)}
    counts: dict[tuple[str, str], np.ndarray] = {}
    for patient in store.patients:
        slices = store.slices(patient)
        for role, mask in (("mr", slices.body), ("ct", slices.mask)):
            values = np.asarray(getattr(slices, role), np.float32)[np.asarray(mask) > 0]
            found, _ = np.histogram(values.clip(edges[role][0], edges[role][-1]), edges[role])
            counts[role, store.centre(patient)] = counts.get((role, store.centre(patient)), 0) + found
    figure = style.new_figure(style.PAGE_IN, 2.8, title="Intensities by centre", label=label)
    axes = figure.subplots(1, 2)
    for axis, role in zip(axes, ("mr", "ct"), strict=True):
        for centre in sorted({c for r, c in counts if r == role}):
            found = counts[role, centre]
            density = found / max(1, found.sum()) / np.diff(edges[role])
            colour = style.CENTRE_COLOURS[centre]
            axis.stairs(density, edges[role], color=colour, label=f"centre {centre}", baseline=None)
        axis.grid(axis="y")
    axes[0].set(title="MR inside the body mask", xlabel="normalised MR", ylabel="density")
    axes[1].set(
        title="CT inside the scoring mask", xlabel="HU (values beyond are in the end bins)", ylabel="density (1/HU)"
    )
    axes[1].set_yscale("log")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return style.reworded(figure, store.modality.word)


@style.styled
def cohort_figure(store: SliceStore, split: Split | None = None, *, label: str) -> Figure:
    """Return the patients by centre with their number of slices, coloured by set."""
    sets = {patient: part for part in SETS for patient in getattr(split, part, ())}
    centres = sorted({store.centre(patient) for patient in store.patients})
    groups = {c: [p for p in store.patients if store.centre(p) == c] for c in centres}
    longest, counts = max(len(group) for group in groups.values()), store.counts()
    title = f"Cohort: {style.counted(len(store.patients), 'patient')}, {style.counted(sum(counts.values()), 'slice')}"
    figure = style.new_figure(style.PAGE_IN, 0.19 * longest + 1.3, title=title, label=label)
    axes = figure.subplots(1, len(centres), squeeze=False, sharex=True)[0]
    for axis, (centre, patients) in zip(axes, groups.items(), strict=True):
        numbers = [counts[patient] for patient in patients]
        colours = [SET_COLOURS[sets.get(patient, "")] for patient in patients]
        axis.barh(range(len(patients)), numbers, color=colours, height=0.72)
        for place, number in enumerate(numbers):
            axis.text(number, place, f" {number}", va="center", fontsize=style.SMALLEST_PT)
        axis.set_yticks(range(len(patients)), patients)
        axis.tick_params(axis="y", length=0)
        axis.set(
            title=f"centre {centre}: {style.counted(len(patients), 'patient')}",
            xlabel="slices",
            ylim=(longest - 0.4, -0.6),
        )
        axis.spines["left"].set_visible(False)
        axis.margins(x=0.18)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    present = [part for part in SETS if part in sets.values()]
    handles = [Patch(color=SET_COLOURS[part], label=part) for part in present]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


@style.styled
def joint_histogram_figure(
    mr: np.ndarray, ct: np.ndarray, inside: np.ndarray, *, label: str, bins: int = 120
) -> Figure:
    """Return the joint histogram of MR value and HU at the same voxels; arrays of one shape, `inside` boolean.

    Arrows point at the medians of the bone and of the air voxels, with their share, if the CT has any.
    """
    x, y = np.asarray(mr, np.float64)[inside], np.asarray(ct, np.float64)[inside]
    low, high = DISPLAY_WINDOWS_HU["wide"]
    top = float(np.quantile(x, 0.999))
    figure = style.new_figure(style.PAGE_IN, 4.2, title="MR value and HU of the same voxels", label=label)
    axis = figure.subplots()
    counts, edges_x, edges_y = np.histogram2d(x, y, bins, ((0, top), (low, high)))
    shown = np.ma.masked_equal(counts.T, 0)  # no voxel: white
    image = axis.pcolormesh(edges_x, edges_y, np.ma.log10(shown), cmap="viridis_r", rasterized=True)
    axis.set(xlabel="MR (arbitrary units)", ylabel="CT (HU)", xlim=(0, top), ylim=(low, high))
    tissues = {f"bone, > {BONE_ABOVE_HU:g} HU": y > BONE_ABOVE_HU, f"air, < {AIR_BELOW_HU:g} HU": y < AIR_BELOW_HU}
    for name, chosen in tissues.items():
        if chosen.any():
            tip = np.clip(np.median(x[chosen]), 0, top), np.clip(np.median(y[chosen]), low, high)
            text = f"{name}: {100 * chosen.mean():.2g} % of the voxels,\nmedian MR {tip[0]:.0f}, CT {tip[1]:.0f} HU"
            look = {"arrowprops": {"arrowstyle": "->", "lw": 0.8}, "bbox": {"fc": "white", "ec": "none", "alpha": 0.7}}
            axis.annotate(
                text.replace("-", "−"), tip, (0.45 * top, tip[1]), va="center", fontsize=style.SMALLEST_PT, **look
            )
    figure.colorbar(image, ax=axis, label="voxels, log10(n)")
    return figure

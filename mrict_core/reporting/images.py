"""Figures of slices: rows run from anterior to posterior, columns from the patient's right to left (radiological)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patheffects import withStroke

from mrict_core.data.images.orders import sides
from mrict_core.errors import MrictError
from mrict_core.hu import ERROR_LIMIT_HU
from mrict_core.reporting import style

# patient, z, spacing_mm (rows, columns) and 2-D arrays of one shape: mr in [-1, 1]; sct, ct in HU; mask, body
Row = Mapping[str, Any]
HU_LABEL = "HU"
ERROR_LABEL = "sCT − CT (HU)"
_SHOWN = ("mr", "ct", "mask")
_MARGIN_PX = 4
_COLUMNS = 6  # of the comparison, MR and CT included
_BAR_MM = (100, 50, 20, 10, 5)  # lengths a scale bar may have
_BAR_SHARE = 0.4  # of the panel's width, at most
_MARKED = (  # x, y and alignment of the marks at the left, right, top and bottom
    *((0.02, 0.5, "left", "center"), (0.98, 0.5, "right", "center")),
    *((0.5, 0.985, "center", "top"), (0.5, 0.015, "center", "bottom")),
)


@style.styled
def sample_figure(
    rows: Sequence[Row], *, title: str, label: str, window: str = "wide", orientation: bool = True
) -> Figure:
    """Return MR | sCT | CT | signed HU error, one line per row.

    `rows`: patient, z, spacing_mm, mr, sct, ct, mask. The error is shown inside the mask, at ±500 HU in every figure.
    `orientation=False` omits the marks of the patient's sides, for slices that were never reoriented; a row's `plane`
    decides which they are (none: axial).
    """
    _check(rows, (*_SHOWN, "sct"))
    boxes = _boxes([row["mask"] for row in rows])
    height, width = _extent(boxes[0])
    panel = 1.75
    figure = style.new_figure(4 * panel + 0.4, len(rows) * panel * height / width + 0.95, title=title, label=label)
    axes = figure.subplots(len(rows), 4, squeeze=False)
    for line, row, box in zip(axes, rows, boxes, strict=True):
        mask = row["mask"][box] > 0
        _mr(line[0], row["mr"][box], _sides(row, orientation), row["spacing_mm"])
        line[0].set_ylabel(f"{row['patient']}\nslice {row['z']}")
        sct = _hu(line[1], row["sct"][box], window, row["spacing_mm"])
        _hu(line[2], row["ct"][box], window, row["spacing_mm"])
        _outline(line[2], mask, style.MASK_COLOUR)
        error = _error(line[3], row["sct"][box], row["ct"][box], mask, row["spacing_mm"])
        line[3].set_xlabel(_mae_text(row["sct"], row["ct"], row["mask"]), labelpad=2)
    for axis, name in zip(axes[0], ("MR", "synthetic CT", "CT (scoring mask outlined)", "signed error"), strict=True):
        axis.set_title(name)
    _colour_bar(figure, sct, axes[:, 1:3], HU_LABEL, aspect=45)
    _colour_bar(figure, error, axes[:, 3:], ERROR_LABEL, aspect=22)
    return figure


@style.styled
def comparison_figure(
    row: Row,
    scts: Mapping[str, np.ndarray],
    *,
    label: str,
    window: str = "wide",
    orientation: bool = True,
    across: str = "variants",
) -> Figure:
    """Return one slice across variants: every synthetic CT above its signed error, next to MR and CT.

    `row`: patient, z, spacing_mm, mr, ct, mask; `scts`: {variant: HU (S, S)} in the order to show. across: what is
    compared, for the title.
    """
    if not scts:
        raise MrictError("the comparison needs at least one variant's synthetic CT")
    _check(
        [{**row, "patient": f"{row['patient']}, {name}", "sct": sct} for name, sct in scts.items()], (*_SHOWN, "sct")
    )
    mr, ct, mask, spacing_mm = row["mr"], row["ct"], row["mask"], row["spacing_mm"]
    box = _boxes([mask])[0]
    inside = mask[box] > 0
    bands = math.ceil((len(scts) + 2) / _COLUMNS)
    columns = math.ceil((len(scts) + 2) / bands)
    panel = 1.5
    tall = (panel - 0.06) * _extent(box)[0] / _extent(box)[1]
    title = f"{row['patient']}, slice {row['z']}: the same slice across {across}"
    figure = style.new_figure(columns * panel + 0.1, bands * (2 * tall + 0.45) + 0.22, title=title, label=label)
    axes = figure.subplots(2 * bands, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    _mr(axes[0, 0], mr[box], _sides(row, orientation), spacing_mm)
    axes[0, 0].set_title("MR")
    hu = _hu(axes[0, 1], ct[box], window, spacing_mm)
    _outline(axes[0, 1], inside, style.MASK_COLOUR)
    axes[0, 1].set_title("CT")
    for place, (name, sct) in enumerate(scts.items(), start=2):
        band, column = divmod(place, columns)
        upper, lower = axes[2 * band, column], axes[2 * band + 1, column]
        _hu(upper, sct[box], window, spacing_mm)
        upper.set_title(name)
        error = _error(lower, sct[box], ct[box], inside, spacing_mm)
        lower.set_xlabel(_mae_text(sct, ct, mask), labelpad=2)
    _inset_bar(figure, hu, axes[1, 0], HU_LABEL)
    _inset_bar(figure, error, axes[1, 1], ERROR_LABEL)
    return figure


@style.styled
def pairs_figure(
    rows: Sequence[Row], *, title: str, label: str, window: str = "wide", orientation: bool = True
) -> Figure:
    """Return training pairs: MR with the body mask outlined above CT with the scoring mask outlined.

    `rows`: patient, z, spacing_mm, mr, ct, body, mask; one column per row.
    """
    _check(rows, ("mr", "ct", "body", "mask"))
    boxes = _boxes([(row["mask"] > 0) | (row["body"] > 0) for row in rows])
    panel = 2.1
    tall = panel * _extent(boxes[0])[0] / _extent(boxes[0])[1]
    figure = style.new_figure(len(rows) * panel + 0.9, 2 * tall + 0.5, title=title, label=label)
    axes = figure.subplots(2, len(rows), squeeze=False)
    for (upper, lower), row, box in zip(axes.T, rows, boxes, strict=True):
        _mr(upper, row["mr"][box], _sides(row, orientation), row["spacing_mm"])
        _outline(upper, row["body"][box] > 0, style.BODY_COLOUR)
        upper.set_title(f"{row['patient']}, slice {row['z']}")
        hu = _hu(lower, row["ct"][box], window, row["spacing_mm"])
        _outline(lower, row["mask"][box] > 0, style.MASK_COLOUR)
    axes[0, 0].set_ylabel("MR, body mask outlined")
    axes[1, 0].set_ylabel("CT, scoring mask outlined")
    figure.colorbar(hu, ax=axes[1, :], label=HU_LABEL, aspect=25, pad=0.01, extend="both")
    return figure


@style.styled
def slab_figure(row: Row, slab: np.ndarray, *, title: str, label: str) -> Figure:
    """Return the channels of one slice, two or more, and below how they differ from it, beside the CT to predict.

    `row`: patient, z, spacing_mm, ct, mask; `slab`: (C, S, S) in [-1, 1], the slice itself in the middle.
    """
    _check([{**row, "mr": slab[0]}], _SHOWN)
    box, middle = _boxes([row["mask"]])[0], len(slab) // 2
    panel, spacing_mm = 1.35, row["spacing_mm"]
    tall = panel * _extent(box)[0] / _extent(box)[1]
    figure = style.new_figure((len(slab) + 1) * panel + 0.2, 2 * tall + 0.5, title=title, label=label)
    axes = figure.subplots(2, len(slab) + 1, squeeze=False)
    for k, (upper, lower) in enumerate(axes[:, :-1].T):
        _mr(upper, slab[k][box], "", spacing_mm)
        upper.set_title(f"slice {row['z']}" if k == middle else f"{k - middle:+d}".replace("-", "−"))
        _bare(lower)
        shown = {"cmap": style.ERROR_MAP, "vmin": -1, "vmax": 1, "aspect": spacing_mm[0] / spacing_mm[1]}
        if k != middle:
            change = lower.imshow(slab[k][box] - slab[middle][box], **shown)
    hu = _hu(axes[0, -1], row["ct"][box], "wide", spacing_mm)
    axes[0, -1].set_title("CT")
    axes[1, -1].set_axis_off()
    axes[0, 0].set_ylabel("MR")
    axes[1, 0].set_ylabel(f"minus slice {row['z']}")
    _inset_bar(figure, hu, axes[1, -1], HU_LABEL)
    _inset_bar(figure, change, axes[1, middle], "difference")
    return figure


def _bare(axis: Axes) -> None:
    axis.set_axis_on()
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)


def _sides(row: Row, orientation: bool) -> str:
    return sides(row.get("plane", "axial")) if orientation else ""


def _mr(axis: Axes, mr: np.ndarray, marks: str, spacing_mm: tuple[float, float]) -> None:
    """Draw an MR slice; marks: see `sides`, "" for none."""
    _bare(axis)
    axis.imshow(np.asarray(mr, np.float32), vmin=-1, vmax=1, aspect=spacing_mm[0] / spacing_mm[1])
    _scale_bar(axis, mr.shape, spacing_mm)
    for mark, (x, y, ha, va) in zip(marks, _MARKED, strict=False):
        text = axis.text(x, y, mark, transform=axis.transAxes, ha=ha, va=va, color="white", fontsize=6.5)
        text.set_path_effects([withStroke(linewidth=1.4, foreground="black")])


def _scale_bar(axis: Axes, shape: tuple[int, int], spacing_mm: tuple[float, float]) -> None:
    width_mm = shape[1] * spacing_mm[1]
    length = next((mm for mm in _BAR_MM if mm <= _BAR_SHARE * width_mm), _BAR_MM[-1])
    left, down = 0.04 * shape[1], 0.94 * shape[0]
    ends = [left - 0.5, left - 0.5 + length / spacing_mm[1]]
    outline = withStroke(linewidth=2.6, foreground="black")
    axis.plot(ends, [down] * 2, color="white", linewidth=1.4, solid_capstyle="butt", path_effects=[outline])
    text = axis.text(ends[0], down - 0.025 * shape[0], f"{length} mm", color="white", fontsize=6, va="bottom")
    text.set_path_effects([withStroke(linewidth=1.4, foreground="black")])


def _hu(axis: Axes, hu: np.ndarray, window: str, spacing_mm: tuple[float, float]) -> AxesImage:
    _bare(axis)
    low, high = style.window_hu(window)
    return axis.imshow(np.asarray(hu, np.float32), vmin=low, vmax=high, aspect=spacing_mm[0] / spacing_mm[1])


def _error(axis: Axes, sct: np.ndarray, ct: np.ndarray, mask: np.ndarray, spacing_mm: tuple[float, float]) -> AxesImage:
    _bare(axis)
    error = np.where(mask, np.asarray(sct, np.float32) - np.asarray(ct, np.float32), np.nan)
    limit, aspect = ERROR_LIMIT_HU, spacing_mm[0] / spacing_mm[1]
    image = axis.imshow(error, cmap=style.ERROR_MAP, vmin=-limit, vmax=limit, aspect=aspect)
    _outline(axis, mask, style.FAINT)
    return image


def _outline(axis: Axes, mask: np.ndarray, colour: str) -> None:
    """Draw the outline of a mask, closed at the image's edge."""
    if mask.any():
        rows, columns = (np.arange(-1, length + 1) for length in mask.shape)
        axis.contour(columns, rows, np.pad(mask, 1).astype(float), levels=[0.5], colors=[colour], linewidths=0.8)
        axis.set_xlim(-0.5, mask.shape[1] - 0.5)
        axis.set_ylim(mask.shape[0] - 0.5, -0.5)


def _mae_text(sct: np.ndarray, ct: np.ndarray, mask: np.ndarray) -> str:
    inside = np.asarray(mask) > 0
    if not inside.any():
        return "no mask in this slice"
    error = np.asarray(sct, np.float64)[inside] - np.asarray(ct, np.float64)[inside]
    return f"slice MAE {np.abs(error).mean():.0f} HU"


def _colour_bar(figure: Figure, image: AxesImage, axes: np.ndarray, label: str, aspect: float) -> None:
    bar = figure.colorbar(
        image, ax=axes, location="bottom", label=label, aspect=aspect, pad=0.012, fraction=0.05, extend="both"
    )
    bar.outline.set_linewidth(0.5)


def _inset_bar(figure: Figure, image: AxesImage, host: Axes, label: str) -> None:
    place = host.inset_axes((0.08, 0.52, 0.84, 0.08))
    bar = figure.colorbar(image, cax=place, orientation="horizontal", label=label, extend="both")
    bar.outline.set_linewidth(0.5)
    bar.ax.tick_params(labelsize=6)
    bar.ax.locator_params(nbins=3)


def _boxes(masks: Sequence[np.ndarray]) -> list[tuple[slice, slice]]:
    """Return a crop centred on each mask, all of one size that fits every mask with a margin, inside the canvas."""
    spans = []
    for mask in masks:
        found = zip(np.nonzero(np.asarray(mask) > 0), mask.shape, strict=True)
        spans.append([(int(i.min()), int(i.max()) + 1) if i.size else (0, length) for i, length in found])
    crops = []
    for axis in (0, 1):
        length = min(m.shape[axis] for m in masks)
        side = min(length, max(span[axis][1] - span[axis][0] for span in spans) + 2 * _MARGIN_PX)
        starts = [(span[axis][0] + span[axis][1] - side) // 2 for span in spans]
        starts = [min(max(0, s), m.shape[axis] - side) for s, m in zip(starts, masks, strict=True)]
        crops.append([slice(s, s + side) for s in starts])
    return list(zip(*crops, strict=True))


def _extent(box: tuple[slice, slice]) -> tuple[int, int]:
    return box[0].stop - box[0].start, box[1].stop - box[1].start


def _check(rows: Sequence[Row], roles: Sequence[str]) -> None:
    if not rows:
        raise MrictError("the figure needs at least one slice; got none")
    for row in rows:
        shapes = {role: np.shape(row[role]) for role in roles}
        if len(set(shapes.values())) > 1 or any(len(shape) != 2 for shape in shapes.values()):
            raise MrictError(f"patient {row['patient']}: slices must be 2-D and of one shape; got {shapes}")

"""Figures of slices: rows run from anterior to posterior, columns from the patient's right to left (radiological)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patheffects import withStroke

from mrict_core.data.images.orders import sides
from mrict_core.errors import MrictError
from mrict_core.hu import AIR_FLOOR_HU, ERROR_LIMIT_HU
from mrict_core.modalities import MR
from mrict_core.reporting import style

# patient, z, spacing_mm (rows, columns) and 2-D arrays of one shape: mr in [-1, 1]; sct, ct in HU; mask, body.
# input, in a word: what mr is (none: MR)
Row = Mapping[str, Any]
ERROR_LABEL, MR_LABEL = "sCT − CT (HU)", "normalised MR"
WINDOWS = {"wide": "HU", "soft": "HU, soft tissue"}  # display window: label of its colour bar
PANELS = ("MR", "synthetic CT", "CT, mask outlined", "signed error", "synthetic CT,\nsoft tissue", "CT, soft tissue")
_SHOWN = ("mr", "ct", "mask")
_MARGIN_PX = 4
_COLUMNS = 8  # of the comparison, MR and CT included
_BAR_MM = (100, 50, 20, 10, 5)  # lengths a scale bar may have
_BAR_SHARE = 0.4  # of the panel's width, at most
_MARKED = (  # x, y and alignment of the marks at the left, right, top and bottom
    *((0.02, 0.5, "left", "center"), (0.98, 0.5, "right", "center")),
    *((0.5, 0.985, "center", "top"), (0.5, 0.015, "center", "bottom")),
)


@style.styled
def sample_figure(rows: Sequence[Row], *, title: str, label: str, orientation: bool = True) -> Figure:
    """Return MR, synthetic CT and CT, the signed error, and both CTs in the soft-tissue window.

    Several rows take one line each; a single one takes two lines of large pictures. Everything is shown inside the mask
    only; the error at ±500 HU in every figure.

    `rows`: patient, z, spacing_mm, mr, sct, ct, mask; `name` instead of patient and z, if a row has it.
    `orientation=False` omits the marks of the patient's sides, for slices that were never reoriented; a row's `plane`
    decides which they are (none: axial).
    """
    _check(rows, (*_SHOWN, "sct"))
    boxes = crop_boxes([row["mask"] for row in rows])
    large = len(rows) == 1
    columns = 3 if large else len(PANELS)
    lines = len(rows) * len(PANELS) // columns
    tall = (style.PAGE_IN - 1.1) / columns * _ratio(rows, boxes)
    height = 2 * (tall + 0.75) + 0.3 if large else lines * (tall + 0.25) + 0.9
    figure = style.new_figure(style.PAGE_IN, height, title=title, label=label, close=True)
    panels = figure.subplots(lines, columns, squeeze=False).reshape(len(rows), len(PANELS))
    for (mr, sct, ct, error, soft_sct, soft_ct), row, box in zip(panels, rows, boxes, strict=True):
        spacing_mm, mask = row["spacing_mm"], row["mask"][box] > 0
        grey = draw_mr(mr, only_inside(row["mr"][box], mask, -1), _sides(row, orientation), spacing_mm)
        mr.set_ylabel(row.get("name", f"{row['patient']}\nslice {row['z']}"))
        made, true = (only_inside(row[role][box], mask, AIR_FLOOR_HU) for role in ("sct", "ct"))
        wide = draw_hu(sct, made, "wide", spacing_mm)
        draw_hu(ct, true, "wide", spacing_mm)
        draw_outline(ct, mask, style.MASK_COLOUR)
        signed = _error(error, made, true, mask, spacing_mm)
        soft = draw_hu(soft_sct, made, "soft", spacing_mm)
        draw_hu(soft_ct, true, "soft", spacing_mm)
        error.set_title(_mae_text(row["sct"], row["ct"], row["mask"]), fontsize=style.SMALLEST_PT)
    for axis, name in zip(panels[0], PANELS, strict=True):
        axis.set_title("\n".join(filter(None, (name, axis.get_title()))), fontsize=8)
    _colour_bar(figure, grey, panels[:, 0], MR_LABEL)
    _colour_bar(figure, wide, panels[:, 1:3], WINDOWS["wide"])
    _colour_bar(figure, signed, panels[:, 3], ERROR_LABEL)
    _colour_bar(figure, soft, panels[:, 4:], WINDOWS["soft"])
    return style.reworded(figure, rows[0].get("input", MR.word))


@style.styled
def comparison_figure(
    row: Row, scts: Mapping[str, np.ndarray], *, label: str, orientation: bool = True, across: str = "variants"
) -> Figure:
    """Return one slice across variants: every synthetic CT in two windows above its signed error, next to MR and CT.

    Everything is shown inside the mask only. `row`: patient, z, spacing_mm, mr, ct, mask; `scts`: {variant: HU (S, S)}
    in the order to show. across: what is compared, for the title.
    """
    if not scts:
        raise MrictError("the comparison needs at least one variant's synthetic CT")
    _check(
        [{**row, "patient": f"{row['patient']}, {name}", "sct": sct} for name, sct in scts.items()], (*_SHOWN, "sct")
    )
    spacing_mm, box = row["spacing_mm"], crop_boxes([row["mask"]])[0]
    mask = row["mask"][box] > 0
    bands = math.ceil((len(scts) + 2) / _COLUMNS)
    columns = math.ceil((len(scts) + 2) / bands)
    width_in = style.COLUMN_IN if columns <= 3 else style.PAGE_IN
    tall = (width_in - 0.2) / columns * _ratio([row], [box])
    title = f"{row['patient']}, slice {row['z']}: the same slice across {across}"
    figure = style.new_figure(width_in, bands * (3 * tall + 0.45) + 0.4, title=title, label=label)
    parts = figure.subfigures(bands, 1, squeeze=False)[:, 0]
    axes = np.concatenate([part.subplots(3, columns, squeeze=False) for part in parts], axis=1)  # (3, all pictures)
    for axis in axes.flat:
        axis.set_axis_off()
    for part in parts:
        part.get_layout_engine().set(h_pad=0.02, w_pad=0.02)
    draw_mr(axes[0, 0], only_inside(row["mr"][box], mask, -1), _sides(row, orientation), spacing_mm)
    axes[0, 0].set_title("MR", fontsize=style.SMALLEST_PT)
    true = only_inside(row["ct"][box], mask, AIR_FLOOR_HU)
    wide, soft = (draw_hu(axes[line, 1], true, window, spacing_mm) for line, window in enumerate(WINDOWS))
    draw_outline(axes[0, 1], mask, style.MASK_COLOUR)
    axes[0, 1].set_title("CT,\nmask outlined", fontsize=style.SMALLEST_PT)
    for column, (name, sct) in zip(axes[:, 2:].T, scts.items(), strict=False):
        made = only_inside(sct[box], mask, AIR_FLOOR_HU)
        for axis, window in zip(column, WINDOWS, strict=False):
            draw_hu(axis, made, window, spacing_mm)
        error = _error(column[2], made, true, mask, spacing_mm)
        column[0].set_title(f"{name}\n{_mae_text(sct, row['ct'], row['mask'])}", fontsize=style.SMALLEST_PT)
    _inset_bar(figure, wide, axes[1, 0], WINDOWS["wide"], 0.72)
    _inset_bar(figure, soft, axes[1, 0], WINDOWS["soft"], 0.22)
    _inset_bar(figure, error, axes[2, 0], ERROR_LABEL, 0.72)
    return style.reworded(figure, row.get("input", MR.word))


@style.styled
def pairs_figure(rows: Sequence[Row], *, title: str, label: str, orientation: bool = True) -> Figure:
    """Return training pairs: MR with the body mask outlined above CT with the scoring mask outlined, in two windows.

    These pictures show what is outside the masks too, so that a mask that cuts something off is seen. `rows`: patient,
    z, spacing_mm, mr, ct, body, mask; one column per row.
    """
    _check(rows, ("mr", "ct", "body", "mask"))
    boxes = crop_boxes([(row["mask"] > 0) | (row["body"] > 0) for row in rows])
    width_in = style.COLUMN_IN if len(rows) == 1 else style.PAGE_IN
    tall = min(2.2, (width_in - 0.9) / len(rows)) * _ratio(rows, boxes)
    figure = style.new_figure(width_in, 3 * tall + 0.6, title=title, label=label)
    axes = figure.subplots(3, len(rows), squeeze=False)
    for (upper, middle, lower), row, box in zip(axes.T, rows, boxes, strict=True):
        draw_mr(upper, row["mr"][box], _sides(row, orientation), row["spacing_mm"])
        draw_outline(upper, row["body"][box] > 0, style.BODY_COLOUR)
        upper.set_title(f"{row['patient']}, slice {row['z']}")
        wide, soft = (
            draw_hu(axis, row["ct"][box], window, row["spacing_mm"])
            for axis, window in zip((middle, lower), WINDOWS, strict=True)
        )
        for axis in (middle, lower):
            draw_outline(axis, row["mask"][box] > 0, style.MASK_COLOUR)
    for axis, name in zip(axes[:, 0], ("MR, body mask", "CT, scoring mask", "CT, soft tissue"), strict=True):
        axis.set_ylabel(name)
    for line, image, name in zip(axes[1:], (wide, soft), WINDOWS.values(), strict=True):
        figure.colorbar(image, ax=line, label=name, aspect=25, pad=0.01, extend="both")
    return style.reworded(figure, rows[0].get("input", MR.word))


@style.styled
def slab_figure(row: Row, slab: np.ndarray, *, title: str, label: str) -> Figure:
    """Return the channels of one slice, two or more, and below how they differ from it, beside the CT to predict.

    Everything is shown inside the slice's mask only. `row`: patient, z, spacing_mm, ct, mask; `slab`: (C, S, S) in
    [-1, 1], the slice itself in the middle.
    """
    _check([{**row, "mr": slab[0]}], _SHOWN)
    box, middle, spacing_mm = crop_boxes([row["mask"]])[0], len(slab) // 2, row["spacing_mm"]
    mask = row["mask"][box] > 0
    tall = (style.PAGE_IN - 0.5) / (len(slab) + 1) * _ratio([row], [box])
    figure = style.new_figure(style.PAGE_IN, 2 * tall + 1.3, title=title, label=label, close=True)
    axes = figure.subplots(2, len(slab) + 1, squeeze=False)
    for k, (upper, lower) in enumerate(axes[:, :-1].T):
        grey = draw_mr(upper, only_inside(slab[k][box], mask, -1), "", spacing_mm)
        upper.set_title(f"slice {row['z']}" if k == middle else f"{k - middle:+d}".replace("-", "−"))
        _bare(lower)
        shown = {"cmap": style.ERROR_MAP, "vmin": -1, "vmax": 1, "aspect": spacing_mm[0] / spacing_mm[1]}
        if k != middle:
            change = lower.imshow(np.where(mask, slab[k][box] - slab[middle][box], np.nan), **shown)
            draw_outline(lower, mask, style.FAINT)
    true = only_inside(row["ct"][box], mask, AIR_FLOOR_HU)
    wide, soft = (draw_hu(axis, true, window, spacing_mm) for axis, window in zip(axes[:, -1], WINDOWS, strict=True))
    axes[0, -1].set_title("CT")
    axes[0, 0].set_ylabel("MR")
    axes[1, 0].set_ylabel(f"minus slice {row['z']}")
    _colour_bar(figure, grey, axes[0, :-1], MR_LABEL)
    _colour_bar(figure, wide, axes[0, -1:], WINDOWS["wide"])
    _colour_bar(figure, change, axes[1, :-1], "difference of the normalised MR")
    _colour_bar(figure, soft, axes[1, -1:], WINDOWS["soft"])
    return style.reworded(figure, row.get("input", MR.word))


def only_inside(image: np.ndarray, mask: np.ndarray, outside: float) -> np.ndarray:
    """Return the image with one value outside the mask."""
    return np.where(mask, np.asarray(image, np.float32), np.float32(outside))


def _ratio(rows: Sequence[Row], boxes: Sequence[tuple[slice, slice]]) -> float:
    """Return the largest height over width of the crops, in mm."""
    sizes = [(*_extent(box), *row["spacing_mm"]) for row, box in zip(rows, boxes, strict=True)]
    return max(height * down / (width * across) for height, width, down, across in sizes)


def _bare(axis: Axes) -> None:
    axis.set_axis_on()
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)


def _sides(row: Row, orientation: bool) -> str:
    return sides(row.get("plane", "axial")) if orientation else ""


def draw_mr(axis: Axes, mr: np.ndarray, marks: str, spacing_mm: tuple[float, float]) -> AxesImage:
    """Draw an MR slice; marks: see `sides`, "" for none."""
    _bare(axis)
    image = axis.imshow(np.asarray(mr, np.float32), vmin=-1, vmax=1, aspect=spacing_mm[0] / spacing_mm[1])
    _scale_bar(axis, mr.shape, spacing_mm)
    for mark, (x, y, ha, va) in zip(marks, _MARKED, strict=False):
        text = axis.text(x, y, mark, transform=axis.transAxes, ha=ha, va=va, color="white", fontsize=style.SMALLEST_PT)
        text.set_path_effects([withStroke(linewidth=1.4, foreground="black")])
    return image


def _scale_bar(axis: Axes, shape: tuple[int, int], spacing_mm: tuple[float, float]) -> None:
    width_mm = shape[1] * spacing_mm[1]
    length = next((mm for mm in _BAR_MM if mm <= _BAR_SHARE * width_mm), _BAR_MM[-1])
    left, down = 0.04 * shape[1], 0.94 * shape[0]
    ends = [left - 0.5, left - 0.5 + length / spacing_mm[1]]
    outline = withStroke(linewidth=2.6, foreground="black")
    axis.plot(ends, [down] * 2, color="white", linewidth=1.4, solid_capstyle="butt", path_effects=[outline])
    text = axis.text(ends[0], down - 0.025 * shape[0], f"{length} mm", color="white", va="bottom")
    text.set_fontsize(style.SMALLEST_PT)
    text.set_path_effects([withStroke(linewidth=1.4, foreground="black")])


def draw_hu(axis: Axes, hu: np.ndarray, window: str, spacing_mm: tuple[float, float]) -> AxesImage:
    """Draw a CT slice, (rows, columns) in HU; window: a name in `style.WINDOWS_HU`."""
    _bare(axis)
    low, high = style.window_hu(window)
    return axis.imshow(np.asarray(hu, np.float32), vmin=low, vmax=high, aspect=spacing_mm[0] / spacing_mm[1])


def _error(axis: Axes, sct: np.ndarray, ct: np.ndarray, mask: np.ndarray, spacing_mm: tuple[float, float]) -> AxesImage:
    _bare(axis)
    error = np.where(mask, np.asarray(sct, np.float32) - np.asarray(ct, np.float32), np.nan)
    limit, aspect = ERROR_LIMIT_HU, spacing_mm[0] / spacing_mm[1]
    image = axis.imshow(error, cmap=style.ERROR_MAP, vmin=-limit, vmax=limit, aspect=aspect)
    draw_outline(axis, mask, style.FAINT)
    return image


def draw_outline(axis: Axes, mask: np.ndarray, colour: str) -> None:
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


def _colour_bar(figure: Figure, image: AxesImage, axes: np.ndarray, label: str) -> None:
    """Draw a thin colour bar below axes that stand side by side, or in columns."""
    aspect = 16 * len({axis.get_subplotspec().colspan.start for axis in axes.flat})
    bar = figure.colorbar(
        image, ax=axes, location="bottom", label=label, aspect=aspect, pad=0.012, fraction=0.05, extend="both"
    )
    bar.outline.set_linewidth(0.5)
    _window_ticks(bar)


def _inset_bar(figure: Figure, image: AxesImage, host: Axes, label: str, height: float) -> None:
    """Draw a colour bar at a height (in axes) of an axes without a picture."""
    bar = figure.colorbar(
        image, cax=host.inset_axes((0.08, height, 0.84, 0.08)), orientation="horizontal", extend="both"
    )
    bar.set_label(label, fontsize=style.SMALLEST_PT)
    bar.outline.set_linewidth(0.5)
    _window_ticks(bar)


def _window_ticks(bar: Colorbar) -> None:
    low, high = bar.mappable.get_clim()
    bar.set_ticks([low, 0, high], labels=[f"{low:g}".replace("-", "−"), "0", f"{high:g}"])


def crop_boxes(masks: Sequence[np.ndarray]) -> list[tuple[slice, slice]]:
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

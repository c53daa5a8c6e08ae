"""Figures of models that draw samples: samples beside their mean, the SD beside the error, sparsification."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mrict_core.hu import AIR_FLOOR_HU, ERROR_LIMIT_HU
from mrict_core.reporting import style
from mrict_core.reporting.images import crop_boxes, draw_hu, only_inside


@style.styled
def drawn_figure(
    row: Mapping[str, Any], images: Mapping[str, np.ndarray], sd_hu: np.ndarray, *, title: str, label: str
) -> Figure:
    """Return a slice's CT, synthetic CTs in HU, SD and absolute error of the last one, inside the mask.

    row: ct, mask (S, S), spacing_mm of the slice; images: {name: (S, S)}; sd_hu: (S, S).
    """
    box, spacing_mm = crop_boxes([row["mask"]])[0], row["spacing_mm"]
    mask = row["mask"][box] > 0
    shown = {"CT": row["ct"]} | dict(images)
    *_, last = shown.values()
    maps = {"SD": sd_hu, "absolute error": np.abs(last - row["ct"])}
    figure = style.new_figure(style.PAGE_IN, 2.2, title=title, label=label, close=True)
    axes = figure.subplots(1, len(shown) + len(maps))
    for axis, (name, hu) in zip(axes, shown.items(), strict=False):
        draw_hu(axis, only_inside(hu[box], mask, AIR_FLOOR_HU), "wide", spacing_mm)
        axis.set_title(name)
    for axis, (name, values) in zip(axes[len(shown) :], maps.items(), strict=True):
        inside = np.where(mask, values[box], np.nan)
        found = axis.imshow(inside, cmap="viridis", vmin=0, vmax=ERROR_LIMIT_HU, aspect=spacing_mm[0] / spacing_mm[1])
        axis.set_title(name)
        axis.set_axis_off()
    figure.colorbar(found, ax=list(axes[len(shown) :]), location="bottom", label="HU", shrink=0.8)
    return figure


@style.styled
def sparsification_figure(curves: Mapping[str, Any], *, title: str, label: str) -> Figure:
    """Return the MAE of what is left when the least certain voxels are removed, mean over the patients.

    curves: `details["sparsification"]` of a record. Removing by the error itself is the best that any SD could do.
    """
    removed = 100 * np.asarray(curves["removed"])
    figure = style.new_figure(style.COLUMN_IN + 1.4, 2.8, title=title, label=label, close=True)
    axis = figure.subplots()
    for key, name, look in (("by_sd", "by SD", "-"), ("by_error", "by the error itself", "--")):
        mean = np.mean([patient[key] for patient in curves["patients"]], axis=0)
        axis.plot(removed, mean, look, color=style.PALETTE["blue"], label=name)
    axis.set(xlabel="voxels removed (%)", ylabel="MAE of the others, 1: of all", ylim=(0, None))
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure

"""What a network predicts before, during and after a short training, above the error of a held-out patient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mrict_core import metrics
from mrict_core.errors import MrictError
from mrict_core.hu import AIR_FLOOR_HU
from mrict_core.modalities import MR
from mrict_core.reporting import style
from mrict_core.reporting.images import crop_boxes, draw_hu, draw_mr


@style.styled
def before_after_figure(
    row: Mapping[str, Any],
    images: Mapping[int, np.ndarray],
    history: pd.DataFrame,
    water_hu: float,
    *,
    title: str,
    label: str,
) -> Figure:
    """Return MR, the synthetic CT after each of `images`' steps, and CT; below, the masked MAE by step.

    row: spacing_mm, mr, ct, mask of a slice; images: {steps: HU (S, S)}, the first untrained. history: step, mae_hu.
    water_hu: the error of water, drawn for scale. Outside the mask, where nothing was asked, synthetic CTs show air.
    """
    if not images or not set(images) <= set(history["step"]):
        raise MrictError(f"steps {list(images)}: expected some of the history's steps; draw those that were kept")
    box, spacing = crop_boxes([row["mask"]])[0], row["spacing_mm"]
    panel = 1.55
    tall = panel * (box[0].stop - box[0].start) / (box[1].stop - box[1].start)
    figure = style.new_figure((len(images) + 2) * panel, tall + 2.8, title=title, label=label)
    top, bottom = figure.add_gridspec(2, 1, height_ratios=[tall + 0.25, 2.1])
    axes = [figure.add_subplot(place) for place in top.subgridspec(1, len(images) + 2)]
    draw_mr(axes[0], row["mr"][box], "RLAP", spacing)
    axes[0].set_title("MR")
    for axis, (step, image) in zip(axes[1:], images.items(), strict=False):
        draw_hu(axis, np.where(row["mask"][box] > 0, image[box], AIR_FLOOR_HU), "wide", spacing)
        axis.set_title(f"{step} steps" if step else "untrained")
    draw_hu(axes[-1], row["ct"][box], "wide", spacing)
    axes[-1].set_title("CT")
    axis = figure.add_subplot(bottom)
    mae, shown = metrics.metric("mae_hu"), history[history["step"].isin(list(images))]
    axis.axhline(water_hu, color=style.FAINT, linestyle="--")
    corner = {"xycoords": axis.get_yaxis_transform(), "textcoords": "offset points", "ha": "right", "va": "top"}
    axis.annotate(f"water: {mae.text(water_hu)} HU", (1, water_hu), (0, -3), fontsize=7, **corner)
    axis.plot(history["step"], history["mae_hu"], color=style.PALETTE["blue"])
    axis.plot(shown["step"], shown["mae_hu"], "o", color=style.PALETTE["blue"], markersize=4)
    axis.set(xlabel="steps", ylabel="masked MAE (HU), held-out head", ylim=(0, None))
    axis.set_xlim(0, history["step"].max())
    axis.grid(axis="y")
    return style.reworded(figure, row.get("input", MR.word))

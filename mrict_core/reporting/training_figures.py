"""Figures of how a training went: what the discriminator says of patches, and a chain of trainings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from mrict_core import metrics
from mrict_core.errors import MrictError
from mrict_core.reporting import style

if TYPE_CHECKING:
    import pandas as pd

WRITTEN = 8  # patches along a side, up to which every value is written
VERDICTS = "PuOr"  # below one half: synthetic
COLOURS = [style.PALETTE[name] for name in ("blue", "vermilion", "green", "purple", "orange", "sky")]


@style.styled
def patch_figure(row: Mapping[str, Any], *, title: str, label: str) -> Figure:
    """Return CT and synthetic CT, each beside what the discriminator says of its patches.

    `row`: of `pipeline.judged_patches`. The whole canvas is shown, as the discriminator sees it. A coloured square is
    the centre of a patch; the dashed square is the whole of the patch in the middle.
    """
    figure = style.new_figure(7.2, 2.45, title=title, label=label)
    axes = figure.subplots(1, 4)
    for k, (image, said, name) in enumerate((("ct", "judged_ct", "CT"), ("sct", "judged_sct", "synthetic CT"))):
        plain, laid = axes[2 * k : 2 * k + 2]
        _slice(plain, row[image], row["spacing_mm"])
        plain.set_title(name)
        _slice(laid, row[image], row["spacing_mm"])
        verdict = _verdicts(laid, row, row[said])
        laid.set_title(f"D: mean {np.mean(row[said]):.2f}")
    figure.colorbar(verdict, ax=axes, label="D: 1 is real", aspect=18, pad=0.01, shrink=0.75)
    return figure


def _slice(axis: Axes, hu: np.ndarray, spacing_mm: tuple[float, float]) -> None:
    low, high = style.window_hu("wide")
    axis.imshow(hu, vmin=low, vmax=high, aspect=spacing_mm[0] / spacing_mm[1])
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)


def _verdicts(axis: Axes, row: Mapping[str, Any], said: np.ndarray) -> AxesImage:
    """Lay a map over its slice. The outputs are centred on the canvas, because every convolution pads alike."""
    canvas, patch, step = row["ct"].shape[0], row["patch_px"], row["step_px"]
    first = (canvas - 1) / 2 - (len(said) - 1) / 2 * step  # centre of the first patch, pixels
    edges = first - step / 2, first + (len(said) - 0.5) * step
    shown = {"cmap": VERDICTS, "vmin": 0, "vmax": 1, "alpha": 0.55, "aspect": axis.get_aspect()}
    image = axis.imshow(said, extent=(edges[0], edges[1], edges[1], edges[0]), **shown)
    if len(said) <= WRITTEN:
        outline = [withStroke(linewidth=1.6, foreground="white")]
        for (i, j), value in np.ndenumerate(said):
            place = first + j * step, first + i * step
            axis.text(*place, f"{value:.2f}", ha="center", va="center", fontsize=7, path_effects=outline)
    middle = first + len(said) // 2 * step
    start = max(-0.5, middle - patch / 2), min(canvas - 0.5, middle + patch / 2)
    square = {"fill": False, "linestyle": "--", "edgecolor": style.PALETTE["yellow"], "linewidth": 1.1}
    axis.add_patch(Rectangle((start[0], start[0]), start[1] - start[0], start[1] - start[0], **square))
    axis.set_xlim(-0.5, canvas - 0.5)
    axis.set_ylim(canvas - 0.5, -0.5)
    return image


@style.styled
def chain_figure(histories: Mapping[str, pd.DataFrame], *, label: str) -> Figure:
    """Return the validation MAE along a chain of trainings, each of which starts from the weights of the one before.

    `histories`: {variant: history of its training}, first ancestor first. Diamonds mark the evaluated epochs.
    """
    if not histories:
        raise MrictError("the chain has no training to draw; train its variants first")
    figure, done = style.new_figure(7.2, 2.7, title="Validation along the chain", label=label), 0
    axis, mae = figure.subplots(), metrics.metric("mae_hu")
    for k, (name, history) in enumerate(histories.items()):
        x, colour = done + history["epoch"], COLOURS[k % len(COLOURS)]
        axis.plot(x, history["val_mae_hu"], color=colour, marker="o", markersize=2.6, label=name)
        best = history["is_best"].astype(bool)
        axis.plot(x[best].iloc[-1:], history["val_mae_hu"][best].iloc[-1:], "D", color=colour, markersize=5)
        done += len(history)
        if k < len(histories) - 1:
            axis.axvline(done + 0.5, color=style.FAINT, linewidth=0.9, linestyle=":", zorder=0)
    axis.set(xlabel="epochs of all stages", ylabel=f"{mae.title} ({mae.unit})")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
    axis.grid(axis="y")
    figure.legend(loc="outside lower center", ncols=5)
    return figure

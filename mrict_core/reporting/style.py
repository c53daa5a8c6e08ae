"""One style for all figures: palette, windows, fonts, and saving with equal bytes for equal data."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mrict_core.errors import unknown_name
from mrict_core.files import atomic_path
from mrict_core.hu import DISPLAY_WINDOWS_HU

DPI = 200
# Okabe & Ito 2008, distinguishable with common colour blindness
PALETTE = {
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "green": "#009E73",
    "orange": "#E69F00",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "yellow": "#F0E442",
    "black": "#000000",
}
CENTRE_COLOURS = {"A": PALETTE["blue"], "B": PALETTE["vermilion"], "C": PALETTE["green"], "?": "#777777"}
INK, FAINT = "#222222", "#8A8A8A"
ERROR_MAP = "RdBu_r"  # blue: sCT too low, red: too high
BODY_COLOUR, MASK_COLOUR = PALETTE["orange"], PALETTE["sky"]

_RC = {
    "font.family": "DejaVu Sans",  # part of matplotlib: the same everywhere
    "font.size": 8.0,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.0,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "legend.fontsize": 7.0,
    "legend.frameon": False,
    "figure.titlesize": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.7,
    "lines.linewidth": 1.3,
    "axes.grid": False,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "image.interpolation": "nearest",
    "image.cmap": "gray",
    "pdf.fonttype": 42,
}

P = ParamSpec("P")


def styled(make: Callable[P, Figure]) -> Callable[P, Figure]:
    """Run a function that makes a figure in the suite's style, regardless of the caller's settings."""

    @functools.wraps(make)
    def run(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(_RC)
            return make(*args, **kwargs)

    return run


def new_figure(width_in: float, height_in: float, *, title: str, label: str) -> Figure:
    """Return a figure without pyplot (no window, no global state), with a title and the profile's label."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.012, ha="left", weight="bold")
    stamp = {"boxstyle": "round,pad=0.3", "facecolor": PALETTE["yellow"], "edgecolor": "none"}
    corner = {"xy": (1, 1), "xycoords": "figure fraction", "xytext": (-6, -6), "textcoords": "offset points"}
    axis = figure.add_axes((0, 0, 1, 1), zorder=10)
    axis.set_axis_off()
    axis.set_in_layout(False)
    axis.annotate(label, **corner, ha="right", va="top", fontsize=8, weight="bold", bbox=stamp)
    return figure


def window_hu(name: str) -> tuple[float, float]:
    """Return (low, high) of a display window by name."""
    if name not in DISPLAY_WINDOWS_HU:
        raise unknown_name("display window", name, DISPLAY_WINDOWS_HU)
    return DISPLAY_WINDOWS_HU[name]


def save(figure: Figure, path: Path, *, pdf: bool = False) -> Path:
    """Write `figure` atomically as PNG at 200 dpi, with `pdf` also as PDF; return the PNG's path.

    The files have no time stamp or version, so equal data give equal bytes.
    """
    path = Path(path).with_suffix(".png")
    with matplotlib.rc_context(_RC):
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})
        if pdf:
            with atomic_path(path.with_suffix(".pdf")) as temporary:
                silent = dict.fromkeys(("CreationDate", "Producer", "Creator"))
                figure.savefig(temporary, format="pdf", metadata=silent)
    return path

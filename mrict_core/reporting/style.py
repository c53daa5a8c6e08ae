"""One style for all figures: palette, windows, fonts, and saving with equal bytes for equal data."""

from __future__ import annotations

import functools
import textwrap
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text

from mrict_core.errors import unknown_name
from mrict_core.experiments import REGISTRY
from mrict_core.experiments.profiles import PROFILES
from mrict_core.files import atomic_path
from mrict_core.hu import DISPLAY_WINDOWS_HU
from mrict_core.modalities import MODALITIES, MR

DPI = 200
PAGE_IN, COLUMN_IN = 7.2, 3.5  # the widths of figures: of a page, and of one of its two columns
SMALLEST_PT = 7.0  # of any text
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
CENTRE_COLOURS = {"A": PALETTE["blue"], "B": PALETTE["vermilion"], "C": PALETTE["green"], "?": PALETTE["purple"]}
INK, FAINT = "#222222", "#767676"
MODEL_COLOURS = tuple(PALETTE[name] for name in ("blue", "vermilion", "green", "orange", "purple", "sky"))
MODEL_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)))
MODEL_MARKERS = ("o", "s", "^", "D", "v")
ERROR_MAP = "RdBu_r"  # blue: sCT too low, red: too high
# Lung is not in hu.py: predictions are recomputed when that file changes.
WINDOWS_HU = DISPLAY_WINDOWS_HU | {"lung": (-1350.0, 150.0)}
WINDOW_NAMES = {"wide": "full", "soft": "soft tissue"}  # for a reader, where it is not the key
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
    "legend.handlelength": 1.4,
    "legend.columnspacing": 1.0,
    "legend.labelspacing": 0.2,
    "legend.borderpad": 0.1,
    "legend.borderaxespad": 0.2,
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


def new_figure(width_in: float, height_in: float, *, title: str, label: str, close: bool = False) -> Figure:
    """Return a figure without pyplot (no window, no global state), with a title and the profile's label.

    A title that does not fit beside the label takes more lines, and the figure becomes higher by them. close: pictures
    stand close together.
    """
    label = f"profile: {label}" if label in {profile.label for profile in PROFILES.values()} else label
    room_in = width_in - 0.35 - 0.072 * len(label)
    lines = textwrap.wrap(title, max(10, int(room_in / 0.1)))
    height_in += 0.17 * (len(lines) - 1)
    below_title = 1 - (0.08 + 0.17 * len(lines)) / height_in
    layout = ConstrainedLayoutEngine(rect=(0, 0, 1, below_title), compress=close)
    figure = Figure(figsize=(width_in, height_in), layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    heading = figure.suptitle("\n".join(lines), x=0.012, y=1 - 0.05 / height_in, ha="left", va="top", weight="bold")
    heading.set_in_layout(False)
    stamp = {"boxstyle": "round,pad=0.2", "facecolor": PALETTE["yellow"], "edgecolor": "none"}
    corner = {"xy": (1, 1), "xycoords": "figure fraction", "xytext": (-5, -4), "textcoords": "offset points"}
    axis = figure.add_axes((0, 0, 1, 1), zorder=10)
    axis.set_axis_off()
    axis.set_in_layout(False)
    axis.annotate(label, **corner, ha="right", va="top", fontsize=7, weight="bold", bbox=stamp)
    return figure


def reworded(figure: Figure, word: str) -> Figure:
    """Return a figure made for MR with the texts and greys of the input that `word` says (MR or CBCT)."""
    named = next((each for each in MODALITIES.values() if each.word == word), MR)
    if named == MR:
        return figure
    for text in figure.findobj(Text):
        text.set_text(named.words(text.get_text()))
    for image in figure.findobj(AxesImage):
        if image.get_clim() == MR.greys and image.get_cmap().name == _RC["image.cmap"]:
            image.set_clim(*named.greys)
    return figure


def model_look(name: str) -> dict[str, Any]:
    """Return colour, line style and marker of a model: the same in every figure, whichever models it shows."""
    names = [experiment.name for experiment in REGISTRY.all()]
    place = names.index(name) if name in names else zlib.crc32(name.encode())
    again, colour = divmod(place, len(MODEL_COLOURS))
    repeat = again % len(MODEL_LINES)
    turn = (again + again // len(MODEL_LINES)) % len(MODEL_MARKERS)
    return {"color": MODEL_COLOURS[colour], "linestyle": MODEL_LINES[repeat], "marker": MODEL_MARKERS[turn]}


def counted(number: int, noun: str) -> str:
    """Return "1 patient" or "3 patients"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def window_hu(name: str) -> tuple[float, float]:
    """Return (low, high) of a display window by name."""
    if name not in WINDOWS_HU:
        raise unknown_name("display window", name, WINDOWS_HU)
    return WINDOWS_HU[name]


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

"""How time and memory grow with patients, image side and batch. Each point in a separate process."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from benchmarks import measure
from benchmarks.training import VARIANT, lean_call, random_vgg19
from mrict_core.data.cache.preprocess import preprocess
from mrict_core.data.phantom import PhantomSpec, write_cohort
from mrict_core.experiments import get
from mrict_core.experiments.profiles import get_profile
from mrict_core.methods import build_method
from mrict_core.reporting import style

TITLE = "How cost grows with patients, image side and batch"
HOW = "medians, every point in a process of its own; memory is the growth of its peak"
PATIENTS = {"full": (1, 2, 4), "quick": (1, 2)}  # per centre, of three centres
SIDES = {"full": (128, 256, 384), "quick": (64, 128)}
BATCHES = {"full": (1, 2, 4, 8, 16, 32), "quick": (1, 2)}
PHANTOM = {"full": PhantomSpec("brain", 1.5, 2.0), "quick": PhantomSpec("brain", 4.5, 16.0)}
AXES = {"patients": "patients", "side": "image side (pixels)", "batch": "images in a batch"}


def preparing(folder: str, canvas: int) -> Callable[[], Any]:
    """Return a call that prepares the patients in `folder` from scratch, in this process."""

    def run() -> None:
        with tempfile.TemporaryDirectory() as store:
            preprocess(folder, store, region="brain", size=canvas, workers=1)

    return run


def training(width: int, batch: int, side: int, vgg: bool) -> Callable[[], Any]:
    """Return the suite's training step on random images, after warm-up."""
    torch.manual_seed(0)
    profile = get_profile("full" if vgg else "demo")
    images = [torch.rand(batch, 1, side, side) * 2 - 1 for _ in range(2)]
    with random_vgg19() if vgg else nullcontext():
        method = build_method(get(VARIANT), dataclasses.replace(profile, width=width))
    lean_call(method, *(image[:1, :, :64, :64] for image in images))()  # warm-up: Adam's moments, kernels
    return lean_call(method, *images)


def by_patients(kind: str, repeats: int) -> list[dict[str, Any]]:
    """Return seconds and memory of preprocessing by number of patients."""
    rows = []
    for per_centre in PATIENTS[kind]:
        with tempfile.TemporaryDirectory() as folder:
            write_cohort(Path(folder), "brain", per_centre, 42, PHANTOM[kind])
            found = measure.cost(preparing, folder, 256 if kind == "full" else 64, repeats=repeats)
        rows.append({"axis": "patients", "value": 3 * per_centre, "case": "preprocessing, one process", **found})
    return rows


def by_size(kind: str, repeats: int) -> list[dict[str, Any]]:
    """Return seconds and memory of a training step by image side and by batch."""
    width, vgg = (64, True) if kind == "full" else (4, False)
    rows = []
    for side in SIDES[kind]:
        found = measure.cost(training, width, 1, side, vgg, repeats=repeats)
        rows.append({"axis": "side", "value": side, "case": f"training step, width {width}, one image", **found})
    side = 128 if kind == "full" else 64
    for batch in BATCHES[kind]:
        found = measure.cost(training, width, batch, side, vgg, repeats=repeats)
        rows.append({"axis": "batch", "value": batch, "case": f"training step, width {width}, {side}×{side}", **found})
    return rows


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Return one row per point; the exponents give the growth from the previous point (1: proportional)."""
    kind = "quick" if quick else "full"
    rows = by_patients(kind, 1 if quick else 3) + by_size(kind, 1 if quick else 3)
    for before, row in zip([None, *rows], rows, strict=False):
        if before is not None and before["axis"] == row["axis"]:
            step = math.log(row["value"] / before["value"])
            for name in ("seconds", "peak_mib"):
                row[f"{name}_exponent"] = math.log(max(row[name], 1e-9) / max(before[name], 1e-9)) / step
    return rows


@style.styled
def figure(rows: list[dict[str, Any]]) -> Figure:
    """Draw seconds and memory over patients, side and batch, with the line of proportional cost."""
    drawn = style.new_figure(style.PAGE_IN, 4.2, title=TITLE, label="benchmark")
    panels = drawn.subplots(2, len(AXES), sharex="col")
    for column, (axis, label) in zip(panels.T, AXES.items(), strict=True):
        points = [row for row in rows if row["axis"] == axis]
        x = [row["value"] for row in points]
        for panel, name, unit in zip(column, ("seconds", "peak_mib"), ("time (s)", "peak memory (MiB)"), strict=True):
            y = [row[name] for row in points]
            power = 2 if axis == "side" else 1  # pixels grow with the square of the side
            line = [y[0] * (value / x[0]) ** power for value in x]
            panel.loglog(x, line, color=style.FAINT, linestyle=":", label="in proportion")
            panel.loglog(x, y, color=style.PALETTE["blue"], marker="o", markersize=3.5, label="measured")
            panel.set_xticks(x, [str(value) for value in x])
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.yaxis.set_major_formatter("{x:g}")
            panel.minorticks_off()
            panel.set(ylabel=unit)
            panel.grid(axis="y")
        column[0].set_title(points[0]["case"].replace(", ", "\n"))
        column[1].set_xlabel(label)
    drawn.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return drawn

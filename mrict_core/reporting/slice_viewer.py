"""A patient's slices in a notebook: a slider where a person can move it, a picture of three planes elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import matplotlib
import numpy as np

from mrict_core.data.images.orders import PLANES, SliceOrder, own_plane, sides
from mrict_core.data.intensity import input_range, normalise_mr
from mrict_core.data.planes import Cut
from mrict_core.errors import MrictError
from mrict_core.hu import AIR_FLOOR_HU, ERROR_LIMIT_HU
from mrict_core.machine import live_front_end
from mrict_core.modalities import MODALITIES, MR, Modality
from mrict_core.reporting import style
from mrict_core.reporting.images import pairs_figure, sample_figure
from mrict_core.reporting.notebook import show

if TYPE_CHECKING:
    from IPython.display import Image
    from ipywidgets import VBox

    from mrict_core.data.cache.store import SliceStore
    from mrict_core.data.images.volumes import Volume

FILL = {"mr": -1.0, "ct": AIR_FLOOR_HU, "sct": AIR_FLOOR_HU, "mask": 0}  # around an image
TITLES = {"mr": "MR", "sct": "synthetic CT", "ct": "CT", "error": "signed error"}
ERROR_LIMITS_HU = (100, 200, int(ERROR_LIMIT_HU), 1000)
PANEL_PX = 260


@dataclass(frozen=True)
class Volumes:
    """Slices of one patient in the order of the dataset cache, axial unless `planes` begins with another plane."""

    stacks: Mapping[str, np.ndarray]  # "mr" in [-1, 1], "ct" and "mask", and perhaps "sct", (N, H, W); CTs in HU
    spacing_mm: tuple[float, float, float]  # of slices, rows and columns
    planes: Sequence[str] = tuple(PLANES)  # that can be shown; the first is that of the slices
    oriented: bool = True  # False: the slices were never reoriented, so no side is named
    input: str = MR.word  # what "mr" is

    def __post_init__(self) -> None:
        shapes = {role: np.shape(stack) for role, stack in self.stacks.items()}
        known = {"mr", "ct", "mask"} <= set(shapes) <= set(FILL)
        if not known or len(set(shapes.values())) > 1 or len(shapes["mr"]) != 3:
            raise MrictError(f"volumes {shapes}: expected mr, ct, mask and perhaps sct of one 3-D shape; correct them")
        if not np.any(self.stacks["mask"]):
            raise MrictError("the mask is empty: expected a voxel to look at; check the mask file")

    def positions(self, plane: str) -> np.ndarray:
        """Return the slices of a plane with mask."""
        masked = np.asarray(self.stacks["mask"]) > 0
        if plane != self.planes[0]:
            masked = self._cut(plane).stack(masked)
        return np.flatnonzero(masked.any(axis=(1, 2)))

    def slices(self, plane: str, position: int) -> dict[str, Any]:
        """Return a row for figures: plane, z (of the plane), spacing_mm (rows, columns), and every role, (S, S).

        Rows of coronal and sagittal slices are resampled to the size of the columns' pixels.
        """
        row = {"plane": plane, "z": int(position), "input": self.input}
        if plane == self.planes[0]:
            images = {role: np.asarray(stack[position], np.float32) for role, stack in self.stacks.items()}
            row["spacing_mm"] = tuple(self.spacing_mm[1:])
        else:
            cut, at = self._cut(plane), slice(position, position + 1)
            images = {
                role: cut.canvas(cut.stack(stack)[at], cut.rows, FILL[role], nearest=role == "mask")[0]
                for role, stack in self.stacks.items()
            }
            row["spacing_mm"] = (cut.pixel_mm, cut.pixel_mm)
        return row | {role: _on_canvas(image, self.side, FILL[role]) for role, image in images.items()}

    @property
    def side(self) -> int:
        """Side of a square canvas that holds the slices of every plane, pixels."""
        return max(*np.shape(self.stacks["mr"])[1:], *(self._cut(plane).rows for plane in self.planes[1:]))

    def _cut(self, plane: str) -> Cut:
        return Cut(plane, len(self.stacks["mr"]), self.spacing_mm)


def volumes_of(store: SliceStore, patient: str, sct: np.ndarray | None = None) -> Volumes:
    """Return a patient of the dataset cache to browse; `sct`: its synthetic CT on the cache's canvas, (N, S, S) HU."""
    slices, oriented = store.slices(patient), store.protocol == "patient"
    stacks = {role: getattr(slices, role) for role in ("mr", "ct", "mask")} | ({} if sct is None else {"sct": sct})
    planes = tuple(PLANES) if oriented and len(slices.z) > 1 else (store.plane(patient),)
    return Volumes(stacks, store.spacing_mm(patient), planes, oriented, store.modality.word)


def volumes_from(mr: Volume, mask: Volume, *, modality: Modality = MR, **cts: Volume) -> Volumes:
    """Return a patient's volumes on one grid to browse; `cts`: ct, and perhaps sct. MR is scaled inside the mask."""
    plane = own_plane(mr.shape, mr.affine)
    order, inside = SliceOrder.toward(mr.affine, PLANES[plane]), mask.array > 0
    arrays = {"mr": normalise_mr(mr.array, *input_range(mr.array, inside, mr.path, modality)), "mask": inside}
    arrays |= {role: volume.array for role, volume in cts.items()}
    planes = (plane,) if 1 in mr.shape else tuple(PLANES)
    stacks = {role: order.to_slices(array) for role, array in arrays.items()}
    return Volumes(stacks, order.spacing_mm(mr.affine), planes, input=modality.word)


def browse(
    volumes: Volumes, path: Path, *, title: str, label: str, position: Mapping[str, float] | None = None
) -> VBox | Image:
    """Return a viewer of MR, synthetic CT, CT and signed error, to display as the last line of a cell.

    With a live front end and ipywidgets: sliders, planes, HU windows. Otherwise a picture of the middle slice of every
    plane, which is saved at `path` in either case. position: where to cut a plane, as a share of its slices (0 to 1).
    """
    shares = dict.fromkeys(volumes.planes, 0.5) | dict(position or {})
    rows = []
    for plane, share in shares.items():
        found = volumes.positions(plane)
        row = volumes.slices(plane, found[round(share * (len(found) - 1))])
        rows.append(row | {"patient": plane, "body": row["mr"] > -1})
    make = sample_figure if "sct" in volumes.stacks else pairs_figure
    picture = show(make(rows, title=title, label=label, orientation=volumes.oriented), path)
    if not live_front_end():
        return picture
    try:
        return _viewer(volumes, {row["plane"]: row["z"] for row in rows})
    except ImportError:
        print("pip install ipywidgets adds a slider")
        return picture


def _on_canvas(image: np.ndarray, side: int, fill: float) -> np.ndarray:
    """Centre an image on a square canvas.  # (H, W) => (side, side)"""
    more = [(side - length) // 2 for length in image.shape]
    pads = [(before, side - length - before) for before, length in zip(more, image.shape, strict=True)]
    return np.pad(image, pads, constant_values=fill)


def _viewer(volumes: Volumes, start: Mapping[str, int]) -> VBox:
    import ipywidgets as widgets

    plane = widgets.ToggleButtons(options=list(volumes.planes), description="plane")
    slider = widgets.IntSlider(description="slice", layout={"width": "95%"})
    presets = [
        (f"{style.WINDOW_NAMES.get(name, name)} ({low:g} to {high:g} HU)", name)
        for name, (low, high) in style.WINDOWS_HU.items()
    ]
    window = widgets.Dropdown(options=presets, description="window")
    limit = widgets.Dropdown(
        options=[(f"±{hu} HU", hu) for hu in ERROR_LIMITS_HU], value=int(ERROR_LIMIT_HU), description="error"
    )
    roles = [role for role in ("mr", "sct", "ct") if role in volumes.stacks]
    roles += ["error"] if "sct" in roles else []
    images = {role: widgets.Image(format="png", layout={"width": f"{PANEL_PX}px"}) for role in roles}
    caption = widgets.HTML()

    def draw(_: Any = None) -> None:
        row = volumes.slices(plane.value, slider.value)
        for role, png in panels(row, window.value, limit.value).items():
            images[role].value = png
        caption.value = describe(row, volumes.oriented)

    def turn(_: Any = None) -> None:
        found = volumes.positions(plane.value)
        slider.min, slider.max = 0, int(found[-1])  # min and max must not cross on the way
        slider.min = int(found[0])
        slider.value = start[plane.value]
        draw()

    plane.observe(turn, "value")
    for control in (slider, window, limit):
        control.observe(draw, "value")
    turn()
    titles = TITLES | {"mr": volumes.input}
    shown = [widgets.VBox([widgets.HTML(f"<b>{titles[role]}</b>"), image]) for role, image in images.items()]
    settings = widgets.HBox([plane, window, *([limit] if "error" in roles else [])], layout={"flex_flow": "row wrap"})
    return widgets.VBox([settings, slider, widgets.HBox(shown, layout={"flex_flow": "row wrap"}), caption])


def panels(row: Mapping[str, Any], window: str, limit_hu: float) -> dict[str, bytes]:
    """Return a PNG of each image of a row of `Volumes.slices`, and of the signed error inside the mask.

    Pixels become square and are not smoothed; outside the mask the error is transparent.
    """
    low, high = style.window_hu(window)
    input_ = next((each for each in MODALITIES.values() if each.word == row.get("input")), MR)
    ranges = {"mr": input_.greys, "sct": (low, high), "ct": (low, high)}
    found = {role: _grey(row[role], *ranges[role]) for role in ranges if role in row}
    if "sct" in row:
        unit = (row["sct"] - row["ct"]) / (2 * limit_hu) + 0.5
        colours = matplotlib.colormaps[style.ERROR_MAP](unit.clip(0, 1), bytes=True)
        colours[..., 3] = np.where(row["mask"] > 0, 255, 0)
        found["error"] = cv2.cvtColor(colours, cv2.COLOR_RGBA2BGRA)
    return {role: _png(image, row["spacing_mm"]) for role, image in found.items()}


def _grey(image: np.ndarray, low: float, high: float) -> np.ndarray:
    return ((image - low) * (255 / (high - low))).clip(0, 255).astype(np.uint8)


def _png(image: np.ndarray, spacing_mm: tuple[float, float]) -> bytes:
    width = 2 * PANEL_PX  # sharp on screens of two pixels per point
    height = round(width * image.shape[0] * spacing_mm[0] / (image.shape[1] * spacing_mm[1]))
    larger = cv2.resize(image, (width, height), interpolation=cv2.INTER_NEAREST)
    return cv2.imencode(".png", larger)[1].tobytes()


def describe(row: Mapping[str, Any], oriented: bool = True) -> str:
    """Return where a slice is, what is at its sides, and its error inside the mask."""
    text = f"{row['plane']} slice {row['z']}"
    if oriented:
        text += "; " + ", ".join(
            map(" ".join, zip(sides(row["plane"]), ("left", "right", "top", "bottom"), strict=True))
        )
    inside = row["mask"] > 0
    if "sct" in row and inside.any():
        text += f"; MAE of this slice, inside the mask: {np.abs(row['sct'] - row['ct'])[inside].mean():.0f} HU"
    return text

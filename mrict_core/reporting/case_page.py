"""Quality picture and page of a synthetic CT without a true CT to compare with."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mrict_core.data.images.orders import PLANES, SliceOrder, own_plane, sides
from mrict_core.data.images.volumes import Volume
from mrict_core.data.intensity import normalise_mr
from mrict_core.hu import AIR_FLOOR_HU, DISPLAY_WINDOWS_HU, LANDMARKS_HU, SD_LIMIT_HU
from mrict_core.modalities import MR, Modality
from mrict_core.reporting import style
from mrict_core.reporting.images import MR_LABEL, draw_hu, draw_mr, draw_outline, only_inside

SOFT = "soft-tissue\nwindow"
HEIGHTS = (0.15, 0.38, 0.62, 0.85)  # of the body, of the axial slices shown


def _views(stack: np.ndarray, body: np.ndarray) -> list[np.ndarray]:
    """Return axial slices through the body and its central coronal and sagittal slices, head up, of an axial stack."""
    spans = [np.flatnonzero(body.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    axial = [stack[span_at(spans[0], share)] for share in HEIGHTS]
    row, column = (span_at(span, 0.5) for span in spans[1:])
    return [*axial, stack[::-1, row, :], stack[::-1, :, column]]


def span_at(span: np.ndarray, share: float) -> int:
    """Return the index at a share of the way from the first to the last of `span`."""
    return round(float(span[0] + share * (span[-1] - span[0])))


@style.styled
def case_figure(
    mr: Volume,
    hu: np.ndarray,
    sd_hu: np.ndarray | None,
    body: np.ndarray,
    *,
    mr_range: Sequence[float],
    label: str,
    title: str = "Synthetic CT, not for clinical use",
    word: str = MR.word,
) -> Figure:
    """Return MR, synthetic CT in two windows and, if given, its uncertainty in three planes, with histograms.

    All of it is shown inside the body only.

    `hu`, `sd_hu`, `body`: (nx, ny, nz) on the grid of `mr`; `mr_range`: the MR values shown black and white;
    `word`: what the input is.
    """
    plane = own_plane(mr.shape, mr.affine)
    order = SliceOrder.toward(mr.affine, PLANES[plane])
    dz, dr, dc = order.spacing_mm(mr.affine)
    inside = order.to_slices(body)
    grey = normalise_mr(order.to_slices(mr.array), *mr_range)
    made = only_inside(order.to_slices(hu), inside, AIR_FLOOR_HU)
    stacks = {"MR": only_inside(grey, inside, -1), "synthetic CT\ninside the body": made, SOFT: made}
    if sd_hu is not None:
        stacks["uncertainty"] = only_inside(order.to_slices(sd_hu), inside, 0)
    views = {name: _views(stack, inside) for name, stack in stacks.items()}
    outlines = _views(inside, inside)
    spacings = [(dr, dc)] * len(HEIGHTS) + [(dz, dc), (dz, dr)]
    across = ["coronal", "sagittal"] if plane == "axial" else ["across", "across"]
    titles = [f"{plane}\nheight {share:.0%}".replace("%", " %") for share in HEIGHTS] + across
    marks = [sides(plane)] * len(HEIGHTS) + [sides(name) if plane == "axial" else "" for name in across]
    figure = style.new_figure(style.PAGE_IN, 1.3 * len(stacks) + 2.5, title=title, label=label)
    top, bottom = figure.add_gridspec(2, 1, height_ratios=[1.3 * len(stacks), 1.9])
    grid, below = top.subgridspec(len(stacks), len(spacings)), bottom.subgridspec(1, 2)
    for line, (name, pictures) in enumerate(views.items()):
        axes = [figure.add_subplot(grid[line, column]) for column in range(len(spacings))]
        for column, (axis, picture, spacing) in enumerate(zip(axes, pictures, spacings, strict=True)):
            if name == "MR":
                image, unit = draw_mr(axis, picture, marks[column], spacing), MR_LABEL
                draw_outline(axis, outlines[column], style.BODY_COLOUR)
            elif name == "uncertainty":
                image, unit = draw_hu(axis, picture, "wide", spacing), "SD (HU)"
                image.set(cmap="magma", clim=(0, SD_LIMIT_HU))
            else:
                image, unit = draw_hu(axis, picture, "soft" if name == SOFT else "wide", spacing), "HU"
        axes[0].set_ylabel(name)
        figure.colorbar(image, ax=axes, label=unit, aspect=14, pad=0.01, extend="both")
        if line == 0:
            for axis, text in zip(axes, titles, strict=True):
                axis.set_title(text, fontsize=8)
    _histogram(figure.add_subplot(below[0]), hu[body])
    _second(figure.add_subplot(below[1]), sd_hu, body, mr, mr_range)
    return style.reworded(figure, word)


def _histogram(axis: Axes, values: np.ndarray) -> None:
    low, high = DISPLAY_WINDOWS_HU["wide"]
    axis.hist(np.clip(values, low, high), bins=120, range=(low, high), color=style.PALETTE["blue"], log=True)
    axis.set(title="HU inside the body", xlabel="HU (values beyond are in the end bins)", ylabel="voxels")
    axis.set_ylim(top=6 * axis.get_ylim()[1])  # leaves space for the names
    for name, place in LANDMARKS_HU.items():
        axis.axvline(place, color=style.FAINT, linewidth=0.6, linestyle=":")
        left = name == "fat"  # its line is close to that of water
        axis.annotate(
            name,
            (place, 1),
            (-2 if left else 2, -2),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            va="top",
            ha="right" if left else "left",
        )


def _second(axis: Axes, sd_hu: np.ndarray | None, body: np.ndarray, mr: Volume, mr_range: Sequence[float]) -> None:
    """Draw the histogram of the uncertainty, or of the MR without one."""
    if sd_hu is not None:
        axis.hist(
            sd_hu[body],
            bins=100,
            range=(0, max(SD_LIMIT_HU, float(sd_hu.max()))),
            color=style.PALETTE["orange"],
            log=True,
        )
        axis.set(title="Uncertainty inside the body", xlabel="SD (HU)", ylabel="voxels")
        return
    axis.hist(normalise_mr(mr.array[body], *mr_range), bins=100, range=(-1, 1), color=style.PALETTE["green"])
    axis.set(title="MR inside the body", xlabel="normalised MR, as the network sees it", ylabel="voxels")


def case_html(
    figure: Figure, facts: dict[str, Any], sd_mean_hu: float | None, labels: dict[str, str], modality: Modality = MR
) -> str:
    """Return a self-contained page: verdict, picture, findings, and how the image was made."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=style.DPI, metadata={"Software": None})
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mrict_core.reporting.page"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("case.html.j2").render(
        facts=facts,
        words=modality.words,
        picture=base64.b64encode(picture.getvalue()).decode("ascii"),
        sd_mean_hu=sd_mean_hu,
        labels=labels,
        others=[text for text in facts["warnings"] if text not in facts["why"]],
        measured=[finding for finding in facts["findings"] if finding["value"] is not None],
        bone=bone_sentence(facts),
    )


def bone_sentence(facts: dict[str, Any]) -> str:
    """Return the share of bone in the image, compared with the training CTs where possible."""
    shares = [f"{100 * share:.2g} % above {name.split('_')[1]} HU" for name, share in facts["bone"].items()]
    names = {finding["name"] for finding in facts["findings"]}
    if "no_bone" in names:
        said = "a model has no record of the bone in its training CTs, so missing bone cannot be detected"
    elif any(name.startswith("bone_") for name in names):
        said = "far from the training CTs"
    else:
        said = "as in the training CTs"
    return f"{' and '.join(shares)} in the body: {said}"


@style.styled
def write_case(
    path: Path,
    mr: Volume,
    synthesis: Any,
    facts: dict[str, Any],
    labels: dict[str, str],
    modality: Modality = MR,
) -> Path:
    """Write the page (.html) or only the picture (.png) of a synthetic CT to `path`, which is staged; return it.

    `labels`: the case's labels on the page, {"MR": its file's name, ...}.
    """
    label = " + ".join(f"{model['variant']} (profile {model['profile']})" for model in facts["models"])
    sd, body = synthesis.sd_hu, synthesis.body
    title = f"{facts['verdict'].capitalize()}: synthetic CT, not for clinical use"
    shown = {"mr_range": synthesis.facts["mr_range"], "label": label, "title": title, "word": modality.word}
    figure = case_figure(mr, synthesis.hu, sd, body, **shown)
    if path.suffix == ".png":
        figure.savefig(path, format="png", dpi=style.DPI, metadata={"Software": None})
        return path
    page = case_html(figure, facts, None if sd is None else float(sd[body].mean()), labels, modality)
    path.write_text(page, encoding="utf-8")
    return path

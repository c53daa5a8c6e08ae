"""What every figure keeps to: width and size of text in print, legends off the data, nothing outside the mask."""

from __future__ import annotations

import itertools
import re

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text
from test_reporting import MAKERS, make_records, texts

from mrict_core import evaluation
from mrict_core.experiments import REGISTRY
from mrict_core.hu import DISPLAY_WINDOWS_HU
from mrict_core.reporting import clinical_charts, figures, style

LABELS = ("profile: demo", "benchmark", "ablation")


def shown_texts(figure: Figure) -> list[Text]:
    """The texts of a drawn figure that a reader sees."""
    return [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]


def drawn_axes(figure: Figure) -> list[Axes]:
    """The axes of a figure with data: neither the label's nor those of colour bars."""
    return [axis for axis in figure.axes if axis.axison and not hasattr(axis, "_colorbar") and axis.has_data()]


@pytest.fixture(scope="module", params=MAKERS)
def drawn(request) -> Figure:
    figure = MAKERS[request.param]()
    figure.draw_without_rendering()
    return figure


def test_every_figure_has_a_width_of_print_and_no_text_below_7_pt(drawn):
    assert drawn.get_figwidth() in (7.2, 3.5)
    small = {text.get_text(): text.get_fontsize() for text in shown_texts(drawn) if text.get_fontsize() < 7}
    assert not small


def test_every_text_is_inside_the_figure_and_the_title_beside_the_label(drawn):
    width, height = drawn.get_size_inches() * drawn.dpi
    for text in shown_texts(drawn):
        box = text.get_window_extent()
        if box.width and not hidden_tick(text, drawn):
            assert -1 <= box.x0 < box.x1 <= width + 1, text.get_text()
            assert -1 <= box.y0 < box.y1 <= height + 1, text.get_text()
    label = next(text for text in shown_texts(drawn) if text.get_text() in LABELS)
    for text in shown_texts(drawn):
        assert text is label or not text.get_window_extent().overlaps(label.get_window_extent()), text.get_text()


def hidden_tick(text: Text, figure: Figure) -> bool:
    """Whether a text is the label of a tick outside the limits, which is never drawn."""
    ends = ((axis, sorted(axis.get_xlim()), sorted(axis.get_ylim())) for axis in figure.axes)
    return any(
        (text in axis.get_xticklabels(which="both") and not x[0] <= text.get_position()[0] <= x[1])
        or (text in axis.get_yticklabels(which="both") and not y[0] <= text.get_position()[1] <= y[1])
        for axis, x, y in ends
    )


def test_no_legend_is_on_data(drawn):
    boxes = [legend.get_window_extent() for legend in drawn.findobj(Legend)]
    for box in boxes:
        assert not any(box.overlaps(axis.get_window_extent().padded(-1)) for axis in drawn_axes(drawn))


def test_titles_of_neighbours_do_not_overlap(drawn):
    boxes = [axis.title.get_window_extent() for axis in drawn.axes if axis.get_title()]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_every_axis_with_numbers_has_a_name(drawn):
    common = any(getattr(drawn, name, None) for name in ("_supxlabel", "_supylabel"))
    for axis in drawn_axes(drawn):
        if axis.get_images():
            continue
        shared = common or any(other.get_xlabel() for other in axis.get_shared_x_axes().get_siblings(axis))
        assert axis.get_xlabel() or shared or not numbers(axis.get_xticklabels()), axis.get_title()
        shared = common or any(other.get_ylabel() for other in axis.get_shared_y_axes().get_siblings(axis))
        assert axis.get_ylabel() or shared or not numbers(axis.get_yticklabels()), axis.get_title()


def numbers(labels: list[Text]) -> bool:
    return any(re.fullmatch(r"[−\d.]+", label.get_text()) and label.get_visible() for label in labels)


@pytest.mark.parametrize("name", ["sample", "one sample", "comparison", "narrow comparison", "slab", "case"])
def test_nothing_is_shown_outside_the_mask(name):
    """Noise everywhere in the input: outside the mask a picture has its darkest value, or none for an error."""
    figure = MAKERS[name]()
    pictures = [image for axis in figure.axes if axis.axison for image in axis.get_images()]
    assert len(pictures) >= 6
    for image in pictures:
        values = np.ma.filled(image.get_array().astype(float), np.nan)
        corners = values[[0, 0, -1, -1], [0, -1, 0, -1]]
        if name == "case":
            corners = values[0]  # air above and beside the head
        assert all(np.isnan(corners)) or (corners <= image.get_clim()[0]).all()


@pytest.mark.parametrize("name", ["sample", "one sample", "comparison", "pairs", "slab", "case"])
def test_the_ct_is_shown_in_a_wide_and_in_a_soft_tissue_window(name):
    figure = MAKERS[name]()
    windows = [image.get_clim() for axis in figure.axes for image in axis.get_images()]
    wide, soft = (windows.count(DISPLAY_WINDOWS_HU[window]) for window in ("wide", "soft"))
    assert wide == soft > 0


@pytest.mark.parametrize(("count", "boxes"), [(1, 0), (4, 0), (5, 1), (9, 1)])
def test_boxes_and_intervals_need_five_patients(count, boxes):
    records = [one_centre(record, count) for record in make_records()[:1]]
    centres = figures.centres_figure(records, label="demo")
    caps = 6 * boxes  # a box, a median, two whiskers, two caps
    bars = 1 < count < 5  # the mean instead
    assert len(next(axis for axis in centres.axes if axis.get_ylabel()).lines) == caps + bars
    assert {f"centre A (n = {count})"} <= set(texts(centres))
    clinical = figures.clinical_figure(records, label="demo")
    tissues = next(axis for axis in clinical.axes if axis.get_title() == "MAE by tissue of the CT")
    assert ("95 % interval" in tissues.get_ylabel()) == bool(boxes)
    assert len(tissues.lines) == 3 * (1 + boxes)
    assert sum(len(points.get_offsets()) for points in tissues.collections) == 3 * count
    for figure in (centres, clinical):
        said = f"{count} held-out patient" + "s" * (count > 1)
        assert any(text.replace("\n", " ").endswith(said) for text in texts(figure))


def test_a_box_needs_five_people_not_five_images():
    record = one_centre(make_records()[0], 9)
    rows = [row | {"patient": f"1BA{k // 3:03d}~{k % 3}"} for k, row in enumerate(record["patients"])]
    centres = figures.centres_figure([record | {"patients": rows}], label="demo")
    assert len(next(axis for axis in centres.axes if axis.get_ylabel()).lines) == 1  # the mean
    assert "centre A (n = 3)" in texts(centres)


def one_centre(record: dict, count: int) -> dict:
    """The record with `count` patients of one centre."""
    first = record["patients"][0]
    rows = [first | {"patient": f"1BA{k:03d}", "mae_hu": 60.0 + k} for k in range(count)]
    frame = pd.DataFrame(rows, columns=list(evaluation.columns()))
    scores = evaluation.Scores(frame, record["details"])
    return evaluation.metrics_record(record["name"], scores, label="demo", kind="variant", context={})


def test_a_model_has_one_look_whichever_models_a_figure_shows():
    records = [record | {"kind": "variant"} for record in make_records()]
    records[2]["name"] = "my_own"
    few = clinical_charts._looks(records[:1])[0], clinical_charts._looks(records[::-1])[-1]
    assert few[0] == few[1]
    looks = [style.model_look(experiment.name) for experiment in REGISTRY.all()]
    best = [look for look in looks if look in (style.model_look(f"mk6_3_{k}") for k in range(5))]
    assert len({(look["color"], look["marker"]) for look in best}) == 5
    assert style.model_look("my_own") == style.model_look("my_own")


def test_colours_differ_for_the_colour_blind():
    """Machado et al. 2009: pairs of the palette keep a distance in simulated deuteranopia and protanopia."""
    simulated = {
        "deuteranopia": [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.01182, 0.04294, 0.968881],
        ],
        "protanopia": [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
    }
    for colours in (style.MODEL_COLOURS, tuple(style.CENTRE_COLOURS.values())):
        rgb = np.array([matplotlib.colors.to_rgb(colour) for colour in colours])
        for matrix in simulated.values():
            seen = rgb @ np.array(matrix).T
            distances = [np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)]
            assert min(distances) > 0.12

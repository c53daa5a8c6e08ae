"""What notebooks show: tables as html and text, slices with a slider or as a picture."""

from __future__ import annotations

import json
import re

import cv2
import numpy as np
import pandas as pd
import pytest
from IPython.display import Image

from mrict_core.errors import MrictError
from mrict_core.machine import live_front_end
from mrict_core.reporting import slice_viewer, table_view
from mrict_core.reporting.slice_viewer import Volumes, browse
from mrict_core.reporting.table_view import TableView, best_rows, show_table
from mrict_core.reporting.text_tables import text_table

BOARD = pd.DataFrame(
    {
        "name": ["mk1", "water", "<b>&", "control_bias"],
        "kind": ["variant", "baseline", "variant", "control"],
        "mae_hu": [80.04, 120.0, 80.01, 3.0],
        "mae_hu_low": [70.0, 100.0, 75.0, 3.0],
        "mae_hu_high": [90.0, 140.0, 85.0, 3.0],
        "ssim": [0.9, 0.7, np.nan, 1.0],
        "me_hu": [-5.0, 2.0, 30.0, 0.0],
        "continuity": [1.2, 0.9, 1.5, 1.0],
        "shift_mm": [1.0, 0.0, 0.0, 0.0],
    }
)


@pytest.mark.parametrize(
    ("column", "rows"),
    [
        ("mae_hu", {0, 2}),  # equal as printed
        ("ssim", {0}),
        ("me_hu", set()),  # errors of both signs cancel
        ("continuity", {1}),
        ("shift_mm", set()),  # neither direction is better
        ("name", set()),
        ("mae_hu_low", set()),
    ],
)
def test_the_best_is_marked_by_the_metrics_direction_never_a_control(column, rows):
    assert best_rows(BOARD, column) == rows


def test_one_row_alone_is_not_the_best():
    assert best_rows(BOARD[:1], "mae_hu") == set()


def test_few_columns_first_all_of_them_folded_and_in_the_text():
    view = TableView(BOARD, ["mae_hu", "name"], "Scores")
    few, whole = view._repr_html_().split("<details>")
    assert re.findall(r"<th [^>]*>([^<]*)<", few) == ["MAE (HU)", "name"]
    assert "<caption>Scores</caption>" in few
    assert re.findall(r'class="number best">([^<]*)<', few) == ["80.0 [70.0, 90.0]", "80.0 [75.0, 85.0]"]
    assert len(re.findall("<th ", whole)) == len(BOARD.columns) - 2  # the bounds join the mean
    assert "&lt;b&gt;&amp;" in few
    assert repr(view) == text_table(BOARD)


def test_all_columns_need_no_fold():
    assert "<details>" not in TableView(BOARD, [c for c in BOARD if c[-4:] not in ("_low", "high")])._repr_html_()


def test_show_table_displays_and_names_a_wrong_column(capsys):
    show_table(BOARD, ["name"])
    assert capsys.readouterr().out == text_table(BOARD) + "\n"
    with pytest.raises(MrictError, match=r"unknown column 'mae': did you mean 'mae_hu'"):
        show_table(BOARD, ["mae"])


def volumes(**other) -> Volumes:
    """A volume whose CT rises with every slice, row and column; its sCT is 50 HU too high."""
    z, r, c = np.meshgrid(np.arange(6), np.arange(8), np.arange(10), indexing="ij")
    ct = (z * 50 + r * 10 + c).astype(np.float32)
    mask = np.zeros(ct.shape, bool)
    mask[1:5, 2:7, 3:9] = True
    stacks = {"mr": np.where(mask, 0.5, -1.0), "ct": ct, "sct": ct + 50, "mask": mask} | other
    return Volumes({role: stack for role, stack in stacks.items() if stack is not None}, (4.0, 2.0, 2.0))


@pytest.mark.parametrize(
    ("plane", "positions", "centre"),
    [("axial", (1, 4), (1, 2)), ("coronal", (2, 6), None), ("sagittal", (3, 8), None)],
)
def test_slices_of_every_plane_on_one_canvas(plane, positions, centre):
    found = volumes()
    assert (found.positions(plane)[0], found.positions(plane)[-1]) == positions
    row = found.slices(plane, positions[0])
    assert {row[role].shape for role in ("mr", "ct", "sct", "mask")} == {(12, 12)}  # 6 slices of 4 mm: 12 rows
    assert row["spacing_mm"] == (2.0, 2.0)
    inside = row["mask"] > 0
    assert np.allclose((row["sct"] - row["ct"])[inside], 50)
    top, bottom = row["ct"][inside][0], row["ct"][inside][-1]
    assert (top > bottom) == (plane != "axial")  # the head is up: higher slices have higher values


@pytest.mark.parametrize(
    "other", [{"ct": None}, {"dose": np.zeros((6, 8, 10))}, {"ct": np.zeros((6, 8, 9))}, {"mask": np.zeros((6, 8, 10))}]
)
def test_volumes_that_cannot_be_shown_say_what_is_expected(other):
    with pytest.raises(MrictError, match="expected"):
        volumes(**other)


def test_panels_show_window_and_error():
    row = volumes().slices("axial", 2)
    found = slice_viewer.panels(row, "soft", 100)
    assert list(found) == ["mr", "sct", "ct", "error"]
    picture = {k: cv2.imdecode(np.frombuffer(v, np.uint8), cv2.IMREAD_UNCHANGED) for k, v in found.items()}
    middle = picture["ct"].shape[0] // 2
    value = row["ct"][6, 6]
    assert picture["ct"][middle + 5, middle + 5] == min(255, int((value + 160) * 255 / 400))
    assert picture["error"][0, 0, 3] == 0  # transparent outside the mask
    blue, _, red, alpha = map(int, picture["error"][middle + 5, middle + 5])
    assert alpha == 255
    assert red > blue  # too high is red
    assert slice_viewer.describe(row) == (
        "axial slice 2; R left, L right, A top, P bottom; MAE of this slice, inside the mask: 50 HU"
    )


@pytest.mark.parametrize("sct", [True, False])
def test_without_a_front_end_a_picture_of_three_planes(tmp_path, sct):
    assert not live_front_end()
    found = browse(volumes() if sct else volumes(sct=None), tmp_path / "view.png", title="One head", label="test")
    assert isinstance(found, Image)
    assert (tmp_path / "view.png").is_file()


def test_with_a_front_end_a_slider_that_redraws(tmp_path, monkeypatch):
    pytest.importorskip("ipywidgets")
    monkeypatch.setattr(slice_viewer, "live_front_end", lambda: True)
    viewer = browse(volumes(), tmp_path / "view.png", title="One head", label="test")
    settings, slider, images, caption = viewer.children
    plane, window, _ = settings.children
    before = [box.children[1].value for box in images.children]
    assert len(before) == 4
    slider.value += 1
    assert caption.value.startswith(f"axial slice {slider.value};")
    assert images.children[2].children[1].value != before[2]
    for name, first, last in (("sagittal", 3, 8), ("axial", 1, 4), ("coronal", 2, 6)):
        plane.value = name
        assert (slider.min, slider.max) == (first, last)
        assert caption.value.startswith(f"{name} slice {slider.value};")
    wide = images.children[2].children[1].value
    window.value = "soft"
    assert images.children[2].children[1].value != wide


def test_a_front_end_is_known_by_the_cell_that_it_names(monkeypatch):
    import IPython

    class Shell:
        def __init__(self, metadata):
            self.metadata = metadata

        def get_parent(self):
            return {"metadata": self.metadata}

    for metadata, live in ((json.loads('{"cellId": "cell-01"}'), True), ({}, False)):
        monkeypatch.setattr(IPython, "get_ipython", lambda metadata=metadata: Shell(metadata))
        assert live_front_end() == live


def test_style_sets_no_colour_of_a_theme():
    assert not re.search(r"[^-]color: (?!currentColor)|background: (?!rgba)|#[0-9a-f]{3}", table_view.STYLE)

"""The practice tour: a model that visibly learned, figures of it, and known faults with the metrics that see them."""

from __future__ import annotations

import re

import nbformat
import numpy as np
import pandas as pd
import pytest

from mrict_core import metrics
from mrict_core.errors import MrictError
from mrict_core.evaluation.artefacts import ARTEFACTS, CHECKERBOARD_HU, DRIFT_HU, judge_artefacts, make_artefacts
from mrict_core.paths import ROOT
from mrict_core.pipeline import open_data
from mrict_core.reporting.before_after import before_after_figure
from mrict_core.reporting.slice_viewer import volumes_of

NOTEBOOK = nbformat.read(ROOT / "notebooks" / "practice_brain_example.ipynb", as_version=4)
TEXT = "\n".join(cell.source for cell in NOTEBOOK.cells if cell.cell_type == "markdown")


def test_every_exercise_has_a_hidden_answer():
    answers = sum(cell.source.count("<details>") for cell in NOTEBOOK.cells)
    assert TEXT.count("**Exercise.**") == answers >= 8
    for hidden in re.findall(r"<details>(.*?)</details>", TEXT, re.DOTALL):
        assert hidden.startswith("<summary>Answer</summary>\n\n")  # without the empty line markdown is not rendered
        assert hidden.endswith("\n\n")


def test_no_score_is_written_by_hand():
    """Fixed text would contradict another seed, variant or number of steps."""
    assert re.findall(r"\b(?:MAE|error)[^\d±]{0,20}\d+ HU", TEXT) == []


@pytest.fixture(scope="module")
def case(space):
    store, split = open_data(space, 42)
    return store, split.test[0]


@pytest.mark.parametrize("name", ARTEFACTS)
def test_faults_are_what_they_say(case, name):
    store, patient = case
    ct = np.asarray(store.slices(patient).ct, np.float32)
    image = make_artefacts(store, patient)[name]
    assert (image.shape, image.dtype) == (ct.shape, np.float32)
    difference = image - ct
    expected = {
        "mode collapse": lambda: np.ptp(image, axis=0).max() == 0,
        "checkerboard": lambda: np.allclose(abs(difference), CHECKERBOARD_HU) and abs(difference.mean()) < 1e-3,
        "HU drift": lambda: np.allclose(difference[-1], DRIFT_HU) and np.allclose(difference[0], -DRIFT_HU),
        "blur": lambda: image.std() < ct.std(),
        "shift": lambda: np.array_equal(image[..., 1:], ct[..., :-1]),
        "left-right flip": lambda: np.array_equal(image[..., ::-1], ct),
    }
    assert expected[name]()


def test_judges_say_what_they_see(case):
    table = judge_artefacts(*case).set_index("artefact")
    assert list(table.index) == list(ARTEFACTS)
    assert table.loc["checkerboard", "mae_hu"] == pytest.approx(CHECKERBOARD_HU, rel=0.01)
    assert (
        metrics.heading("continuity") in table.loc["mode collapse", "seen by"]
    )  # one slice repeated: no change at all
    assert table.loc["mode collapse", "continuity"] == 0
    assert metrics.heading("me_hu") in table.loc["checkerboard", "unseen by"]  # the errors cancel
    assert metrics.heading("mae_hu") in table.loc["shift", "seen by"]
    assert table.loc["shift", "mae_shift_hu"] < 0.1 * table.loc["shift", "mae_hu"]
    for _, row in table.iterrows():
        assert not set(row["seen by"].split(", ")) & set(row["unseen by"].split(", "))


def test_before_and_after_in_one_figure(case):
    store, patient = case
    volumes = volumes_of(store, patient)
    row = volumes.slices("axial", volumes.positions("axial")[0])
    history = pd.DataFrame({"step": [0, 5, 10], "mae_hu": [250.0, 120.0, 80.0]})
    images = {0: np.zeros_like(row["ct"]), 10: row["ct"]}
    figure = before_after_figure(row, images, history, 251.04, title="a head", label="test")
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert titles == ["MR", "untrained", "10 steps", "CT"]
    assert any(text.get_text() == "water: 251.0 HU" for axis in figure.axes for text in axis.texts)
    with pytest.raises(MrictError, match="expected some of the history's steps"):
        before_after_figure(row, {7: images[10]}, history, 251.0, title="a head", label="test")

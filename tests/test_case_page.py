"""The page beside a synthetic CT: what it shows, what it says, what it keeps to itself."""

from __future__ import annotations

import re

import numpy as np
import pytest
from tiny_models import untrained_checkpoint, write_head

from mrict_core.data.volumes import load_volume
from mrict_core.errors import MrictError
from mrict_core.inference.gate import Finding
from mrict_core.inference.volume import SynthesisOptions
from mrict_core.pipeline.cases import find_cases, synthesize_cases
from mrict_core.pipeline.synthesize import load_models, synthesize_case
from mrict_core.reporting.case import case_figure


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return load_models([str(untrained_checkpoint(folder / "a.pt", seed=0))], device="cpu")


def test_the_page_holds_picture_warnings_and_provenance(tmp_path, models):
    source = write_head(tmp_path / "secret_name.nii.gz")
    odd = {"check": lambda volume, facts: [Finding("small", "body <b>small</b>")], "qa": tmp_path / "page.html"}
    spread = {"uncertainty": tmp_path / "sd.nii.gz"}
    facts = synthesize_case(source, tmp_path / "ct.nii.gz", models, SynthesisOptions(tta=True), **odd, **spread)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "body &lt;b&gt;small&lt;/b&gt;" in page
    assert models[0].hash in page
    assert facts["input_hash"] in page
    assert "not for clinical use" in page
    assert "no bound of the error" in page
    assert "secret_name.nii.gz" in page  # which case it is of
    assert str(tmp_path) not in page
    assert not re.search(r"https?://|src=\"(?!data:)", page)


def test_a_case_without_doubts_says_so(tmp_path, models):
    facts = synthesize_case(
        write_head(tmp_path / "mr.nii"), tmp_path / "ct.nii", models, qa=tmp_path / "p.html", check=None
    )
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert facts["verdict"] == "do not use"
    assert "made to show the suite" in page
    assert "no bound of the error" not in page


def test_the_picture_alone(tmp_path, models):
    synthesize_case(write_head(tmp_path / "mr.nii"), tmp_path / "ct.nii", models, qa=tmp_path / "qa.png")
    assert (tmp_path / "qa.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("qa.pdf", "allowed: .html, .png"), ("QA.PNG", "allowed"), ("ct.json", "allowed"), ("mr.html", None)],
)
def test_other_types_are_refused_before_anything_is_written(name, wanted, tmp_path, models):
    source = write_head(tmp_path / "mr.nii")
    if wanted is None:
        (tmp_path / name).write_text("kept")
        wanted = "exists already"
    with pytest.raises(MrictError, match=wanted):
        synthesize_case(source, tmp_path / "ct.nii", models, qa=tmp_path / name)
    assert not (tmp_path / "ct.nii").exists()


def test_every_case_of_a_batch_gets_its_page(tmp_path, models):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("one", "two"):
        write_head(folder / f"{name}.nii.gz")
    found = find_cases(folder, tmp_path / "out", qa=tmp_path / "pages")
    for expected in ("written", "kept"):
        frame = synthesize_cases(found, models, tmp_path / "out" / "summary.csv")
        assert set(frame["status"]) == {expected}
    assert sorted(p.name for p in (tmp_path / "pages").iterdir()) == ["one_sct.html", "two_sct.html"]


@pytest.mark.parametrize("shape", [(34, 40, 7), (30, 30, 1), (9, 50, 20)])
@pytest.mark.parametrize("spread", [False, True])
def test_any_shape_is_drawn(shape, spread, tmp_path):
    volume = load_volume(write_head(tmp_path / "mr.nii", shape))
    body = np.zeros(shape, bool)
    body[2:-2, 2:-2] = True
    hu = np.where(body, 30.0, -1024.0).astype(np.float32)
    figure = case_figure(
        volume, hu, np.where(body, 20.0, 0.0) if spread else None, body, mr_range=(0.0, 500.0), label="test"
    )
    pictures = [axis for axis in figure.axes if axis.images]
    assert len(pictures) >= 6 * (3 if spread else 2)

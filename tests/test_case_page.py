"""The page beside a synthetic CT: what it shows, what it says, what it keeps to itself."""

from __future__ import annotations

import dataclasses
import html
import json
import re
from pathlib import Path

import numpy as np
import pytest
from dicom_files import IDENTIFIERS, write_mr_series
from test_dicom_privacy import found_in
from tiny_models import head_array, untrained_checkpoint, write_head

from mrict_core.data.images.volumes import load_volume
from mrict_core.errors import MrictError
from mrict_core.inference.gate import Finding
from mrict_core.inference.volume import SynthesisOptions
from mrict_core.pipeline.cases import find_cases, synthesize_cases
from mrict_core.pipeline.synthesis import load_models, synthesize_case
from mrict_core.reporting.case_page import case_figure


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
    assert "not a bound on the error" in page
    assert "secret_name.nii.gz" in page  # which case it is of
    assert str(tmp_path) not in page
    assert not re.search(r"https?://|src=\"(?!data:)", page)


def text_of(page: Path) -> str:
    """Return what a page says, without its markup and pictures."""
    content = re.sub(r"<style>.*?</style>|<[^>]*>", " ", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return " ".join(html.unescape(content).split())


FINDINGS = {
    "fits": ([], "Fits No check speaks against it"),
    "a note alone": ([Finding("a", "joined from tiles", "note")], "Fits No check speaks"),
    "doubtful": ([Finding("a", "the body is small"), Finding("b", "by the way", "note")], "Doubtful the body is small"),
    "do not use": ([Finding("a", "the body is small"), Finding("b", "a CT", "refuse")], "Do not use a CT"),
}


@pytest.mark.parametrize("name", FINDINGS)
def test_the_verdict_is_on_top_and_every_finding_is_said_once(name, tmp_path, models):
    findings, verdict = FINDINGS[name]
    model = dataclasses.replace(models[0], demo=False)
    checks = {"check": lambda volume, facts: findings, "check_output": None, "qa": tmp_path / "p.html"}
    facts = synthesize_case(write_head(tmp_path / "mr.nii"), tmp_path / "ct.nii", [model], **checks)
    page = text_of(tmp_path / "p.html")
    assert verdict in page
    assert page.index(verdict) < page.index("Image")
    for text in facts["warnings"]:
        assert page.count(text) == 1
    assert json.loads((tmp_path / "ct.json").read_text())["verdict"] == ("fits" if "note" in name else name)


def test_an_ensemble_says_nothing_three_times(tmp_path):
    names = [str(untrained_checkpoint(tmp_path / f"{seed}.pt", seed=seed)) for seed in range(3)]
    three = load_models(names, device="cpu")
    synthesize_case(write_head(tmp_path / "mr.nii"), tmp_path / "ct.nii", three, qa=tmp_path / "p.html")
    page = text_of(tmp_path / "p.html")
    for text in ("made to demonstrate the suite", "has no training fingerprint", "missing bone was not checked"):
        assert page.count(text) == 1, text


@pytest.mark.parametrize(
    ("known", "said"),
    [
        (None, "missing bone cannot be detected"),
        ({"low": 0.0, "high": 1.0}, "as in the training CTs"),
        ({"low": 0.01, "high": 0.02}, "there is too much bone: "),
    ],
)
def test_the_page_says_whether_there_is_the_trainings_bone(known, said, tmp_path, models):
    bone = {"patients": 9, "above_300_hu": known, "above_700_hu": known} if known else {}
    facts = dataclasses.replace(models[0].synthesizer.facts, fingerprint={"protocol": "x", "bone": bone})
    model = dataclasses.replace(models[0], synthesizer=dataclasses.replace(models[0].synthesizer, facts=facts))
    synthesize_case(write_head(tmp_path / "mr.nii"), tmp_path / "ct.nii", [model], qa=tmp_path / "p.html")
    assert said in text_of(tmp_path / "p.html")


def test_the_patient_is_named_only_when_asked_for(tmp_path, models):
    array = np.rint(head_array((34, 40, 7))).astype(np.uint16)
    write_mr_series(tmp_path / "scan 7", array, np.diag([-5.0, -5.0, 6.0, 1.0]))
    for kept in (False, True):
        page, out = tmp_path / f"{kept}.html", tmp_path / f"ct{kept}"
        synthesize_case(tmp_path / "scan 7", out, models, qa=page, keep_identifiers=kept)
        assert "scan 7" in text_of(page)
        assert out.name in text_of(page)
        assert (IDENTIFIERS["PatientName"] in text_of(page)) is kept
        assert (IDENTIFIERS["PatientID"] in text_of(page)) is kept
        assert found_in((tmp_path / f"ct{kept}.json").read_bytes()) == []


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

"""The report page as text: complete, escaped, honest about what is missing, and within its size."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import json
import re

import numpy as np
import pandas as pd
import pytest
from page_data import PATIENTS, browser_patient, page_data, record

from mrict_core import evaluation, metrics
from mrict_core.reporting.page import render, slices, write_page
from mrict_core.reporting.page.sections import EXPECTED, build
from mrict_core.reporting.summary import panel_table, summary_table, write_summary


@pytest.fixture(scope="module")
def data():
    return page_data(count=8, slices=6, side=40)


@pytest.fixture(scope="module")
def text(data) -> str:
    return render(data)


def test_the_page_of_the_default_suites_size_is_one_file_of_bounded_size(tmp_path):
    path = write_page(page_data(), tmp_path / "sub" / "index.html")
    assert [p.name for p in path.parent.iterdir()] == ["index.html"]
    assert path.stat().st_size < 15e6


def test_nothing_is_fetched(text):
    body = re.sub(r"<script>.*?</script>", "", text, flags=re.S)
    assert not re.findall(r"(?:src|href)=\"(?!#|data:)", body)
    assert "@import" not in body
    assert not re.search(r"url\((?!data:)", body)


def test_no_foreign_host_is_named_and_nothing_may_leave(text):
    """Plotly's licence notices keep their addresses; www.w3.org names the kinds of XML."""
    code = re.sub(r"/\*!.*?\*/", "", text, flags=re.S)
    assert set(re.findall(r"(?:https?|wss?|ftp):(?:\\?/){2}([\w.-]+)", code)) == {"www.w3.org"}
    assert not re.findall(r"[\"'`]//[\w-]+\.\w", code)  # an address without its scheme
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == rules["form-action"] == "'none'"
    assert not {"connect-src", "frame-src", "worker-src"} & set(rules)  # none of its own: default-src holds
    assert "http" not in policy
    assert "*" not in policy
    own = text[text.index("const QUIET") :]
    for part in ("displaylogo: false", "showSendToCloud: false", 'plotlyServerURL: ""', "modeBarButtons: [["):
        assert part in own
    assert "sendChartToCloud" not in own


def test_every_expected_section_stands_in_order(text, data):
    found = re.findall(r"<section id=\"([a-z]+)\"", text)
    assert found == [id_ for id_, *_ in EXPECTED]
    assert [s.missing for s in build(data) if s.missing] == []
    assert "mk99</b>: not evaluated" in text


def test_what_is_missing_is_said_with_its_reason(data):
    bare = dataclasses.replace(
        data, browser=[], controls=[], histories={}, predecessor=pd.DataFrame(), comparisons=pd.DataFrame(), features=[]
    )
    bare = dataclasses.replace(bare, browser_note="mk1: no such checkpoint", provenance={}, variants=[])
    missing = {s.id: s.missing for s in build(bare) if s.missing}
    assert set(missing) == {
        *("slices", "comparisons", "controls", "predecessor", "features", "training", "lineage", "provenance"),
    }
    page = render(bare)
    assert "Missing from this report" in page
    for reason in missing.values():
        assert page.count(reason) >= 2  # at the top and in its place
    nothing = dataclasses.replace(bare, records=[], board=evaluation.leaderboard([]), centres=pd.DataFrame())
    assert {s.id for s in build(nothing) if not s.missing} == {"corrections", "definitions"}
    render(nothing)


def test_absent_feature_metrics_say_why(text, data):
    assert "Absent: FID: no weights here" in text
    only = dataclasses.replace(data, features=[f for f in data.features if f["value"] is None])
    (section,) = (s for s in build(only) if s.id == "features")
    assert section.missing == "Absent: FID: no weights here"


def test_names_and_notes_are_escaped(data):
    evil = "<script>alert(1)</script>"
    odd = record("mk0", 100.0, flags=evil)
    odd["note"] = evil
    records = [odd, *data.records[1:]]
    board = evaluation.leaderboard(records)
    page = render(dataclasses.replace(data, records=records, board=board, missing={evil: evil}, intro=evil))
    assert evil not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    cards = re.search(r"id=\"data-cards\">(.*?)</script>", page, flags=re.S)[1]
    assert set(json.loads(cards)["mae_hu"]["numbers"]) >= {"mk0", "control_black"}


def test_every_number_has_its_card(text):
    cards = json.loads(re.search(r"id=\"data-cards\">(.*?)</script>", text, flags=re.S)[1])
    for metric, name in set(re.findall(r"data-metric=\"([a-z_0-9]+)\" data-name=\"([a-z_0-9]+)\"", text)):
        own = cards[metric]["numbers"][name]
        assert own["n"] == 3
        assert (own["split_hash"], own["checkpoint_hash"], own["profile"]) == ("5b11", "c0de", "demo")
        assert all(cards[metric][key] for key in ("range", "mask", "dimensionality", "aggregation", "weights"))


def test_nulls_are_dashes(data):
    empty = record("mk0", float("nan"))
    records = [*data.records[1:], empty]
    page = render(dataclasses.replace(data, records=records, board=evaluation.leaderboard(records)))
    row = re.search(r"<tr class=\"variant\">(?:(?!</tr>).)*model-mk0\".*?</tr>", page, flags=re.S)[0]
    assert "nan" not in row.lower()
    assert "–" in row


def unpacked(block: str) -> bytes:
    return gzip.decompress(base64.b64decode(block))


def test_slices_come_back_to_within_a_display_step():
    patient = browser_patient("1BA004", ["mk1"], count=5, side=40)
    encoded = slices.encode([patient], ["mk1"])
    (facts,) = encoded.patients
    planes = np.frombuffer(unpacked(encoded.blocks["p0-v0"]), np.uint8).reshape(2, -1)
    hu = (planes[0].astype(np.int32) | (planes[1].astype(np.int32) << 8)).astype(np.int16) * slices.STEP_HU
    hu = hu.reshape(facts["count"], facts["rows"], facts["columns"])
    body = patient.mask | (patient.mr > -1)
    rows, columns = (np.flatnonzero(body.any(axis=axes)) for axes in ((0, 2), (0, 1)))
    top, left = max(0, rows[0] - slices.MARGIN), max(0, columns[0] - slices.MARGIN)
    cut = (slice(None), slice(top, top + facts["rows"]), slice(left, left + facts["columns"]))
    expected = np.where(body[cut], patient.scts["mk1"][cut], -1024)
    assert np.abs(hu - expected).max() <= slices.STEP_HU / 2 + 1e-3
    assert facts["z"] == patient.z.tolist()
    assert encoded.notes == []


def test_large_volumes_are_thinned_and_the_page_says_how():
    names = [f"mk{k}" for k in range(6)]
    patients = [browser_patient(p, names, count=40, side=200) for p in PATIENTS[:2]]
    encoded = slices.encode(patients, names, max_bytes=400_000)
    assert sum(map(len, encoded.blocks.values())) < 1.4 * 400_000
    assert encoded.patients[0]["count"] >= slices.SLICES_MIN
    assert max(encoded.patients[0]["rows"], encoded.patients[0]["columns"]) <= slices.SIDE_MAX
    for part in ("one slice in 3", "pixels are averaged 2 × 2", "of 6 variants"):
        assert any(part in note for note in encoded.notes), part
    assert encoded.patients[0]["variants"] == names[: len(encoded.patients[0]["variants"])]  # the best stay


def test_thinning_does_not_touch_the_error_that_is_told():
    """A checkerboard of ± 300 HU averages away in the picture; its MAE must not."""
    patient = browser_patient("1BA004", [], count=24, side=200)
    board = np.where((np.arange(200)[:, None] + np.arange(200)) % 2, 300.0, -300.0)
    patient = dataclasses.replace(patient, scts={"mk1": patient.ct + board})
    encoded = slices.encode([patient], ["mk1"], max_bytes=50_000)
    (facts,) = encoded.patients
    assert any("averaged" in note for note in encoded.notes)
    assert len(facts["mae"]["mk1"]) == facts["count"] == len(facts["z"])
    assert facts["mae"]["mk1"] == [pytest.approx(300.0)] * facts["count"]


def test_what_fits_is_not_thinned():
    patient = browser_patient("1BA004", ["mk1"], count=1, side=240)
    encoded = slices.encode([patient], ["mk1"])
    assert encoded.notes == []
    assert encoded.patients[0]["rows"] > slices.SIDE_MAX


def test_the_summary_holds_every_number_with_its_card(data, tmp_path):
    table = summary_table([*data.records, *data.controls])
    one = table[(table["name"] == "mk0") & (table["metric"] == "mae_hu")].iloc[0]
    assert one["mean"] == pytest.approx(105.0)
    assert (one["n"], one["split_hash"], one["checkpoint_hash"]) == (3, "5b11", "c0de")
    assert not table[table["metric"].isin(metrics.recorded())]["range"].isna().any()
    absent = table[table["metric"] == "fid"].iloc[0]
    assert np.isnan(absent["mean"])
    assert absent["note"].startswith("no weights here")
    panel = panel_table(data.records)
    assert panel["name"][0] == "mk0"
    assert (panel["n_bone"] == 9).all()
    tables = {"Leaderboard": ("Best first.", data.board), "Nothing": ("Not run.", pd.DataFrame())}
    markdown, csv = write_summary(tmp_path, "A run", "demo", tables, data.records)
    text = markdown.read_text()
    assert text.startswith("# A run (demo)")
    assert "*missing*" in text
    assert "Water-equivalent path length" in text
    assert len(pd.read_csv(csv)) == len(data.records) * (len(metrics.recorded()) + 2)

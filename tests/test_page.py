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
from page_data import MANY, PATIENTS, browser_patient, page_data, record

from mrict_core import evaluation, metrics
from mrict_core.reporting.page import patient_files, plots, render, slices, write_page
from mrict_core.reporting.page.sections import EXPECTED, build
from mrict_core.reporting.summary import panel_table, summary_table, write_summary
from mrict_core.reporting.text_tables import FEWEST


@pytest.fixture(scope="module")
def data():
    return page_data(count=8, slices=6, side=40)


@pytest.fixture(scope="module")
def text(data) -> str:
    return render(data)


def test_the_page_of_the_default_suites_size_is_one_file_of_bounded_size(tmp_path):
    path = write_page(page_data(), tmp_path / "sub" / "index.html")
    assert [p.name for p in path.parent.iterdir()] == ["index.html"]
    assert path.stat().st_size < 13e6
    without_slices = re.sub(
        r"<script type=\"application/octet-stream;base64\".*?</script>", "", path.read_text(), flags=re.S
    )
    assert len(without_slices) < 5e6


def test_every_other_patient_has_a_file_beside_the_page_and_old_files_go(tmp_path):
    many = page_data(count=2, slices=4, side=24, patients=MANY)
    path = write_page(many, tmp_path / "index.html")
    page = path.read_text()
    entries = {
        e["patient"]: e for e in json.loads(re.search(r"id=\"data-patients\">(.*?)</script>", page, flags=re.S)[1])
    }
    assert set(entries) == set(MANY)
    inside = {e["role"]: name for name, e in entries.items() if not e["file"]}
    assert inside == {"worst": MANY[-1], "best": MANY[0], "median": MANY[14]}  # the error grows from patient to patient
    assert all(e["facts"] for e in entries.values() if not e["file"])
    beside = {e["file"] for e in entries.values() if e["file"]}
    assert beside == {f"page/{found.name}" for found in (tmp_path / "page").iterdir()}
    assert len(beside) == 27
    name, facts, blocks = json.loads((tmp_path / "page" / f"{MANY[3]}.js").read_text()[len("mrictPatient(...") : -3])
    assert name == MANY[3]
    assert set(blocks) == {"mr", "mask", "ct", *map(str, range(len(facts["names"])))}
    write_page(dataclasses.replace(many, browser=many.browser[:4]), path)
    assert len(list((tmp_path / "page").iterdir())) == 1


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ((None, 110.0, 105.0, 120.0), [("1BC003", "worst"), ("1BA004", "median"), ("1BB005", "best"), ("1BA001", "")]),
        ((100.0, None, 90.0, None), [("1BA001", "worst"), ("1BB005", "best"), ("1BA004", ""), ("1BC003", "")]),
        ((None, None, 90.0, None), [("1BB005", "only"), ("1BA001", ""), ("1BA004", ""), ("1BC003", "")]),
        ((None, None, None, None), [("1BA001", ""), ("1BA004", ""), ("1BB005", ""), ("1BC003", "")]),
    ],
)
def test_a_patient_without_a_score_comes_last_and_has_no_role(errors, expected):
    names = ("1BA001", *PATIENTS)
    data = page_data(count=1, slices=2, side=24, patients=names)
    rows = [row | {"mae_hu": error} for row, error in zip(data.records[0]["patients"], errors, strict=True)]
    data = dataclasses.replace(data, records=[data.records[0] | {"patients": rows}])
    entries = patient_files.listed(data)
    assert [(e["patient"], e["role"]) for e in entries] == expected
    inside = [e["patient"] for e in entries if not e["file"]]
    assert inside == ([name for name, role in expected if role] or ["1BA001"])


@pytest.mark.parametrize(
    ("count", "said", "not_said"),
    [
        (1, ("in the one held-out person", "One patient allows no test", "Values of the one held-out"), ("over 1 ",)),
        (3, ("over 3 held-out people", "p cannot fall below 0.25,", "worst 1BC003 (110.0 HU)"), ("one held-out",)),
        (30, ("over 30 held-out people", "p cannot fall below 1.86e-09", "the other 27 are read"), ("one held-out",)),
    ],
)
def test_the_words_fit_the_number_of_patients(count, said, not_said):
    page = render(page_data(count=3, slices=2, side=24, patients=MANY[:count] if count == 30 else PATIENTS[:count]))
    words = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert [part for part in said if part not in words] == []
    assert [part for part in not_said if part in words] == []


def test_the_result_stands_on_top_in_one_sentence(text):
    headline = re.search(r"<p class=\"headline\">(.*?)</p>", text)[1]
    assert headline.startswith("mk0 is best: 105.0 HU mean absolute error over 3 held-out people, better than the best")
    assert headline.count(". ") == 0
    result = re.search(r"id=\"result\">(.*?)</div>", text, flags=re.S)[1]
    assert result.count("Dice") == 1  # bone is described once
    assert text.index("headline") < text.index('id="leaderboard"')
    assert re.search(r"<b>Bone</b>: (Good|Fair|Poor): ", text)


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
    bare = dataclasses.replace(bare, dose=None)
    bare = dataclasses.replace(bare, browser_note="mk1: no such checkpoint", provenance={}, variants=[])
    missing = {s.id: s.missing for s in build(bare) if s.missing}
    assert set(missing) == {
        *("slices", "comparisons", "dose", "controls", "predecessor", "features", "training", "lineage", "provenance"),
    }
    page = render(bare)
    assert "Missing from this report" in page
    for id_, reason in missing.items():
        assert page.count(reason) == 1  # once
        assert f'<section id="{id_}"' not in page
    folded = page.index('<details class="holes" id="missing">')
    assert folded > page.rindex("<section ")
    assert "Missing from this report (10)" in page[folded:]
    assert "not evaluated" in page[folded:]
    together = render(dataclasses.replace(bare, missing={"mk98": "not evaluated", "mk99": "not evaluated"}))
    assert "<b>mk98, mk99</b>: not evaluated" in together
    nothing = dataclasses.replace(bare, records=[], board=evaluation.leaderboard([]), centres=pd.DataFrame())
    assert {s.id for s in build(nothing) if not s.missing} == {"corrections", "definitions"}
    assert "evaluate NAME --dose" in missing["dose"]
    render(nothing)


@pytest.mark.parametrize(
    ("label", "intro", "said", "not_said"),
    [
        ("demo", "3 held-out digital phantom patients", ["few epochs; digital phantom", "nothing about"], ["cpu</b>"]),
        ("demo", "3 held-out patients of OWN", ["small networks, few epochs.", "nothing about"], ["digital phantom"]),
        ("smoke test", "3 held-out patients of OWN", ["smoke test</b>: small networks"], ["digital phantom"]),
        ("cpu", "3 held-out patients of OWN", ["cpu</b>: smaller networks and a short"], ["nothing about", "few ep"]),
        ("cpu", "3 held-out digital phantom patients", ["cpu</b>: digital phantom patients. "], ["few epochs"]),
        ("full", "3 held-out patients of OWN", [], ['banner">']),
        ("full", "3 held-out digital phantom patients", ["full</b>: digital phantom patients. "], ["few epochs"]),
    ],
)
def test_the_page_says_what_its_numbers_are_worth_and_whether_it_shows_patients(label, intro, said, not_said):
    small = page_data(count=1, slices=2, side=24)
    words = re.sub(r"<script.*?</script>", "", render(dataclasses.replace(small, label=label, intro=intro)), flags=re.S)
    assert [part for part in said if part not in words] == []
    assert [part for part in not_said if part in words] == []
    assert ("This page shows patients" in words) == ("phantom" not in intro)


@pytest.mark.parametrize("count", [FEWEST - 1, FEWEST])
def test_few_patients_have_no_interval_in_a_table(count):
    patients = [f"1BA{k:03d}" for k in range(count)]
    data = page_data(count=2, slices=2, side=24, patients=patients)
    features = [score | {"patients": count} for score in data.features]
    folds = pd.DataFrame([{"name": "mk0", "left_out": "A", "n": count, "mean_hu": 100.0, "low_hu": 97.0}])
    folds = folds.assign(high_hu=104.0, best_baseline_hu=200.0, beats_baselines=True)
    words = re.sub(
        r"<script.*?</script>", "", render(dataclasses.replace(data, features=features, folds=folds)), flags=re.S
    )
    parts = (
        "95 % interval</button>",
        "95 % from</button>",
        "95 % patient bootstrap",
        "[95 % interval]",
        "<dt>95 % int",
    )
    assert [part in words for part in parts] == [count >= FEWEST] * len(parts)
    assert bool(re.search(r"\[\d+\.\d, \d+\.\d\]", words)) == (count >= FEWEST)
    if count < FEWEST:
        shown = re.sub(r'<section id="definitions".*', "", words, flags=re.S)
        assert not re.search("(?<!V)95 %", shown)  # V95 is a measure of dose


def test_the_best_is_bold_but_never_a_bias(data):
    tables = [table for section in build(data) for table in section.content.get("tables", [])]
    bold = {cell.metric for table in tables for row in table.rows for cell in row if cell.kind == "best"}
    assert {"mae_hu", "ssim", "continuity"} <= bold
    assert not {key for key in bold if metrics.metric(key).better in ("zero", "none")}


def test_a_box_needs_five_people_not_five_images():
    patients = [f"1BA{k // 3:03d}~{k % 3}" for k in range(9)]
    (box,) = plots.centres([record("mk1", 100.0, patients=patients)])["data"]
    assert len(box["y"]) == 9
    assert box["fillcolor"] == plots.UNSEEN


@pytest.mark.parametrize("count", [FEWEST - 1, FEWEST])
def test_few_patients_are_drawn_without_box_and_interval(count):
    patients = [f"1BA{k:03d}" for k in range(count)]
    records = [record("mk1", 100.0, patients=patients), record("baseline_0", 200.0, "baseline", patients=patients)]
    enough = count >= FEWEST
    mean = plots.leaderboard(records)["data"][-1]
    assert mean["name"] == ("mean, 95 % interval" if enough else "mean")
    bars = [mean["error_x"], *(bar["error_y"] for bar in plots.tissues(records)["data"])]
    assert all((end is not None) == enough for bar in bars for key in ("array", "arrayminus") for end in bar[key])
    (box,) = plots.centres(records)["data"]
    assert len(box["y"]) == 2 * count
    assert (box["line"].get("color") == box.get("fillcolor") == plots.UNSEEN) != enough


def test_absent_feature_metrics_say_why(text, data):
    assert "Absent: FID: no weights here" in text
    only = dataclasses.replace(data, features=[f for f in data.features if f["value"] is None])
    (section,) = (s for s in build(only) if s.id == "features")
    assert section.missing == "no value of FID; summary.csv says why"


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
        assert own["n"] == (2 if metric in metrics.keys("dose") else 3)  # one has no dose
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
    encoded = slices.encode(patient, ["mk1"])
    facts = encoded.facts
    planes = np.frombuffer(unpacked(encoded.blocks["0"]), np.uint8).reshape(2, -1)
    hu = (planes[0].astype(np.int32) | (planes[1].astype(np.int32) << 8)).astype(np.int16) * slices.STEP_HU
    hu = hu.reshape(facts["size"])
    body = patient.mask | (patient.mr > -1)
    rows, columns = (np.flatnonzero(body.any(axis=axes)) for axes in ((0, 2), (0, 1)))
    top, left = max(0, rows[0] - slices.MARGIN), max(0, columns[0] - slices.MARGIN)
    cut = (slice(None), slice(top, top + facts["size"][1]), slice(left, left + facts["size"][2]))
    expected = np.where(body[cut], patient.scts["mk1"][cut], -1024)
    assert np.abs(hu - expected).max() <= slices.STEP_HU / 2 + 1e-3
    assert facts["z"] == patient.z.tolist()
    assert facts["planes"] == ["axial", "coronal", "sagittal"]
    assert facts["notes"] == []


def test_large_volumes_are_thinned_and_the_page_says_how():
    names = [f"mk{k}" for k in range(6)]
    encoded = slices.encode(browser_patient(PATIENTS[0], names, count=40, side=200), names[::-1], max_bytes=200_000)
    facts = encoded.facts
    assert sum(map(len, encoded.blocks.values())) < 1.4 * 200_000
    count, *sides = facts["size"]
    assert count >= slices.SLICES_MIN
    assert max(sides) <= slices.SIDE_MAX
    assert facts["spacing"] == [15.0, 7.2, 7.2]
    for part in ("one slice in 3", "pixels are averaged 2 × 2", "of 6 models"):
        assert any(part in note for note in facts["notes"]), part
    assert facts["names"] == names[-len(facts["names"]) :]  # the first of the priority stay, in the order of the page


def test_thinning_does_not_touch_the_error_that_is_told():
    """A checkerboard of ± 300 HU averages away in the picture; its MAE must not."""
    patient = browser_patient("1BA004", [], count=24, side=200)
    board = np.where((np.arange(200)[:, None] + np.arange(200)) % 2, 300.0, -300.0)
    facts = slices.encode(
        dataclasses.replace(patient, scts={"mk1": patient.ct + board}), ["mk1"], max_bytes=50_000
    ).facts
    assert any("averaged" in note for note in facts["notes"])
    assert len(facts["mae"]["mk1"]) == facts["size"][0] == len(facts["z"])
    assert facts["mae"]["mk1"] == [pytest.approx(300.0)] * len(facts["z"])


def test_what_fits_is_not_thinned():
    facts = slices.encode(browser_patient("1BA004", ["mk1"], count=1, side=240), ["mk1"]).facts
    assert facts["notes"] == []
    assert facts["size"][1] > slices.SIDE_MAX


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


def test_dose_has_a_table_of_means_and_of_ranks_by_modality(text):
    section = text.split('<section id="dose"')[1].split("</section>")[0]
    assert section.count('<table class="data">') == 4
    for part in ("Photons: means", "Protons: means", "ranks, 1 is best", "not for clinical use", "by dose MAE %"):
        assert part in section
    of = {part: section[section.rindex(f"{part}: means") :] for part in ("Photons", "Protons")}
    photons, protons = (part.split("</table>")[0] for part in of.values())
    assert 'data-metric="range_mm"' in protons
    assert 'data-metric="range_mm"' not in photons  # photons have no range
    assert 'data-metric="dvh"' not in protons  # no organ
    assert "baseline_0 before mk0" in section
    assert "1BC003: failed, no test target fits" in section
    charts = json.loads(re.search(r'id="data-charts">(.*?)</script>', text, re.DOTALL)[1])
    names = [trace["name"] for trace in charts["dose_ranges"]["figure"]["data"]]
    assert names[:3] == ["mk0", "mk1", "baseline_0"]

"""One row per metric: every place that shows one reads the table, in its order and by its direction."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pandas as pd
import pytest
from page_data import page_data
from page_data import record as made_record

from mrict_core import evaluation, metrics
from mrict_core.errors import MrictError
from mrict_core.evaluation.compare import compare_runs
from mrict_core.evaluation.image_scores import ScoreOptions, cards_of
from mrict_core.evaluation.records import read_record, write_metrics
from mrict_core.metrics import synthrad
from mrict_core.metrics.table import markdown
from mrict_core.paths import ROOT
from mrict_core.reporting import figures
from mrict_core.reporting.page import render
from mrict_core.reporting.summary import panel_table, summary_table
from mrict_core.reporting.text_tables import comparison_text, remarks, text_table, write_leaderboard

BEGIN, END = "<!-- begin: printed by python -m mrict_core.metrics --markdown -->", "<!-- end -->"
ROWS = list(metrics.TABLE.values())
HOMES = {
    "synthrad2023",
    "synthrad2025",
    "thin",
    "clinical",
    "predecessor",
    "procedure",
    "features",
    "dose",
    "uncertainty",
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.key)
def test_every_row_is_whole(row):
    assert set(row.panels) <= set(metrics.PANELS)
    assert HOMES & set(row.panels)
    assert row.better in metrics.BETTER
    assert row.digits in range(5)
    assert not re.search(r"[{}]", " ".join(row.card().values()))
    assert row.value or not {"clinical", "leaderboard", "compare", "controls"} & set(row.panels)


def test_an_unknown_name_is_an_error_with_the_nearest_one():
    with pytest.raises(MrictError, match="did you mean 'mae_hu'"):
        metrics.metric("mae_h")


def test_the_documentation_is_in_step_with_the_table():
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert text.split(BEGIN)[1].split(END)[0].strip() == markdown(), "paste: python -m mrict_core.metrics --markdown"
    assert re.findall(r"^\| `(\w+)` \|", markdown(), flags=re.M) == list(metrics.TABLE)


def test_no_heading_is_written_twice():
    """A heading with a unit is only in its row; everything else reads the table."""
    headings = {row.heading for row in ROWS if "(" in row.heading}
    files = [path for path in (ROOT / "mrict_core").rglob("*.py") if path.parent.name != "metrics"]
    found = {(path.name, h) for path in files for h in headings if f'"{h}"' in path.read_text(encoding="utf-8")}
    assert found == set()


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("mae_hu", [10.0, 20.0, 30.0]),
        ("psnr_db", [30.0, 20.0, 10.0]),
        ("ssim", [0.9, 0.5, -0.1]),
        ("me_hu", [-1.0, 2.0, -30.0]),
        ("continuity", [1.01, 0.9, 1.2]),
        ("corrected_mse", [0.01, 0.04, 0.09]),
    ],
)
def test_best_first(key, values):
    row = metrics.metric(key)
    mixed = [values[k] for k in (1, 2, 0)]
    assert sorted(mixed, key=row.order) == sorted(mixed, key=row.distance) == values


@pytest.mark.parametrize(
    ("key", "value", "distance"),
    [
        ("mae_hu", 50.0, 50.0),
        ("psnr_db", 40.0, 0.01),
        ("ssim", 0.8, 0.2),
        ("me_hu", -5.0, 5.0),
        ("continuity", 0.7, 0.3),
        ("predecessor_mse", 0.25, 0.5),
        ("corrected_mse", 0.25, 0.5),
    ],
)
def test_distance_grows_with_the_error_itself(key, value, distance):
    assert metrics.metric(key).distance(value) == pytest.approx(distance)


@pytest.mark.parametrize(
    ("value", "key", "text"),
    [
        (12.345, "mae_hu", "12.3"),
        (12.345, "psnr_db", "12.35"),
        (0.12345, "ssim", "0.1235"),
        (None, "ssim", "–"),
        (float("nan"), "me_hu", "–"),
    ],
)
def test_one_formatter(value, key, text):
    assert metrics.metric(key).text(value) == text


def test_orders_follow_the_direction():
    records = [made_record(name, 100.0, me_hu=bias) for name, bias in (("far", 9.0), ("near", -1.0), ("mid", 4.0))]
    pairs = evaluation.pairwise_table(records, "me_hu")
    assert list(zip(pairs["a"], pairs["b"], strict=True)) == [("near", "mid"), ("near", "far"), ("mid", "far")]
    assert list(evaluation.centre_table(records, "me_hu")["name"])[::3] == ["near", "mid", "far"]
    left_out = evaluation.leave_out_table(records, "me_hu")
    assert set(zip(left_out["name"], left_out["rank"], strict=True)) == {("near", 1), ("mid", 2), ("far", 3)}


def runs_of(tmp_path, a: list[float], b: list[float], key: str):
    for run, values in (("a", a), ("b", b)):
        one = made_record("mk1", 100.0)
        for patient, value in zip(one["patients"], values, strict=True):
            patient[key] = value
        write_metrics(tmp_path / run / "metrics", one)
    return compare_runs(tmp_path / "a", tmp_path / "b", (key,))


@pytest.mark.parametrize(
    ("key", "a", "b", "word"),
    [
        ("me_hu", [-9.0, -9.5, -8.5], [2.0, 2.5, 1.5], "b is better"),
        ("me_hu", [2.0, 2.5, 1.5], [-9.0, -9.5, -8.5], "b is worse"),
        ("continuity", [0.8, 0.81, 0.79], [1.1, 1.11, 1.09], "b is better"),
        ("continuity", [1.1, 1.11, 1.09], [0.8, 0.81, 0.79], "b is worse"),
        ("ssim", [0.8, 0.81, 0.79], [0.9, 0.91, 0.89], "b is better"),
        ("mae_hu", [80.0, 81.0, 79.0], [90.0, 91.0, 89.0], "b is worse"),
        ("shift_mm", [1.0, 1.1, 0.9], [2.0, 2.1, 1.9], "differs"),
    ],
)
def test_better_and_worse_follow_the_direction(tmp_path, key, a, b, word):
    assert runs_of(tmp_path, a, b, key).changes["verdict"][0].startswith(word)


def cards_on(page: str) -> list[str]:
    section = page.split('id="definitions"')[1]
    return re.findall(r"</b> <code>(\w+)</code></summary>", section)


def columns_on(page: str, section: str) -> list[str]:
    table = page.split(f'<section id="{section}"')[1].split("</thead>")[0]
    return re.findall(r'class="card" data-metric="(\w+)"', table)


def shows_the_table(tmp_path) -> None:
    """Compare every place with the table."""
    data, leading, panel = page_data(3, 2, 24), list(metrics.keys("leaderboard")), list(metrics.keys("clinical"))
    one = data.records[0]
    assert list(one["summary"]["all"]) == list(one["cards"]) == list(metrics.recorded())
    path, csv = write_metrics(tmp_path / "metrics", one)
    assert list(json.loads(path.read_text())["summary"]["all"]) == list(metrics.recorded())
    assert [c for c in pd.read_csv(csv).columns if c in metrics.TABLE] == list(metrics.recorded())
    assert list(pd.read_csv(tmp_path / "metrics" / "cards.csv")["name"]) == list(metrics.TABLE)
    page = render(data)
    assert cards_on(page) == list(metrics.TABLE)
    assert columns_on(page, "leaderboard") == leading
    assert columns_on(page, "clinical") == ["mae_hu", *panel]
    assert [c for c in panel_table(data.records) if c in metrics.TABLE] == ["mae_hu", *panel]
    csv, markdown_file = write_leaderboard(tmp_path, data.board, "demo")
    assert [c for c in pd.read_csv(csv).columns if c in metrics.TABLE] == leading
    named = re.findall(r"^- \*\*(.+?)\*\*", markdown_file.read_text(), flags=re.M)
    assert named == [metrics.heading(key) for key in leading]
    assert [h for h in text_table(data.board).splitlines()[0].split("  ") if h.strip() in named]
    summary = summary_table([one])
    assert list(summary["metric"][: len(metrics.recorded())]) == list(metrics.recorded())
    assert list(data.blindness["metric"]) == list(metrics.keys("controls"))
    changes = compare_runs(tmp_path, tmp_path).changes
    assert list(changes["metric"]) == list(metrics.keys("compare"))
    assert list(cards_of(ScoreOptions(clinical=True))) == [*metrics.keys("synthrad2023"), *panel]


def test_every_place_shows_exactly_the_tables_metrics_in_order(tmp_path):
    shows_the_table(tmp_path)


def blocks_of_the_howto() -> list[str]:
    text = (ROOT / "docs" / "howto" / "metric.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^   ```python\n(.*?)^   ```", text, flags=re.M | re.S)
    return [re.sub(r"^   ", "", block, flags=re.M) for block in blocks]


@pytest.fixture
def nrmse(monkeypatch) -> metrics.Metric:
    """The metric of docs/howto/metric.md, added as its text says."""
    function, row = blocks_of_the_howto()
    namespace = dict(vars(synthrad))
    exec(function, namespace)
    added = eval(row, namespace)
    monkeypatch.setitem(metrics.TABLE, added.key, added)
    return added


def test_a_new_metric_is_one_row(nrmse, tmp_path):
    shows_the_table(tmp_path)
    assert nrmse.key in metrics.recorded()
    assert f"| `{nrmse.key}` | {nrmse.heading} |" in markdown()
    ct = np.random.default_rng(0).normal(0, 100, (8, 9, 10))
    found = metrics.values([nrmse.key], metrics.Case(ct, ct + 50, np.ones_like(ct)))
    assert found["nrmse"] == pytest.approx(50 / ct.std(), rel=1e-5)
    assert "NRMSE" in comparison_text(compare_runs(tmp_path, tmp_path))


def test_a_figure_draws_what_stands_in_its_panel(nrmse, monkeypatch):
    records = page_data(3, 2, 24).records
    dotted = dataclasses.replace(nrmse, panels=(*nrmse.panels, "dots"))
    monkeypatch.setitem(metrics.TABLE, nrmse.key, dotted)
    titles = [axis.get_title().replace("\n", " ") for axis in figures.clinical_figure(records, label="demo").axes]
    assert titles[-3:] == [metrics.metric(key).title for key in metrics.keys("dots")]
    assert titles[-1] == nrmse.title


def test_a_record_of_before_lacks_the_metric_and_says_so(tmp_path, request):
    write_metrics(tmp_path / "metrics", made_record("mk1", 100.0))
    new = request.getfixturevalue("nrmse")
    old = read_record(tmp_path / "metrics", "mk1")
    assert old["lacks"] == [new.key]
    assert not evaluation.is_current(old)
    assert old["summary"]["all"][new.key] == {**dict.fromkeys(("mean", "sd", "median", "low", "high")), "n": 0}
    records = [old, made_record("mk2", 110.0), made_record("baseline_a", 200.0, "baseline")]
    board = evaluation.leaderboard(records).set_index("name")
    assert pd.isna(board.loc["mk1", new.key])
    assert board.loc["mk2", new.key] > 0
    assert remarks(records, [new.key]) == [
        "Absent: NRMSE of all 3 patients (mk1): not computed by the version that scored it; evaluate again."
    ]
    data = dataclasses.replace(page_data(3, 2, 24), records=records, board=board.reset_index())
    assert 'data-metric="nrmse" data-name="mk1">–</td>' in render(data)
    changes = compare_runs(tmp_path, tmp_path, (new.key, "mae_hu")).changes
    assert list(changes["verdict"]) == ["no value in a and b", "the same"]
    assert evaluation.is_current(records[1])

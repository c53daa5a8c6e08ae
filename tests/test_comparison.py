"""Tables of intervals and tests, and two runs side by side."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from mrict_core import evaluation, metrics
from mrict_core.cli import app
from mrict_core.errors import MrictError
from mrict_core.evaluation.compare import _verdict, compare_runs, read_run
from mrict_core.metrics import statistics
from mrict_core.reporting.text_tables import comparison_text

CONTEXT = {
    "data": "here",
    "region": "brain",
    "profile": "demo",
    "test_data_hash": "t1",
    "code_hash": "c1",
    "versions": {"torch": "2"},
}


def record(name: str, values: list[float], kind: str = "variant", **context: object) -> dict:
    rows = [
        dict.fromkeys(metrics.recorded(), 0.5)
        | {"patient": f"1B{'ABC'[k % 3]}{k:03d}", "centre": "ABC"[k % 3], "n_slices": 9, "n_voxels": 5000, "mae_hu": v}
        | {"n_air": 1, "n_soft": 1, "n_bone": 1, "ssim_dimensionality": "3D", "flags": ""}
        for k, v in enumerate(values)
    ]
    scores = evaluation.Scores(pd.DataFrame(rows, columns=list(evaluation.columns())), {})
    return evaluation.metrics_record(name, scores, label="demo", kind=kind, context=CONTEXT | context)


def test_pairs_by_hand():
    good = [70.0, 80, 90, 100, 110, 120, 130, 140, 150]
    worse = [v + 10 + k for k, v in enumerate(good)]
    table = evaluation.pairwise_table([record("bad", worse), record("good", good), record("same", good[::-1])])
    assert list(zip(table["a"], table["b"], strict=True)) == [("good", "same"), ("good", "bad"), ("same", "bad")]
    first = table.iloc[1]
    assert first["mean_difference_hu"] == pytest.approx(-14.0)
    assert first["low_hu"] < -14 < first["high_hu"] < 0
    assert first["p"] == statistics.smallest_p(9)
    assert table["p_holm"].tolist() == pytest.approx(statistics.holm(table["p"].to_numpy()).tolist())
    assert first["verdict"] == "different"
    assert table.iloc[0]["verdict"] == "no difference shown"
    assert (table["n"] == 9).all()


def test_few_patients_cannot_tell_and_the_table_says_so():
    table = evaluation.pairwise_table(
        [record("a", [1.0, 2, 3]), record("b", [101.0, 103, 105]), record("c", [7.0, 9, 8, 4])]
    )
    assert len(table) == 1  # c was scored on other patients
    assert table["p"][0] == 0.25
    assert table["verdict"][0] == "undecidable with 3 patients and 1 comparison"
    assert evaluation.pairwise_table([record("a", [1.0])]).empty


def test_centres_and_leaving_one_out_of_the_scoring():
    table = evaluation.centre_table([record("x", [10.0, 20, 30, 14])])
    assert table["centre"].tolist() == ["A", "B", "C"]
    assert table["mean_hu"].tolist() == [12.0, 20.0, 30.0]
    assert table["n"].tolist() == [2, 1, 1]
    assert np.isnan(table["low_hu"][1])
    assert 10 <= table["low_hu"][0] <= 12 <= table["high_hu"][0] <= 14
    out = evaluation.leave_out_table([record("x", [10.0, 20, 30, 14]), record("y", [90.0, 1, 1, 90])])
    found = out.set_index(["left_out", "name"])
    assert found.loc[("A", "x"), "mean_hu"] == 25.0
    assert found.loc[("A", "y"), "rank"] == 1
    assert found.loc[("B", "x"), "rank"] == 1
    assert found.loc[("C", "y"), "n"] == 3


def test_the_leaderboard_carries_interval_panel_and_flags():
    flagged = record("x", [10.0, 20, 30])
    flagged["patients"][1]["flags"] = "sCT is all air inside the mask"
    board = evaluation.leaderboard([flagged])
    assert board["mae_hu_low"][0] < 20 < board["mae_hu_high"][0]
    assert "all air" in board["note"][0]
    assert set(metrics.keys("leaderboard")) <= set(board.columns)


def write(folder, *records: dict) -> None:
    for one in records:
        evaluation.write_metrics(folder / "metrics", one)


def test_two_runs_on_the_same_patients_are_compared_in_pairs(tmp_path):
    values = [70.0, 80, 90, 100, 110, 120, 130, 140, 150]
    write(tmp_path / "a", record("mk1", values), record("mk2", values), record("old", values))
    better = [v - 12 - k % 2 for k, v in enumerate(values)]
    write(
        tmp_path / "b",
        record("mk1", better, code_hash="c2"),
        record("mk2", values, code_hash="c2"),
        record("new", values),
    )
    found = compare_runs(tmp_path / "a", tmp_path / "b", ("mae_hu", "psnr_db"))
    changes = found.changes.set_index(["name", "metric"])
    row = changes.loc[("mk1", "mae_hu")]
    assert row["difference"] == pytest.approx(np.mean(better) - np.mean(values))
    assert row["low"] <= row["difference"] <= row["high"] < 0
    assert row["n"] == 9
    assert row["p"] == statistics.smallest_p(9)
    assert row["verdict"] == "b is better"
    assert changes.loc[("mk2", "mae_hu"), "verdict"] == "the same"
    assert (found.only_a, found.only_b) == (("old",), ("new",))
    assert found.context.to_dict(orient="records") == [{"name": "all", "fact": "code_hash", "a": "c1", "b": "c2"}]


def test_only_patients_of_both_runs_count_and_the_others_are_named(tmp_path):
    write(tmp_path / "a", record("mk1", [100.0, 110, 120, 130, 140]))
    b = record("mk1", [90.0, 101, 108, 500, 600, 700])
    b["patients"][3]["n_bone"] = 77  # of the same name, but another CT
    b["patients"][4]["patient"] = "1BX999"
    write(tmp_path / "b", b)
    found = compare_runs(tmp_path / "a", tmp_path / "b", ("mae_hu",))
    row, patients = found.changes.iloc[0], found.patients.iloc[0]
    assert (row["n"], row["mean_a"], row["difference"]) == (3, 110.0, pytest.approx(-31 / 3))
    assert patients["common"] == ["1BA000", "1BB001", "1BC002"]
    assert (patients["only_a"], patients["only_b"]) == (["1BB004"], ["1BC005", "1BX999"])
    assert patients["other_images"] == ["1BA003"]
    text = comparison_text(found)
    for part in (
        "Patients of all: 3 in both runs; 1 left out, only in a: 1BB004; 2 left out, only in b: 1BC005, 1BX999",
        "1 left out, same name but different images: 1BA003",
    ):
        assert part in text


def renamed(one: dict) -> dict:
    for patient in one["patients"]:
        patient["patient"] = f"other-{patient['patient']}"
    return one


def rescanned(one: dict) -> dict:
    for patient in one["patients"]:
        patient["n_voxels"] += 1
    return one


@pytest.mark.parametrize(("change", "said"), [(renamed, "no patient in common;"), (rescanned, "have different images")])
def test_no_patient_in_common_is_an_error(tmp_path, change, said):
    write(tmp_path / "a", record("mk1", [1.0, 2]))
    write(tmp_path / "b", change(record("mk1", [1.0, 2])))
    with pytest.raises(MrictError, match=said):
        compare_runs(tmp_path / "a", tmp_path / "b")
    assert CliRunner().invoke(app, ["compare", str(tmp_path / "a"), str(tmp_path / "b")]).exit_code


def test_three_patients_are_told_apart_by_the_interval_alone(tmp_path):
    write(tmp_path / "a", record("mk1", [100.0, 110, 120]))
    write(tmp_path / "b", record("mk1", [90.0, 101, 108]))
    row = compare_runs(tmp_path / "a", tmp_path / "b", ("mae_hu",)).changes.iloc[0]
    assert row["verdict"] == "b is better by the interval; too few patients for the test"


@pytest.mark.parametrize(
    ("n", "comparisons", "said"),
    [
        (3, 1, "b is better by the interval; too few patients for the test"),
        (20, 1, "b is better by the interval; not by the test"),
        (7, 1, "b is better by the interval; not by the test"),
        (7, 100, "b is better by the interval; too few patients for the test"),
    ],
)
def test_few_patients_are_blamed_only_where_they_are_the_cause(n, comparisons, said):
    row = {"verdict": "", "metric": "mae_hu", "n": n, "mean_a": 9.0, "mean_b": 8.0, "difference": -1.0}
    assert _verdict(row | {"low": -2.0, "high": -0.1, "p_holm": 0.3}, comparisons) == said


def test_hashes_that_differ_everywhere_take_one_line(tmp_path):
    for run in "ab":
        write(tmp_path / run, *(record(f"mk{k}", [1.0, 2, 3], checkpoint_hash=f"{run}{k}") for k in range(5)))
    found = compare_runs(tmp_path / "a", tmp_path / "b", ("mae_hu",))
    assert len(found.context) == 5
    text = comparison_text(found)
    assert "5 records  checkpoint_hash  differ  differ" in text


def test_the_command_prints_text_and_json(tmp_path):
    write(tmp_path / "a", record("mk1", [100.0, 110, 120]), record("x", [1.0, 2, 3]))
    write(tmp_path / "b", record("mk1", [90.0, 101, 108], code_hash="c2"))
    words = ["compare", str(tmp_path / "a"), str(tmp_path / "b")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    for part in ("code_hash", "MAE (HU)", "-10.3", "b is better by the interval", "Only in a: x"):
        assert part in done.output
    found = json.loads(CliRunner().invoke(app, [*words, "--json", "--metric", "mae_hu"]).output)
    assert [row["metric"] for row in found["changes"]] == ["mae_hu"]
    assert found["only_a"] == ["x"]
    assert found["changes"][0]["difference"] == pytest.approx(-31 / 3)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda root: None, "b: no such folder"),
        (lambda root: (root / "b").mkdir(), "no metrics"),
        (lambda root: write(root / "b", record("other", [1.0])), "no variant in common: mk1 against other"),
    ],
)
def test_what_cannot_be_compared(tmp_path, prepare, message):
    write(tmp_path / "a", record("mk1", [1.0, 2]))
    prepare(tmp_path)
    with pytest.raises(MrictError, match=message):
        compare_runs(tmp_path / "a", tmp_path / "b")


def test_an_unknown_metric_and_an_older_record(tmp_path):
    older = record("mk1", [1.0, 2])
    for patient in older["patients"]:
        patient.pop("wepl_mae_mm")
    write(tmp_path / "a", record("mk1", [1.0, 2]))
    path = tmp_path / "b" / "metrics" / "mk1.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(older))
    assert list(read_run(tmp_path / "b" / "metrics")) == ["mk1"]  # the metrics folder itself will do
    found = compare_runs(tmp_path / "a", tmp_path / "b")
    row = found.changes.set_index("metric").loc["wepl_mae_mm"]
    assert (row["n"], row["verdict"]) == (0, "no value in b")
    assert "no value in b" in comparison_text(found)
    with pytest.raises(MrictError, match="did you mean 'mae_hu'"):
        compare_runs(tmp_path / "a", tmp_path / "b", ("mae",))
